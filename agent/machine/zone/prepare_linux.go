package zone

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// prepare makes ready what a start of the zone needs.
func prepare(dir string, h Host, rejoin func(mac string) error) error {
	if err := sweep(h.UUID); err != nil {
		return fmt.Errorf("prepare zone: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, upFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("prepare zone: %w", err)
	}
	for _, n := range h.NICs {
		if err := n.ready(rejoin); err != nil {
			return fmt.Errorf("prepare zone: NIC %s: %w", n.MAC, err)
		}
	}
	return nil
}

// sweep removes the mount that an nspawn left which was killed: with it the next start
// is refused.
func sweep(uuid string) error {
	path := filepath.Join("/run/systemd/nspawn/unix-export", uuid)
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// ready has a NIC's pair there and in its bridge, as far as rejoin can.
func (n NIC) ready(rejoin func(mac string) error) error {
	port, err := there(Port(n.MAC)) // first: who makes a pair makes both ends at once
	if err != nil {
		return err
	}
	waits, err := there(Peer(n.MAC))
	if err != nil {
		return err
	}
	if waits == nil && port != nil {
		// Its other end is in what is left of the zone that ran before.
		if err := netlink.LinkDel(port); err != nil && !notFound(err) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		port = nil
	}
	if port != nil && port.Attrs().MasterIndex != 0 {
		return nil
	}
	if err := rejoin(n.MAC); err != nil {
		fmt.Fprintln(os.Stderr, "nereid-zone:", err)
	}
	return nil
}

// there is a link; nil: it is not there.
func there(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if notFound(err) {
		return nil, nil
	}
	return l, err
}
