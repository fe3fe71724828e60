package router

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"nereid/api"
)

// ErrSpec is what errors about a spec that cannot be met match. The router it is
// about is left as it is.
var ErrSpec = errors.New("router spec")

// account is a RouterSpec with real types.
type account struct {
	owner string
	legs  []leg // of networks; by VNI and MAC
	nat   *nat
}

// leg is a router's interface on a VNI.
type leg struct {
	vni      uint32
	mac      string
	gateways []netip.Prefix // addresses with the subnets' prefix length, sorted
	internet []netip.Prefix // subnets that may leave
	routes   map[netip.Prefix]netip.Addr
}

// name is the leg's in the namespace. The MAC is in it because two networks on
// one VNI may have gateways with different MACs.
func (l leg) name() string {
	hex := strings.ReplaceAll(l.mac, ":", "")
	return fmt.Sprintf("v%d-%s", l.vni, hex[len(hex)-4:])
}

// nat is a NATSpec. uplink is nil on a server that does not provide the external
// tag; transit may be nil on one that does.
type nat struct {
	uplink   *uplink
	transit  *leg
	address  netip.Prefix // of the transit leg
	via      []netip.Addr
	forwards []forward
}

// uplink is an account's part of an external network.
type uplink struct {
	tag     string
	vlan    int
	address netip.Prefix
	gateway netip.Addr
}

type forward struct {
	protocol string
	port     uint16 // external
	internal netip.AddrPort
}

// six reports whether the NAT is for IPv6. It is for the family of its addresses.
func (n *nat) six() bool {
	if n.uplink != nil {
		return n.uplink.address.Addr().Is6()
	}
	return n.address.Addr().Is6()
}

// firstBlockPort is where the ports for outgoing connections begin, as on a Linux
// host (net.ipv4.ip_local_port_range); those below can be forwarded.
const firstBlockPort = 32768

var (
	uuidRE = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	tagRE  = regexp.MustCompile(`^[a-zA-Z0-9_]{1,31}$`)
)

func specError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSpec}, args...)...)
}

