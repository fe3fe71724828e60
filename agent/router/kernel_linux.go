package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// mark begins the alias of all that is made here.
	mark = "nereid:"
	// protocol is the origin of our routes and rules (rtm_protocol; 0x4e is N, and
	// no daemon of /etc/iproute2/rt_protos).
	protocol = 0x4e
	// defaultDir is where ip(8) names namespaces.
	defaultDir = "/run/netns"
)

// kernel is the running system.
type kernel struct {
	host, dir string
	handles   map[string]*netlink.Handle // by namespace; closed by close
}

// open gives the world that Apply works on, and what ends the work.
func (r *Routers) open() (world, func(), error) {
	if r.world != nil {
		return r.world, func() {}, nil
	}
	k := &kernel{host: r.Host, dir: r.Dir, handles: map[string]*netlink.Handle{}}
	if k.dir == "" {
		k.dir = defaultDir
	}
	return k, k.close, nil
}

func (k *kernel) close() {
	for _, h := range k.handles {
		h.Close()
	}
}

// path is where a namespace is, empty: where the process is.
func (k *kernel) path(at string) string {
	if at == "" {
		return k.host
	}
	return filepath.Join(k.dir, at)
}

// at gives a netlink connection to a namespace.
func (k *kernel) at(space string) (*netlink.Handle, error) {
	if h := k.handles[space]; h != nil {
		return h, nil
	}
	var h *netlink.Handle
	err := inside(k.path(space), func() (err error) { h, err = netlink.NewHandle(unix.NETLINK_ROUTE); return err })
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	k.handles[space] = h
	return h, nil
}

// absent reports whether err says that something is not there.
func absent(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, os.ErrNotExist)
}

// Do implements world.
func (k *kernel) Do(ctx context.Context, s step, rules map[string]string) error {
	var err error
	switch s.Kind {
	case kindSpace:
		return k.doSpace(s)
	case kindRules:
		if s.op == opRemove {
			return nil // never without: rules are only replaced
		}
		return k.loadRules(ctx, s.At, s.Value.(string), rules[s.Value.(string)])
	case kindSysctl:
		if s.op == opRemove {
			return nil
		}
		return inside(k.path(s.At), func() error {
			return os.WriteFile(filepath.Join("/proc/sys", s.Link), []byte(s.Value.(string)), 0o644)
		})
	case kindRule, kindPolicy:
		err = k.doRule(s)
	default:
		err = k.doLink(s)
	}
	if s.op == opRemove && absent(err) {
		return nil
	}
	return err
}

func (k *kernel) doSpace(s step) error {
	path := k.path(s.At)
	if s.op == opRemove {
		if h := k.handles[s.At]; h != nil {
			h.Close()
			delete(k.handles, s.At)
		}
		return removeSpace(path)
	}
	return makeSpace(path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetAlias(lo, mark+s.Value.(string))
	})
}

// doLink makes a step on something that belongs to one interface.
func (k *kernel) doLink(s step) error {
	if s.Kind == kindVeth && s.op != opRemove {
		return k.addPair(s.At, s.Link, s.Value.(veth))
	}
	h, err := k.at(s.At)
	if err != nil {
		return err
	}
	name := s.Link
	if hop, ok := s.Value.(hop); ok {
		name = hop.Dev
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	switch s.Kind {
	case kindVeth:
		return h.LinkDel(link)
	case kindMTU:
		if s.op == opRemove {
			return nil
		}
		return h.LinkSetMTU(link, s.Value.(int))
	case kindPort:
		if s.op == opRemove {
			return h.LinkSetNoMaster(link)
		}
		return k.setPort(h, link, s.Value.(port))
	case kindUp:
		if s.op == opRemove {
			return h.LinkSetDown(link)
		}
		return h.LinkSetUp(link)
	case kindAddr:
		a := &netlink.Addr{IPNet: ipNet(s.Addr)}
		if s.Addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if s.op == opRemove {
			return h.AddrDel(link, a)
		}
		return h.AddrReplace(link, a)
	case kindFDB:
		mac, err := net.ParseMAC(s.MAC)
		if err != nil {
			return err
		}
		n := &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac}
		if s.op == opRemove {
			return h.NeighDel(n)
		}
		return h.NeighSet(n)
	case kindNeigh:
		mac, err := net.ParseMAC(s.Value.(string))
		if err != nil {
			return err
		}
		n := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: s.Addr.Addr().AsSlice(), HardwareAddr: mac}
		if s.op == opRemove {
			return h.NeighDel(n)
		}
		return h.NeighSet(n)
	case kindRoute:
		r := route(index, s.Addr, s.N, s.Value.(hop))
		if s.op == opRemove {
			return h.RouteDel(r)
		}
		return h.RouteReplace(r)
	}
	return fmt.Errorf("%s: no such kind", s.Kind)
}

