package networks

import (
	"fmt"
	"net/netip"

	"nereid/api"
)

// lastOf is the last address of a subnet.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		switch bits := p.Bits() - 8*i; {
		case bits <= 0:
			b[i] = 0xff
		case bits < 8:
			b[i] |= 0xff >> bits
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// HasHost says whether an address is in a network's subnet, and whether a host can
// have it that is not the gateway.
func HasHost(n api.Network, a netip.Addr) (in, host bool) {
	p, err := netip.ParsePrefix(n.Subnet)
	if err != nil || !p.Contains(a) {
		return false, false
	}
	return true, isHost(p, a) && n.Gateway != a.String()
}

// hosts gives the first and the last address of a subnet that a host can have.
// IPv4 keeps the network's and the broadcast address, but for /31 (RFC 3021) and
// /32; IPv6 keeps the subnet-router anycast address (RFC 4291, section 2.6.1), but
// for /127 (RFC 6164) and /128.
func hosts(p netip.Prefix) (first, last netip.Addr) {
	first, last = p.Masked().Addr(), lastOf(p)
	if p.Bits() >= p.Addr().BitLen()-1 {
		return first, last
	}
	if p.Addr().Is4() {
		last = last.Prev()
	}
	return first.Next(), last
}

// isHost says whether a host can have the address.
func isHost(p netip.Prefix, a netip.Addr) bool {
	first, last := hosts(p)
	return between(first, a, last)
}

// between says whether first <= a <= last; addresses of another family are not.
func between(first, a, last netip.Addr) bool {
	return a.BitLen() == first.BitLen() && !a.Less(first) && !last.Less(a)
}

// within says whether all of p is in outer.
func within(p, outer netip.Prefix) bool {
	return p.Bits() >= outer.Bits() && outer.Contains(p.Addr())
}

// family names the family of an address as the API does.
func family(a netip.Addr) string {
	if a.Is4() {
		return familyIPv4
	}
	return familyIPv6
}

// The families, as the API names them.
const (
	familyIPv4 = "ipv4"
	familyIPv6 = "ipv6"
)

// parseAddr reads an address: no zone, and IPv4 only as IPv4.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%.64q is not an IP address", s)
	case a.Zone() != "":
		return a, fmt.Errorf("%s has a zone", s)
	case a.Is4In6():
		return a, fmt.Errorf("%s is an IPv4 address in IPv6 form; write %s", s, a.Unmap())
	}
	return a, nil
}

// parseCIDR reads a subnet whose host bits are zero.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("%.64q is not a subnet like 10.1.2.0/24 or fd00:1::/64", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s is an IPv4 subnet in IPv6 form", s)
	case p.Masked() != p:
		return p, fmt.Errorf("%s has host bits set; the subnet is %s", s, p.Masked())
	}
	return p, nil
}

// private are the subnets fabric networks are in: RFC 1918 and RFC 4193.
func private() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"),
	}
}

// Transit is the subnet of the transit VNIs, over which accounts' routers reach the
// servers that do NAT: addresses that are neither private nor anybody's (RFC 6598).
var Transit = netip.MustParsePrefix("100.64.0.0/10")

// InTransit says whether an address is of it.
func InTransit(a [4]byte) bool { return Transit.Contains(netip.AddrFrom4(a)) }

// subnetUsable refuses a subnet that no new network can have.
func subnetUsable(n network) error {
	for _, u := range unusable() {
		if u.Overlaps(n.subnet) {
			return invalid("take another subnet", "subnet %s of network %s is in %s, whose addresses are not for hosts", n.subnet, n.Name, u)
		}
	}
	if Transit.Overlaps(n.subnet) {
		return conflict("take another subnet",
			"subnet %s of network %s overlaps %s, which accounts' routers use among themselves for internet_nat",
			n.subnet, n.Name, Transit)
	}
	return nil
}

// unusable are subnets no network is in: this network and loopback (RFC 6890),
// link-local, multicast, and what was never assigned.
func unusable() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/8"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	}
}
