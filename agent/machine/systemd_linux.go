package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"nereid/api"
)

// answerLimit bounds the wait for an answer of systemd's.
const answerLimit = 20 * time.Second

// maxNews is how many changes of units may wait to be looked at; with more, all units
// are listed again.
const maxNews = 8192

// Systemd are the units of the systemd that runs here, asked by D-Bus on the socket that
// it has for root. Its zero value is ready.
type Systemd struct {
	mu   sync.Mutex
	conn *systemd.Conn
}

// connection is one that works.
func (s *Systemd) connection(ctx context.Context) (*systemd.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.Connected() {
		return s.conn, nil
	}
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	// It outlives the call that made it.
	c, err := systemd.NewSystemdConnectionContext(context.WithoutCancel(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	s.conn = c
	return c, nil
}

// Close ends the connection.
func (s *Systemd) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

func ofSystemd(list []property) []systemd.Property {
	all := make([]systemd.Property, 0, len(list))
	for _, p := range list {
		all = append(all, systemd.Property{Name: p.Name, Value: dbus.MakeVariant(variant(p.Value))})
	}
	return all
}

// variant gives a value the form that D-Bus makes a structure of.
func variant(v any) any {
	if pairs, ok := v.([][2]string); ok {
		type pair struct{ Name, Value string }
		var all []pair
		for _, p := range pairs {
			all = append(all, pair{p[0], p[1]})
		}
		return all
	}
	return v
}

// Start implements Units.
func (s *Systemd) Start(ctx context.Context, name, dir string, l api.Limits) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit+answerLimit)
	defer cancel()
	b, uuid, ok := unitOf(name)
	if !ok {
		return fmt.Errorf("start unit %s: it is no instance's", name)
	}
	if b.ready != nil {
		if err := b.ready(ctx, dir); err != nil {
			return err
		}
	}
	list, err := b.properties(uuid, dir, l)
	if err != nil {
		return err
	}
	c, err := s.connection(ctx)
	if err != nil {
		return err
	}
	var aux []systemd.PropertyCollection
	if b.beside != nil {
		other, list, err := b.beside(uuid, dir)
		if err != nil {
			return err
		}
		if other != "" {
			if err := stopped(ctx, c, other); err != nil { // that of the run before
				return err
			}
			aux = append(aux, systemd.PropertyCollection{Name: other, Properties: ofSystemd(list)})
		}
	}
	done := make(chan string, 1)
	if _, err := c.StartTransientUnitAux(ctx, name, "fail", ofSystemd(list), aux, done); err != nil {
		return fmt.Errorf("start unit %s: %w", name, err)
	}
	return started(ctx, name, done)
}

// stopped stops a unit, and returns when it has ended; one that is not there is no error.
func stopped(ctx context.Context, c *systemd.Conn, name string) error {
	done := make(chan string, 1)
	if _, err := c.StopUnitContext(ctx, name, "replace", done); noUnit(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("stop unit %s: %w", name, err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop unit %s: %w", name, ctx.Err())
	}
}

// started waits until a unit's start has ended well.
func started(ctx context.Context, name string, done <-chan string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("start unit %s: %s; see its log (journalctl -u %s)", name, result, name)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start unit %s: %w", name, ctx.Err())
	}
}

// Run starts a unit that is installed, and returns when it runs; one that runs stays.
func (s *Systemd) Run(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	c, err := s.connection(ctx)
	if err != nil {
		return err
	}
	done := make(chan string, 1)
	if _, err := c.StartUnitContext(ctx, name, "replace", done); err != nil {
		return fmt.Errorf("start unit %s: %w", name, err)
	}
	return started(ctx, name, done)
}

// Stop implements Units.
func (s *Systemd) Stop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	c, err := s.connection(ctx)
	if err != nil {
		return err
	}
	if _, err := c.StopUnitContext(ctx, name, "replace", nil); err != nil && !noUnit(err) {
		return fmt.Errorf("stop unit %s: %w", name, err)
	}
	return nil
}

// Signal implements Units.
func (s *Systemd) Signal(ctx context.Context, name, signal string) error {
	number, err := signalNumber(signal)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if number == int32(unix.SIGKILL) {
		c, err := s.connection(ctx)
		if err != nil {
			return err
		}
		if err := c.KillUnitWithTarget(ctx, name, systemd.All, number); err != nil && !noUnit(err) {
			return fmt.Errorf("kill unit %s: %w", name, err)
		}
		return nil
	}
	_, uuid, _ := unitOf(name)
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("ask systemd-machined: %w", err)
	}
	defer bus.Close()
	o := bus.Object("org.freedesktop.machine1", "/org/freedesktop/machine1")
	if err := o.CallWithContext(ctx, "org.freedesktop.machine1.Manager.KillMachine", 0, uuid, "leader", number).Err; err != nil {
		return fmt.Errorf("send %s to machine %s: %w", signal, uuid, err)
	}
	return nil
}

