package power

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// private is the socket on which systemd itself speaks D-Bus, with root only: it is
// there before a bus daemon is, and when there is none.
const private = "/run/systemd/private"

// Manager asks systemd by D-Bus (org.freedesktop.systemd1(5)). The zero value asks the
// one that runs here.
type Manager struct {
	Socket string // empty: systemd's private one
}

// answerLimit bounds the wait for an answer of systemd's.
const answerLimit = 10 * time.Second

// Reboot asks for a reboot; force skips the services.
func (m Manager) Reboot(ctx context.Context, force bool) error {
	return m.ask(ctx, "reboot.target", "Reboot", force)
}

// Shutdown asks for power off; force skips the services.
func (m Manager) Shutdown(ctx context.Context, force bool) error {
	return m.ask(ctx, "poweroff.target", "PowerOff", force)
}

// ask starts a target, in whose way no other job may come. By force it calls a method of
// the manager, which go-systemd does not have.
func (m Manager) ask(ctx context.Context, target, method string, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if force {
		c, err := m.dial(ctx)
		if err != nil {
			return fmt.Errorf("ask systemd for %s: %w", method, err)
		}
		defer c.Close()
		o := c.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
		if err := o.CallWithContext(ctx, "org.freedesktop.systemd1.Manager."+method, 0).Err; err != nil {
			return fmt.Errorf("ask systemd for %s: %w", method, err)
		}
		return nil
	}
	c, err := m.connect(ctx)
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w", target, err)
	}
	defer c.Close()
	if _, err := c.StartUnitContext(ctx, target, "replace-irreversibly", nil); err != nil {
		return fmt.Errorf("ask systemd for %s: %w", target, err)
	}
	return nil
}

// Started says when systemd started, in seconds of CLOCK_MONOTONIC.
func (m Manager) Started(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	const property = "UserspaceTimestampMonotonic" // in microseconds
	c, err := m.connect(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for %s: %w", property, err)
	}
	defer c.Close()
	text, err := c.GetManagerProperty(property)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for %s: %w", property, err)
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "@t "), 10, 53)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for %s: %w", property, err)
	}
	return float64(n) / 1e6, nil
}

// connect is a connection for units and properties, until ctx ends.
func (m Manager) connect(ctx context.Context) (*systemd.Conn, error) {
	return systemd.NewConnection(func() (*dbus.Conn, error) { return m.dial(ctx) })
}

// dial connects without Hello, which is for a bus daemon.
func (m Manager) dial(ctx context.Context) (*dbus.Conn, error) {
	socket := m.Socket
	if socket == "" {
		socket = private
	}
	c, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(socket), dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
