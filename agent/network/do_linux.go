package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// miimon is how often a bond looks at its members' carrier, in milliseconds.
const miimon = 100

// Do implements System.
func (k *Kernel) Do(ctx context.Context, step Step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch s := step.(type) {
	case CreateLink:
		return k.create(s.Link)
	case Connect:
		return k.connect(ctx, s)
	case Disconnect:
		return k.disconnect(s)
	}
	l, err := k.links.LinkByName(step.on())
	if err != nil {
		return err
	}
	switch s := step.(type) {
	case DeleteLink:
		return k.links.LinkDel(l)
	case SetAlias:
		return k.links.LinkSetAlias(l, s.Alias)
	case SetMTU:
		return k.links.LinkSetMTU(l, s.MTU)
	case SetMaster:
		return k.setMaster(l, s.Master)
	case SetUp:
		if s.Up {
			return k.links.LinkSetUp(l)
		}
		return k.links.LinkSetDown(l)
	case SetFlags:
		return k.setFlags(ctx, l.Attrs().Index, s.Flags)
	case Close:
		return k.close(ctx, l, s.Closed)
	case AltName:
		if s.Add {
			return k.links.LinkAddAltName(l, s.Alt)
		}
		return k.links.LinkDelAltName(l, s.Alt)
	case Rename:
		return k.links.LinkSetName(l, s.To)
	case SetBond:
		return k.setBond(ctx, l, s)
	case AddAddr:
		return k.addAddr(ctx, l.Attrs().Index, s.Addr)
	case DelAddr:
		return k.delAddr(ctx, l.Attrs().Index, s.Addr)
	case SetRoute:
		return setRoute(k.links, l.Attrs().Index, s.Route)
	case DelRoute:
		return k.links.RouteDel(routeOf(l.Attrs().Index, s.Route))
	case Move:
		return k.move(ctx, l.Attrs().Index, s)
	}
	return fmt.Errorf("step %T is not known", step)
}

// create makes a link and gives it its alias, which the kernel does not take
// together.
func (k *Kernel) create(want Link) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = want.Name, want.MTU
	if want.MAC != "" && want.Kind != "vlan" {
		hw, err := net.ParseMAC(want.MAC)
		if err != nil {
			return err
		}
		a.HardwareAddr = hw
	}
	var l netlink.Link
	switch want.Kind {
	case "bridge":
		off := false
		l = &netlink.Bridge{LinkAttrs: a, MulticastSnooping: &off}
	case "vxlan":
		// Checksums are sent, as by a device made with ip link: receivers then
		// have the inner ones for nothing. Over IPv6, packets without are taken too.
		l = &netlink.Vxlan{LinkAttrs: a, VxlanId: int(want.VNI), SrcAddr: net.IP(want.Local.AsSlice()), Port: vxlanUDP, NoAge: true,
			UDPCSum: want.Local.Is4(), UDP6ZeroCSumRx: want.Local.Is6()}
	case "vlan":
		parent, err := k.links.LinkByName(want.Parent)
		if err != nil {
			return err
		}
		a.ParentIndex = parent.Attrs().Index
		l = &netlink.Vlan{LinkAttrs: a, VlanId: want.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	case "bond":
		b := netlink.NewLinkBond(a)
		b.Mode, b.Miimon = netlink.StringToBondMode(want.Mode), miimon
		if want.Mode == modeLACP {
			b.LacpRate = lacpRate(want.Rate)
			b.XmitHashPolicy = netlink.BOND_XMIT_HASH_POLICY_LAYER3_4
		}
		l = b
	default:
		return fmt.Errorf("a link of kind %q cannot be made", want.Kind)
	}
	if err := k.links.LinkAdd(l); err != nil {
		return err
	}
	return k.links.LinkSetAlias(l, want.Alias)
}

func lacpRate(s string) netlink.BondLacpRate {
	if s == "fast" {
		return netlink.BOND_LACP_RATE_FAST
	}
	return netlink.BOND_LACP_RATE_SLOW
}

func (k *Kernel) setMaster(l netlink.Link, master string) error {
	if master == "" {
		return k.links.LinkSetNoMaster(l)
	}
	m, err := k.links.LinkByName(master)
	if err != nil {
		return err
	}
	return k.links.LinkSetMaster(l, m)
}

// setFlags sets all flags of a bridge port with one message.
func (k *Kernel) setFlags(ctx context.Context, index int, f PortFlags) error {
	body := infoMessage(unix.AF_BRIDGE, index)
	var flags []byte
	for _, a := range f.attributes() {
		v := byte(0)
		if *a.flag {
			v = 1
		}
		flags = addAttribute(flags, a.kind, []byte{v})
	}
	body = addAttribute(body, unix.IFLA_PROTINFO|nested, flags)
	return k.conn.request(ctx, unix.RTM_SETLINK, 0, body, nil)
}

func infoMessage(family uint8, index int) []byte {
	body := make([]byte, unix.SizeofIfInfomsg, 256)
	body[0] = family
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	return body
}