// signalNumber is a signal's by its name, as SIGTERM or SIGRTMIN+3.
func signalNumber(name string) (int32, error) {
	if n := unix.SignalNum(name); n != 0 {
		return int32(n), nil
	}
	if n, err := strconv.ParseUint(name, 10, 7); err == nil && n > 0 && n < 65 {
		return int32(n), nil
	}
	rest, ok := strings.CutPrefix(name, "SIGRTMIN")
	if n, err := strconv.ParseUint(strings.TrimPrefix(rest, "+"), 10, 6); ok && (rest == "" || err == nil) && n <= 30 {
		return 34 + int32(n), nil // glibc keeps the first two to itself
	}
	return 0, fmt.Errorf("there is no signal %q", name)
}

// Limit implements Units.
func (s *Systemd) Limit(ctx context.Context, name string, l api.Limits) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	b, _, ok := unitOf(name)
	if !ok {
		return fmt.Errorf("set limits of unit %s: it is no instance's", name)
	}
	c, err := s.connection(ctx)
	if err != nil {
		return err
	}
	if err := c.SetUnitPropertiesContext(ctx, name, true, ofSystemd(b.bounds(l))...); err != nil {
		return fmt.Errorf("set limits of unit %s: %w", name, err)
	}
	return nil
}

// Reset implements Units.
func (s *Systemd) Reset(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	c, err := s.connection(ctx)
	if err != nil {
		return "", err
	}
	why := ""
	if p, err := c.GetServicePropertyContext(ctx, name, "Result"); err == nil {
		why = fmt.Sprint("result ", p.Value.Value())
		if code, err := c.GetServicePropertyContext(ctx, name, "ExecMainStatus"); err == nil {
			why += fmt.Sprint(", status ", code.Value.Value())
		}
	}
	if err := c.ResetFailedUnitContext(ctx, name); err != nil && !noUnit(err) {
		return why, fmt.Errorf("reset unit %s: %w", name, err)
	}
	return why, nil
}

// noUnit reports whether an error says that there is no such unit.
func noUnit(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// Watch tells of all units of zones, and then of each change, until ctx ends. A
// connection that broke is made again, and all are told of once more.
func (s *Systemd) Watch(ctx context.Context, all func(map[string]State), one func(name, state string, since time.Time)) error {
	for ctx.Err() == nil {
		err := s.watch(ctx, all, one)
		if ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		if err != nil && errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("watch units: %w", err)
		}
	}
	return nil
}

func (s *Systemd) watch(ctx context.Context, all func(map[string]State), one func(name, state string, since time.Time)) error {
	c, err := systemd.NewSystemdConnectionContext(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	news, lost := make(chan *systemd.PropertiesUpdate, maxNews), make(chan error, 1)
	c.SetPropertiesSubscriber(news, lost)
	if err := c.Subscribe(); err != nil {
		return err
	}
	list := func() error {
		states, err := listInstances(ctx, c)
		if err == nil {
			all(states)
		}
		return err
	}
	if err := list(); err != nil {
		return err
	}
	alive := time.NewTicker(answerLimit) // systemd may have been executed anew
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			if err := list(); err != nil {
				return err
			}
		case <-alive.C:
			if !c.Connected() {
				return errors.New("systemd closed the connection")
			}
		case u := <-news:
			state, ok := u.Changed["ActiveState"].Value().(string)
			if _, _, is := unitOf(u.UnitName); !ok || !is {
				continue
			}
			since := time.Now()
			if us, ok := u.Changed["ActiveEnterTimestamp"].Value().(uint64); ok && us > 0 {
				since = time.UnixMicro(int64(us))
			}
			one(u.UnitName, state, since)
		}
	}
}

// listInstances are the units of instances that there are.
func listInstances(ctx context.Context, c *systemd.Conn) (map[string]State, error) {
	var patterns []string
	for _, b := range brands() {
		patterns = append(patterns, b.unit("*"))
	}
	units, err := c.ListUnitsByPatternsContext(ctx, nil, patterns)
	if err != nil {
		return nil, fmt.Errorf("list units: %w", err)
	}
	states := make(map[string]State, len(units))
	for _, u := range units {
		state := State{Active: u.ActiveState}
		if u.ActiveState == unitRuns { // once, at a start of the agent
			if p, err := c.GetUnitPropertyContext(ctx, u.Name, "ActiveEnterTimestamp"); err == nil {
				if us, ok := p.Value.Value().(uint64); ok {
					state.Since = time.UnixMicro(int64(us))
				}
			}
		}
		states[u.Name] = state
	}
	return states, nil
}
