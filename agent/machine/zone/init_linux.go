package zone

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nereid/api"
)

// Init is a zone's first process: it sets names, addresses, routes and resolvers from
// what the agent left, and becomes the image's init. It waits for nobody. What it cannot
// set it says on the console, and goes on: a zone that runs can be looked into.
func Init() error {
	small()
	if len(os.Args) == 2 && os.Args[1] == Again {
		return bringUpToDate()
	}
	var in Inside
	if err := read(filepath.Join(Inner, nowFile), &in); err != nil {
		say("read what the agent left", err)
	}
	server, err := ask(filepath.Join(Inner, firstSocket))
	say("set up network", err)
	say("set up network", in.network(Inside{}))
	_, err = os.Stat("/etc/.nereid-started")
	first := errors.Is(err, os.ErrNotExist)
	say("write files", in.write("/", first))
	if first {
		say("note the first start", os.WriteFile("/etc/.nereid-started", nil, 0o600))
	}
	if in.Hostname != "" {
		say("set hostname", unix.Sethostname([]byte(in.Hostname)))
	}
	args := in.Run.Init
	if len(args) > 0 && !IsInit(args[0]) {
		return in.run(server)
	}
	if len(args) == 0 {
		path, _, err := FindInit("/")
		if err != nil {
			return err
		}
		args = []string{path}
	}
	if err := ready(server); err != nil {
		return err
	}
	if err := unix.Exec(args[0], args, append(os.Environ(), in.Run.Env...)); err != nil {
		return fmt.Errorf("execute %s: %w", args[0], err)
	}
	return nil
}

// bringUpToDate brings addresses, routes, resolvers and names of hosts of the zone that it
// runs in from what was set to what the agent left last. Nothing else of the zone changes,
// and it may be done twice.
func bringUpToDate() error {
	var was, in Inside
	if err := read(filepath.Join(Inner, insideFile), &in); err != nil {
		return fmt.Errorf("read what the agent left: %w", err)
	}
	if err := read(filepath.Join(Inner, nowFile), &was); err != nil {
		return fmt.Errorf("read what was set: %w", err)
	}
	var names []file
	for _, f := range in.files() {
		if f.path == hostsFile || f.path == resolvFile {
			names = append(names, f)
		}
	}
	return errors.Join(in.network(was), write("/", names, false))
}

// ready has it noted that the zone is set up, and tells systemd-nspawn, and by it the
// zone's unit: its init is all that is to come (sd_notify(3)). A zone of which that cannot
// be noted does not start.
func ready(s *server) error {
	if err := s.up(); err != nil {
		return err
	}
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err == nil {
		_, err = c.Write([]byte("READY=1"))
		c.Close()
	}
	say("tell that it is set up", err)
	return nil
}

func say(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "nereid: %s: %s\r\n", what, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// network sets the NICs up. What was set on them before, and is not wanted, goes.
func (in Inside) network(was Inside) error {
	var errs []error
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("lo: %w", err))
	}
	for _, n := range in.NICs {
		l, err := netlink.LinkByName(n.Interface)
		if err == nil {
			err = settle(nil, l, n.MTU, wishesOf(n), was.wishes(n.Interface))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n.Interface, err))
		}
	}
	return errors.Join(errs...)
}

// run runs the program of an image that is not an init, as a child: the first process
// of a zone gets only the signals that it handles, and has to reap. It ends as the
// program ends.
func (in Inside) run(server *server) error {
	w, err := find("/", in.Run.User)
	if err != nil {
		return err
	}
	env := environment(os.Environ(), in.Run, w.home)
	dir := in.Run.WorkingDir
	if dir == "" {
		dir = "/"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { // an image may name one that it has not
		return fmt.Errorf("working directory: %w", err)
	}
	path, err := lookup(in.Run.Init[0], env, dir)
	if err != nil {
		return err
	}
	// Programs open /dev/stdout anew, which is the console, as the user that they are.
	say("give the console to the image's user", os.Stdout.Chown(int(w.uid), int(w.gid)))
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	child, err := os.StartProcess(path, in.Run.Init, &os.ProcAttr{
		Dir: dir, Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: w.uid, Gid: w.gid, Groups: w.groups}},
	})
	if err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	if err := ready(server); err != nil {
		return err
	}
	for s := range signals {
		if s != unix.SIGCHLD {
			if s != unix.SIGURG { // the runtime's own
				_ = child.Signal(s) // it may have ended
			}
			continue
		}
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
			if pid == child.Pid {
				os.Exit(exitCode(status))
			}
		}
	}
	return nil
}

