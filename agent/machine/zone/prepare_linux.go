package zone

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settleLimit bounds the wait for the device manager's look at a NIC.
const settleLimit = 40 * time.Second

// settleAgain is when the device manager is asked to look again, once: it may have been
// away. While it looks again the NIC counts as not known.
const settleAgain = 15 * time.Second

// Prepare makes ready what a start of the zone needs: what a crash left goes, and each
// NIC's end is there and known to the device manager, without which systemd-nspawn takes
// none. A NIC that a crash or the zone destroyed is made anew, in no bridge: the agent
// puts it into one, with its rules.
func Prepare(dir string) error {
	err := prepare(dir)
	if err != nil {
		return leaveReason(dir, err)
	}
	return nil
}

func prepare(dir string) error {
	h, err := Read(dir)
	if err != nil {
		return fmt.Errorf("prepare zone: %w", err)
	}
	if err := sweep(h.UUID); err != nil {
		return fmt.Errorf("prepare zone: %w", err)
	}
	for _, n := range h.NICs {
		if err := n.ready(); err != nil {
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

// ready makes a NIC's pair where it is not there, and waits until the device manager
// has seen the end that goes into the zone.
func (n NIC) ready() error {
	name := Peer(n.MAC)
	l, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		if err := n.make(); err != nil {
			return err
		}
		l, err = netlink.LinkByName(name)
	}
	if err != nil {
		return err
	}
	seen := filepath.Join("/run/udev/data", "n"+strconv.Itoa(l.Attrs().Index))
	event := filepath.Join("/sys/class/net", name, "uevent")
	for begun, asked := time.Now(), false; ; {
		data, err := os.ReadFile(seen)
		known := bytes.HasPrefix(data, []byte("I:")) || bytes.Contains(data, []byte("\nI:"))
		if err == nil && known && !bytes.Contains(data, []byte("ID_PROCESSING=1")) {
			return nil
		}
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if time.Since(begun) > settleLimit {
			return fmt.Errorf("the device manager did not look at %s within %v; is systemd-udevd there (systemctl status systemd-udevd)?", name, settleLimit)
		}
		if !asked && time.Since(begun) > settleAgain {
			asked = true
			if err := os.WriteFile(event, []byte("add"), 0); err != nil {
				return err
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// make makes a NIC's pair. Its end that stays has no alias, and is in no bridge: the
// agent takes it for one that was begun.
func (n NIC) make() error {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = Port(n.MAC), n.MTU
	v := netlink.NewVeth(a)
	v.PeerName, v.PeerHardwareAddr, v.PeerMTU = Peer(n.MAC), mac, uint32(n.MTU)
	return netlink.LinkAdd(v)
}
