package vm

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// open opens a NIC's tap, which is there already, and what carries its packets.
func (n *NIC) open() error {
	if err := exists(n.Tap); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(n.Tap)
	for _, queues := range []uint16{unix.IFF_MULTI_QUEUE, 0} { // an agent before this one made taps of one queue
		if err == nil || errors.Is(err, unix.EINVAL) {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | queues)
			if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err == nil {
				break
			}
		}
	}
	if err != nil {
		closeFile(fd)
		return fmt.Errorf("take tap %s: %w", n.Tap, err)
	}
	n.FD = fd
	if !n.Vhost {
		return nil
	}
	if n.VhostFD, err = unix.Open("/dev/vhost-net", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		n.Vhost = false // QEMU carries them
	}
	return nil
}

// exists says that an interface is not there. TUNSETIFF would make it.
func exists(name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("look for tap %s: %w", name, err)
	}
	defer unix.Close(s)
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("look for tap %s: %w", name, err)
	}
	return nil
}

// open opens a disk for QEMU, once it has its name.
func (d *Disk) open(ctx context.Context) (fd int, err error) {
	s := Start{Machine: Machine{Disks: []Disk{*d}}}
	if _, err := s.disks(ctx); err != nil {
		return 0, err
	}
	d.Block = s.Disks[0].Block
	if fd, err = unix.Open(d.Path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0); err != nil {
		return 0, fmt.Errorf("open %s: %w", d.Path, err)
	}
	return fd, nil
}

func closeFile(fd int) { _ = unix.Close(fd) }