// exitCode is a program's as a shell gives it, but never the one by which systemd-nspawn
// asks for a reboot.
func exitCode(s unix.WaitStatus) int {
	code := s.ExitStatus()
	if s.Signaled() {
		code = 128 + int(s.Signal())
	}
	if code == 133 {
		return 1
	}
	return code
}

// address is one of a NIC.
type address struct {
	prefix  netip.Prefix
	gateway netip.Addr
	routes  map[netip.Prefix]netip.Addr
}

// nicAddresses are a NIC's as the head node gave them. What is no address it left out
// long before.
func nicAddresses(n api.InstanceNIC) (all []address) {
	for _, a := range n.Addresses {
		p, err := netip.ParsePrefix(a.Address)
		if err != nil {
			say("address "+a.Address, err)
			continue
		}
		w := address{prefix: p, routes: map[netip.Prefix]netip.Addr{}}
		if gw, err := netip.ParseAddr(a.Gateway); err == nil {
			w.gateway = gw
		}
		for dst, via := range a.Routes {
			to, err1 := netip.ParsePrefix(dst)
			by, err2 := netip.ParseAddr(via)
			if err := errors.Join(err1, err2); err != nil {
				say("route "+dst, err)
				continue
			}
			w.routes[to.Masked()] = by
		}
		all = append(all, w)
	}
	return all
}

// wishes are the addresses and routes of a NIC.
type wishes struct {
	addresses []netip.Prefix
	routes    map[netip.Prefix]netip.Addr // by destination
}

// wishesOf are a NIC's. Its gateways are the default routes where it is primary.
func wishesOf(n api.InstanceNIC) wishes {
	w := wishes{routes: map[netip.Prefix]netip.Addr{}}
	for _, a := range nicAddresses(n) {
		w.addresses = append(w.addresses, a.prefix)
		maps.Copy(w.routes, a.routes)
		if n.Primary && a.gateway.IsValid() {
			w.routes[defaultOf(a.gateway)] = a.gateway
		}
	}
	return w
}

// wishes are those of a NIC by its name; none when there is none.
func (in Inside) wishes(name string) wishes {
	for _, n := range in.NICs {
		if n.Interface == name {
			return wishesOf(n)
		}
	}
	return wishes{}
}

// defaultOf is the destination of a default route by a gateway.
func defaultOf(gw netip.Addr) netip.Prefix {
	if gw.Is6() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// settle makes a link what it is to be: what was set on it and is not wanted goes, and
// what is wanted is there. What the zone's own administrator set stays. h is nil for the
// namespace of the caller.
func settle(h *netlink.Handle, l netlink.Link, mtu int, want, was wishes) error {
	if h == nil {
		var err error
		if h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		defer h.Close()
	}
	if mtu > 0 && l.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	route := func(dst netip.Prefix, via netip.Addr) *netlink.Route {
		return &netlink.Route{LinkIndex: l.Attrs().Index, Dst: netOf(dst), Gw: via.AsSlice(), Protocol: unix.RTPROT_STATIC}
	}
	for dst, via := range was.routes {
		if _, stays := want.routes[dst]; stays {
			continue // and is replaced
		}
		if err := h.RouteDel(route(dst, via)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s via %s: %w", dst, via, err)
		}
	}
	for _, a := range was.addresses {
		if slices.Contains(want.addresses, a) {
			continue
		}
		if err := h.AddrDel(l, &netlink.Addr{IPNet: netOf(a)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", a, err)
		}
	}
	for _, a := range want.addresses {
		add := &netlink.Addr{IPNet: netOf(a)}
		if a.Addr().Is6() {
			add.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(l, add); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for dst, via := range want.routes {
		if err := h.RouteReplace(route(dst, via)); err != nil {
			return fmt.Errorf("add route %s via %s: %w", dst, via, err)
		}
	}
	return nil
}
