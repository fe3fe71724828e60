package network

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// connectTap makes a virtual machine's NIC: a tap that stays without its QEMU. Nobody owns
// it, so that only root may open it, who hands it to the machine's QEMU.
func (k *Kernel) connectTap(s Connect) error {
	host, err := k.links.LinkByName(s.Link.Name)
	if notThere(err) {
		if err = within(k.ns, func() error { return makeTap(s.Link.Name) }); err == nil {
			host, err = k.links.LinkByName(s.Link.Name)
		}
	}
	if err == nil && host.Attrs().MTU != s.Link.MTU {
		err = k.links.LinkSetMTU(host, s.Link.MTU)
	}
	if err != nil {
		return err
	}
	return k.links.LinkSetAlias(host, s.Link.Alias)
}

// makeTap makes a tap in the network namespace of this thread (tuntap.rst).
func makeTap(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make tap %s: open /dev/net/tun: %w", name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("make tap %s: %w", name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make tap %s: %w", name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep tap %s: %w", name, err)
	}
	return nil
}