// parse reads a spec. Every string in it is checked, as they end up in names and
// in nftables text.
func parse(s api.RouterSpec) (account, error) {
	a := account{owner: s.Owner}
	if !uuidRE.MatchString(s.Owner) {
		return a, specError("owner %q is not a UUID in lower case", s.Owner)
	}
	legs := map[string]*leg{}
	subnets := map[netip.Prefix]bool{}
	for _, n := range s.Networks {
		mac, err := parseMAC(n.MAC)
		if err != nil {
			return a, specError("gateway %s: %v", n.Gateway, err)
		}
		gw, err := parseHost(n.Gateway)
		if err != nil {
			return a, specError("gateway: %v", err)
		}
		if n.VNI == 0 || n.VNI >= 1<<24 {
			return a, specError("gateway %s: VNI %d; want 1 to 16777215", n.Gateway, n.VNI)
		}
		for other := range subnets {
			if other.Overlaps(gw) {
				return a, specError("gateway %s: its subnet overlaps %s, of the same account", n.Gateway, other)
			}
		}
		subnets[gw.Masked()] = true
		l := leg{vni: n.VNI, mac: mac, routes: map[netip.Prefix]netip.Addr{}}
		if have := legs[l.name()]; have == nil {
			legs[l.name()] = &l
		} else if have.mac != mac {
			return a, specError("gateways on VNI %d with the MACs %s and %s: their last four digits must differ", n.VNI, mac, have.mac)
		}
		to := legs[l.name()]
		to.gateways = append(to.gateways, gw)
		if n.InternetNAT {
			to.internet = append(to.internet, gw.Masked())
		}
		for dst, next := range n.Routes {
			d, err := netip.ParsePrefix(dst)
			if err != nil || d != d.Masked() || d.Addr().Is4In6() || d.Bits() == 0 {
				return a, specError("gateway %s: route to %q; want a CIDR with host bits zero, and not a default route", n.Gateway, dst)
			}
			v, err := netip.ParseAddr(next)
			if err != nil || !gw.Contains(v) {
				return a, specError("gateway %s: route to %s by %q; want an address of the subnet", n.Gateway, dst, next)
			}
			if _, twice := to.routes[d]; twice {
				return a, specError("gateway %s: a second route to %s", n.Gateway, dst)
			}
			to.routes[d] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(legs)) {
		l := legs[name]
		slices.SortFunc(l.gateways, netip.Prefix.Compare)
		slices.SortFunc(l.internet, netip.Prefix.Compare)
		a.legs = append(a.legs, *l)
	}
	if s.NAT == nil {
		return a, nil
	}
	nat, err := parseNAT(*s.NAT)
	if err != nil {
		return a, err
	}
	if nat.transit != nil && slices.ContainsFunc(a.legs, func(l leg) bool { return l.vni == nat.transit.vni }) {
		return a, specError("transit VNI %d is a network's too", nat.transit.vni)
	}
	a.nat = nat
	return a, nil
}

func parseNAT(s api.NATSpec) (*nat, error) {
	n := &nat{}
	if s.Tag != "" {
		u := &uplink{tag: s.Tag, vlan: s.VLAN}
		var err error
		if u.address, err = parseHost(s.Address); err != nil {
			return nil, specError("external address: %v", err)
		}
		if !tagRE.MatchString(s.Tag) || s.VLAN < 0 || s.VLAN > 4094 {
			return nil, specError("external NIC tag %q, VLAN %d: not a tag's name or not a VLAN", s.Tag, s.VLAN)
		}
		if u.gateway, err = netip.ParseAddr(s.Gateway); err != nil || !u.address.Contains(u.gateway) || u.gateway == u.address.Addr() {
			return nil, specError("external gateway %q; want another address of %s", s.Gateway, u.address.Masked())
		}
		n.uplink = u
	}
	if s.VNI != 0 || s.Transit != "" || len(s.Via) > 0 {
		var err error
		if n.address, err = parseHost(s.Transit); err != nil {
			return nil, specError("transit address: %v", err)
		}
		if s.VNI == 0 || s.VNI >= 1<<24 {
			return nil, specError("transit VNI %d; want 1 to 16777215", s.VNI)
		}
		n.transit = &leg{vni: s.VNI, mac: TransitMAC(n.address.Addr()).String(), gateways: []netip.Prefix{n.address}}
		for _, text := range s.Via {
			v, err := netip.ParseAddr(text)
			if err != nil || !n.address.Contains(v) || slices.Contains(n.via, v) {
				return nil, specError("gateway server %q; want addresses of %s, each once", text, n.address.Masked())
			}
			n.via = append(n.via, v)
		}
	}
	switch {
	case n.uplink == nil && n.transit == nil:
		return nil, specError("NAT with neither an external NIC tag nor a transit VNI")
	case n.uplink == nil && (len(n.via) == 0 || slices.Contains(n.via, n.address.Addr())):
		return nil, specError("NAT without an external NIC tag needs the addresses of other servers that have it (via)")
	case n.uplink != nil && n.transit != nil && n.uplink.address.Addr().Is4() != n.address.Addr().Is4():
		return nil, specError("external address %s and transit address %s are of different families", n.uplink.address, n.address)
	case n.uplink == nil:
		return n, nil // forwards are for the servers that have the external address
	}
	for _, f := range s.Forwards {
		if f.Protocol != "tcp" && f.Protocol != "udp" {
			return nil, specError("forward of protocol %q; want tcp or udp", f.Protocol)
		}
		ext, err := netip.ParseAddrPort(f.External)
		if err != nil {
			return nil, specError("forward from %q: %v", f.External, err)
		}
		if ext.Addr() != n.uplink.address.Addr() {
			continue // another gateway server's
		}
		in, err := netip.ParseAddrPort(f.Internal)
		if err != nil || in.Port() == 0 || in.Addr().Is4() != ext.Addr().Is4() || in.Addr().Zone() != "" {
			return nil, specError("forward from %s to %q; want an address of the same family, and a port", f.External, f.Internal)
		}
		if ext.Port() == 0 || ext.Port() >= firstBlockPort {
			return nil, specError("forward from %s: only ports 1 to %d can be forwarded, those above are for outgoing connections", f.External, firstBlockPort-1)
		}
		if slices.ContainsFunc(n.forwards, func(o forward) bool { return o.protocol == f.Protocol && o.port == ext.Port() }) {
			return nil, specError("a second forward of %s port %d", f.Protocol, ext.Port())
		}
		n.forwards = append(n.forwards, forward{f.Protocol, ext.Port(), in})
	}
	slices.SortFunc(n.forwards, func(a, b forward) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port))
	})
	return n, nil
}

// parseHost reads an address with its subnet's prefix length.
func parseHost(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not an address with a prefix length", s)
	}
	a := p.Addr()
	if a.Is4In6() || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() || p.Bits() == 0 {
		return p, fmt.Errorf("%s is not an address that a router can have", s)
	}
	return p, nil
}

// parseMAC reads a unicast MAC and writes it as the kernel does.
func parseMAC(s string) (string, error) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 || m[0]&1 != 0 || bytes.Equal(m, make([]byte, 6)) {
		return "", fmt.Errorf("%q is not the MAC of an interface", s)
	}
	return m.String(), nil
}

// TransitMAC is the MAC of the router that has a transit address: 02:00 and the
// last four bytes of the address. It is unique on the transit VNI, and who makes
// that VNI's map can compute it.
func TransitMAC(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr{2, 0}, b[len(b)-4:]...)
}

// linkLocal is the address that an interface with this MAC has by itself (RFC
// 4291, appendix A).
func linkLocal(mac string) netip.Addr {
	m, err := net.ParseMAC(mac)
	if err != nil || len(m) != 6 {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// digest is 12 hexadecimal digits of the parts' SHA-256.
func digest(parts ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprintln(parts...)))
	return fmt.Sprintf("%x", sum[:6])
}

// madeMAC is a locally administered MAC that is the same each time.
func madeMAC(parts ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprintln(parts...)))
	return net.HardwareAddr(append([]byte{2}, sum[:5]...)).String()
}

// highMAC is a MAC for a bridge port. A bridge without a MAC of its own takes the
// lowest of its ports', and when that changes the kernel forgets all neighbours on
// the bridge, also permanent ones (neigh_changeaddr): ours must not be the lowest.
func highMAC(parts ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprintln(parts...)))
	return net.HardwareAddr(append([]byte{0xfe}, sum[:5]...)).String()
}

// hostName is the name of a pair's outer end: vr and 12 digits.
func hostName(parts ...any) string { return "vr" + digest(parts...) }