// setPort puts an interface on a bridge. The kernel shall not give it addresses of
// its own there.
func (k *kernel) setPort(h *netlink.Handle, link netlink.Link, p port) error {
	bridge, err := h.LinkByName(p.Bridge)
	if err != nil {
		return err
	}
	if err := h.LinkSetIP6AddrGenMode(link, 1); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := h.LinkSetMasterByIndex(link, bridge.Attrs().Index); err != nil {
			return err
		}
	}
	return inside(k.path(""), func() error { return setPortFlags(link.Attrs().Index, p.Flags) })
}

// addPair makes a pair inside its namespace, with its aliases, and then moves the
// outer end to its place: what is seen there has its alias.
func (k *kernel) addPair(at, outer string, v veth) error {
	in, err := k.at(v.Space)
	if err != nil {
		return err
	}
	out, err := k.at(at)
	if err != nil {
		return err
	}
	for _, name := range []string{outer, v.Inner} { // left by a crash
		if l, err := in.LinkByName(name); err == nil {
			if err := in.LinkDel(l); err != nil && !absent(err) {
				return err
			}
		}
	}
	if l, err := out.LinkByName(outer); err == nil {
		if !strings.HasPrefix(l.Attrs().Alias, mark) {
			return fmt.Errorf("%s is there and was made by another", outer)
		}
		if err := out.LinkDel(l); err != nil && !absent(err) {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = outer
	if attrs.HardwareAddr, err = optionalMAC(v.Outer); err != nil {
		return err
	}
	pair := netlink.NewVeth(attrs)
	pair.PeerName = v.Inner
	if pair.PeerHardwareAddr, err = optionalMAC(v.MAC); err != nil {
		return err
	}
	if err := in.LinkAdd(pair); err != nil {
		return err
	}
	for _, name := range []string{outer, v.Inner} {
		l, err := in.LinkByName(name)
		if err != nil {
			return err
		}
		if err := in.LinkSetAlias(l, mark+v.String()); err != nil {
			return err
		}
	}
	path := k.path(at)
	if path == "" {
		path = "/proc/self/ns/net"
	}
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	l, err := in.LinkByName(outer)
	if err != nil {
		return err
	}
	return in.LinkSetNsFd(l, ns)
}

// Preferences of our policy rules. The kernel asks 0 (its own) first.
const (
	prefLocal = 100
	prefMain  = 101
	prefSlots = 1000
)

// doRule makes marked packets be routed by the table of their slot. The kernel
// asks the local table before all rules, so that what is for the external address
// would never get there; unmarked packets are asked about it by a rule of ours.
func (k *kernel) doRule(s step) error {
	h, err := k.at(s.At)
	if err != nil {
		return err
	}
	if s.Kind == kindRule {
		r := markRule(family(s.Six), prefSlots+s.N, uint32(s.N), s.Value.(int))
		if s.op == opRemove {
			return h.RuleDel(r)
		}
		return exists(h.RuleAdd(r))
	}
	if s.op == opRemove {
		return nil
	}
	for _, f := range []string{"ip", "ip6"} {
		for _, r := range []*netlink.Rule{markRule(f, prefLocal, 0, unix.RT_TABLE_LOCAL), markRule(f, prefMain, 0, mainTable)} {
			if err := exists(h.RuleAdd(r)); err != nil {
				return err
			}
		}
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table = familyNumber(f), 0, unix.RT_TABLE_LOCAL
		if err := h.RuleDel(r); err != nil && !absent(err) {
			return err
		}
	}
	return nil
}

func markRule(f string, pref int, m uint32, table int) *netlink.Rule {
	r := netlink.NewRule()
	mask := ^uint32(0)
	r.Family, r.Priority, r.Mark, r.Mask, r.Table, r.Protocol = familyNumber(f), pref, m, &mask, table, protocol
	return r
}

func familyNumber(f string) int {
	if f == "ip6" {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func exists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// route writes a route; IPv4 by an IPv6 next hop has its own attribute (RFC 5549).
func route(index int, dst netip.Prefix, table int, h hop) *netlink.Route {
	r := &netlink.Route{LinkIndex: index, Dst: ipNet(dst), Table: table, Protocol: protocol}
	if dst.Addr().Is4() && h.Via.Is6() {
		r.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: h.Via.AsSlice()}
	} else {
		r.Gw = h.Via.AsSlice()
	}
	return r
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func optionalMAC(s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	return net.ParseMAC(s)
}
