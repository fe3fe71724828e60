package stub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nereid/api"
)

// patience is how long a NIC may take until it is told as missing, and its link.
type patience struct{ nic, carrier time.Duration }

// configure waits for the NIC with a MAC and for its link, and gives it its
// address and route. hotplug is called with the modalias of each device that
// appears meanwhile, and with "" when some may have been missed.
func configure(ctx context.Context, n api.BootNetwork, console *Console, wait patience, hotplug func(context.Context, string) error) error {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return &final{err}
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo) // nothing here needs it
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := listenUevents(ctx)
	if err != nil {
		return fmt.Errorf("listen for devices: %w", err)
	}
	defer func() {
		cancel()
		events.close()
	}()
	links := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		return fmt.Errorf("listen for links: %w", err)
	}
	defer func() {
		close(done)
		for range links { // ends when the subscription has ended
		}
	}()
	if err := hotplug(ctx, ""); err != nil { // devices that came before the listening began
		return err
	}
	w := &nicWait{mac: mac, network: n, seen: map[string]string{}, timer: time.NewTimer(wait.nic), carrier: wait.carrier}
	defer w.timer.Stop()
	for {
		select {
		case u, ok := <-links:
			if !ok {
				return errors.New("the kernel's link events ended")
			}
			up, err := w.link(u.Link, console)
			if err != nil {
				return problem("The network could not be configured", err.Error(), "", err)
			}
			if up {
				return nil
			}
		case modalias := <-events.modalias:
			if err := hotplug(ctx, modalias); err != nil {
				return err
			}
		case <-w.timer.C:
			return w.missing()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// nicWait is a NIC that is waited for.
type nicWait struct {
	mac     net.HardwareAddr
	network api.BootNetwork
	seen    map[string]string // other NICs: name -> MAC
	name    string            // ours, once it is there
	index   int
	timer   *time.Timer
	carrier time.Duration
}

// link looks at one link and reports whether the network is ready.
func (w *nicWait) link(l netlink.Link, console *Console) (up bool, err error) {
	a := l.Attrs()
	if w.index == 0 {
		if a.Flags&net.FlagLoopback != 0 || !bytes.Equal(a.HardwareAddr, w.mac) && !bytes.Equal(a.PermHWAddr, w.mac) {
			if len(a.HardwareAddr) == 6 && a.Flags&net.FlagLoopback == 0 {
				w.seen[a.Name] = a.HardwareAddr.String()
			}
			return false, nil
		}
		w.name, w.index = a.Name, a.Index
		if err := w.address(l); err != nil {
			return false, err
		}
		w.timer.Reset(w.carrier)
	}
	if a.Index != w.index || a.RawFlags&unix.IFF_UP == 0 || a.RawFlags&unix.IFF_LOWER_UP == 0 {
		return false, nil
	}
	if gw := w.network.Gateway; gw.IsValid() {
		r := &netlink.Route{LinkIndex: w.index, Gw: gw.AsSlice()}
		if err := netlink.RouteReplace(r); err != nil {
			return false, fmt.Errorf("route by %s: %w", gw, err)
		}
	}
	console.Say("%s (%s) has a link and address %s.", w.name, w.mac, w.network.Address)
	return true, nil
}

// address puts the NIC up and gives it its address.
func (w *nicWait) address(l netlink.Link) error {
	p := w.network.Address
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if err := netlink.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("address %s on %s: %w", p, w.name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("%s up: %w", w.name, err)
	}
	return nil
}

// missing says what was waited for in vain.
func (w *nicWait) missing() error {
	if w.index != 0 {
		return problem("NIC "+w.name+" ("+w.mac.String()+") has no link", "its cable or the switch port is down, though the firmware booted from it", "look at both", nil)
	}
	why := "the kernel shows no NIC at all"
	if len(w.seen) > 0 {
		var list []string
		for name, mac := range w.seen {
			list = append(list, name+" "+mac)
		}
		why = "the kernel shows only " + strings.Join(list, ", ")
	}
	return problem("The NIC this server booted from ("+w.mac.String()+") did not appear", why,
		"its driver may be missing in the initrd, or its firmware file", nil)
}

// uevents are the devices that appear.
type uevents struct {
	modalias chan string // "" when some were missed
	file     *os.File
	ended    chan struct{}
}

// listenUevents listens for the kernel's uevents (NETLINK_KOBJECT_UEVENT, group 1).
func listenUevents(ctx context.Context) (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20) // what is missed is walked for
	u := &uevents{modalias: make(chan string, 64), file: os.NewFile(uintptr(fd), "uevents"), ended: make(chan struct{})}
	go u.read(ctx)
	return u, nil
}

func (u *uevents) read(ctx context.Context) {
	defer close(u.ended)
	buf := make([]byte, 16<<10)
	for {
		n, err := u.file.Read(buf)
		modalias, ok := "", true
		switch {
		case errors.Is(err, unix.ENOBUFS):
		case err != nil:
			return
		default:
			modalias, ok = parseUevent(buf[:n])
		}
		if !ok {
			continue
		}
		select {
		case u.modalias <- modalias:
		case <-ctx.Done():
			return
		}
	}
}

// close ends the listening and waits for its goroutine, which ctx has to end too
// when nobody takes its events.
func (u *uevents) close() {
	_ = u.file.Close()
	for {
		select {
		case <-u.modalias:
		case <-u.ended:
			return
		}
	}
}

// parseUevent returns the modalias of a device that was added. The message is
// "add@/devices/..." and KEY=VALUE strings, each ended by a zero byte.
func parseUevent(msg []byte) (modalias string, ok bool) {
	if !bytes.HasPrefix(msg, []byte("add@")) {
		return "", false
	}
	for kv := range bytes.SplitSeq(msg, []byte{0}) {
		if v, found := bytes.CutPrefix(kv, []byte("MODALIAS=")); found && len(v) > 0 {
			return string(v), true
		}
	}
	return "", false
}