// close keeps the host's IP from a link, or lets it in. What netlink cannot set
// is written to /proc/sys, in the link's namespace.
func (k *Kernel) close(ctx context.Context, l netlink.Link, closed bool) error {
	ignore, filter, mode := uint32(0), uint32(0), byte(0)
	if closed {
		ignore, filter, mode = 8, 1, addrGenModeNone
	}
	conf := add32(nil, confARPIgnore, ignore)
	conf = add32(conf, confRPFilter, filter)
	spec := addAttribute(nil, unix.AF_INET|nested, addAttribute(nil, unix.IFLA_INET_CONF|nested, conf))
	if err := k.conn.request(ctx, unix.RTM_SETLINK, 0, addAttribute(infoMessage(unix.AF_UNSPEC, l.Attrs().Index), unix.IFLA_AF_SPEC|nested, spec), nil); err != nil {
		return fmt.Errorf("set IPv4 of %s: %w", l.Attrs().Name, err)
	}
	return within(k.ns, func() error {
		dir := filepath.Join("/proc/sys/net/ipv6/conf", l.Attrs().Name)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil // no IPv6 on this system, or an MTU below 1280
		}
		spec := addAttribute(nil, unix.AF_INET6|nested, addAttribute(nil, unix.IFLA_INET6_ADDR_GEN_MODE, []byte{mode}))
		if err := k.conn.request(ctx, unix.RTM_SETLINK, 0, addAttribute(infoMessage(unix.AF_UNSPEC, l.Attrs().Index), unix.IFLA_AF_SPEC|nested, spec), nil); err != nil {
			return fmt.Errorf("set IPv6 of %s: %w", l.Attrs().Name, err)
		}
		set := func(name, value string) error {
			return os.WriteFile(filepath.Join(dir, name), []byte(value), 0)
		}
		if !closed {
			ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/accept_ra")
			if err != nil {
				return err
			}
			return errors.Join(set("accept_ra", strings.TrimSpace(string(ra))), set("disable_ipv6", "0"))
		}
		// Disabling takes the addresses away that are there. The bridge of a VNI
		// gets IPv6 back, as only then it has neighbours.
		err := errors.Join(set("accept_ra", "0"), set("disable_ipv6", "1"))
		if err == nil && classOf(l) == classBridge {
			err = set("disable_ipv6", "0")
		}
		return err
	})
}

func classOf(l netlink.Link) class {
	return (&Link{Kind: l.Type(), Alias: l.Attrs().Alias}).class()
}

func (k *Kernel) setBond(ctx context.Context, l netlink.Link, s SetBond) error {
	if err := k.links.LinkSetDown(l); err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.Index = l.Attrs().Name, l.Attrs().Index
	b := netlink.NewLinkBond(a)
	b.LacpRate = lacpRate(s.Rate)
	err := k.links.LinkModify(b)
	err = errors.Join(err, k.links.LinkSetUp(l))
	for _, a := range s.Addrs {
		err = errors.Join(err, k.addAddr(ctx, l.Attrs().Index, a))
	}
	for _, r := range s.Routes {
		err = errors.Join(err, setRoute(k.links, l.Attrs().Index, r))
	}
	return err
}

// addAddr adds an address, marked when it is ours. It is good at once: that
// nobody else has it is the head node's business.
func (k *Kernel) addAddr(ctx context.Context, index int, a Addr) error {
	body := addressMessage(index, a)
	flags := uint32(unix.IFA_F_NODAD)
	if a.Prefix.Addr().Is4() {
		flags = 0
	}
	body = add32(body, unix.IFA_FLAGS, flags|unix.IFA_F_PERMANENT)
	if a.Ours {
		body = addAttribute(body, ifaProto, []byte{Protocol})
	}
	err := k.conn.request(ctx, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, nil)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (k *Kernel) delAddr(ctx context.Context, index int, a Addr) error {
	err := k.conn.request(ctx, unix.RTM_DELADDR, 0, addressMessage(index, a), nil)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func addressMessage(index int, a Addr) []byte {
	body := make([]byte, unix.SizeofIfAddrmsg, 64)
	body[0], body[1] = unix.AF_INET6, byte(a.Prefix.Bits())
	if a.Prefix.Addr().Is4() {
		body[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	body = addIP(body, unix.IFA_LOCAL, a.Prefix.Addr())
	return addIP(body, unix.IFA_ADDRESS, a.Prefix.Addr())
}

func routeOf(index int, r Route) *netlink.Route {
	nr := &netlink.Route{LinkIndex: index, Dst: netOf(r.Dst), Priority: r.Metric, Protocol: netlink.RouteProtocol(r.Proto), Family: nl.FAMILY_V4}
	if r.Dst.Addr().Is6() {
		nr.Family = nl.FAMILY_V6
	}
	if r.Via.IsValid() {
		nr.Gw = r.Via.AsSlice()
	} else {
		nr.Scope = unix.RT_SCOPE_LINK
	}
	return nr
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func setRoute(h *netlink.Handle, index int, r Route) error {
	return h.RouteReplace(routeOf(index, r))
}

// move adds first and removes then, so that an address is always somewhere.
func (k *Kernel) move(ctx context.Context, from int, m Move) error {
	l, err := k.links.LinkByName(m.To)
	if err != nil {
		return err
	}
	to := l.Attrs().Index
	for _, a := range m.Addrs {
		if err := k.addAddr(ctx, to, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, m.To, err)
		}
	}
	for _, r := range m.Routes {
		if err := setRoute(k.links, to, r); err != nil {
			return fmt.Errorf("add route %s by %s: %w", r, m.To, err)
		}
	}
	for _, a := range m.Addrs {
		if err := k.delAddr(ctx, from, a); err != nil {
			return fmt.Errorf("remove %s from %s: %w", a, m.From, err)
		}
	}
	for _, r := range m.Routes {
		if err := k.links.RouteDel(routeOf(from, r)); err != nil && !notThere(err) {
			return fmt.Errorf("remove route %s by %s: %w", r, m.From, err)
		}
	}
	return nil
}
