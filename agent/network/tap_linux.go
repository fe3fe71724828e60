package network

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
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

// tapFlags are those of a tap, whose queues are told apart from those of others by nothing
// but that there may be several: one more lets the agent change what its QEMU has open.
const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE

// openTap opens a queue of a tap in the network namespace of this thread, and makes the tap
// that is not there (tuntap.rst).
func openTap(name string) (fd int, err error) {
	if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return 0, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(tapFlags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func makeTap(name string) error {
	fd, err := openTap(name)
	if err != nil {
		return fmt.Errorf("make tap %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep tap %s: %w", name, err)
	}
	return nil
}

// leftPrefix begins the name of a tap that goes as soon as its QEMU lets go of it.
const leftPrefix = "ng"

// dropTap removes a tap. One that a QEMU has open is out of every bridge and down when
// dropTap returns, has another name, and goes when it is closed: a guest may take its time
// to let go of a NIC, and QEMU would ask a tap that is gone for packets without a pause.
func (k *Kernel) dropTap(l netlink.Link) error {
	name := l.Attrs().Name
	if err := k.links.LinkSetDown(l); err != nil {
		return err
	}
	if err := k.links.LinkSetNoMaster(l); err != nil {
		return err
	}
	fd := 0
	err := within(k.ns, func() (err error) { fd, err = openTap(name); return err })
	if err != nil { // it is of one queue, which an agent before this one made
		return k.links.LinkDel(l)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		return fmt.Errorf("let tap %s go: %w", name, err)
	}
	if err := k.links.LinkSetAlias(l, prefix+string(classLeft)+" "+name); err != nil {
		return err
	}
	if k.links.LinkSetName(l, leftPrefix+strings.TrimPrefix(name, PortPrefix)) != nil { // one before it is left, too
		return k.links.LinkDel(l)
	}
	return nil
}
