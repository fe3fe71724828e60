package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"nereid/api"
)

// Port is an instance's NIC as it is on this server.
type Port struct {
	Interface string   // host end of its veth or tap, which need not exist yet
	Bridge    string   // that the interface is, or will be, a port of
	Names     []string // that Bridge may have instead
	Isolated  bool     // nothing may reach the server itself from Bridge
	api.PortSpec

	closed bool // it sends nothing and takes nothing
}

// Options are what a server's firewall needs besides its ports and rules.
type Options struct {
	// Underlay is all subnets that VXLAN packets may come from, as CIDRs of either
	// family. Empty: this server takes part in no VXLAN, and nothing is dropped.
	Underlay []string
	// Isolated are bridges from which nothing may reach the server itself, whether they
	// have ports or not.
	Isolated []string
	// IsolatedPrefixes are what their names begin with, each with one of them; of no
	// other interface that the underlay is reached by. With them, VXLAN from elsewhere
	// is told without a lookup.
	IsolatedPrefixes []string
	// PortPrefix is what the names of all ports' interfaces begin with, empty:
	// nothing. With one, other interfaces are told from ports without a lookup.
	PortPrefix string
}

// portInput is a Port, parsed.
type portInput struct {
	owner        string
	instance     string
	name, bridge string
	aliases      []string // of the bridge
	mac          [6]byte
	vni          bool
	addrs        []netip.Addr
	nets         []netip.Prefix // disjoint
	firewall     bool
	isolated     bool // the bridge
	closed       bool
	flags        api.SpoofFlags
}

// spec is the whole input, parsed and checked.
type spec struct {
	ports    []portInput
	rules    []ruleInput // best first
	sets     []setInput
	underlay []netip.Prefix
	isolated []string
	begin    []string // what the names of all isolated begin with; empty: anything
	prefix   string   // of ports' names
	room     int      // for elements; 0: maxElements
}

// setInput is an api.AddressSet.
type setInput struct {
	name  string
	hosts []netip.Addr
	nets  []netip.Prefix
}

var nameRE = regexp.MustCompile(`^[^\s/\x00]{1,15}$`) // dev_valid_name of the kernel's net/core/dev.c

// parseInput reads the whole input. Of type faults is an error about what owners want,
// and any other is about what the server needs.
func parseInput(ports []Port, fw api.FirewallSpec, o Options) (*spec, error) {
	s := &spec{isolated: slices.Clone(o.Isolated), begin: slices.Clone(o.IsolatedPrefixes), prefix: o.PortPrefix}
	byMAC := make(map[[6]byte]int)
	names := make(map[string]bool)
	bad := make(faults)
	for _, p := range ports {
		in, err := parsePort(p)
		if _, twice := byMAC[in.mac]; err == nil && (twice || names[in.name]) {
			err = errors.New("another port has the same MAC or interface")
		}
		if err == nil && !strings.HasPrefix(in.name, s.prefix) {
			err = fmt.Errorf("the names of ports' interfaces begin with %s", s.prefix)
		}
		if err == nil && in.isolated && !s.mayIsolate(append([]string{in.bridge}, in.aliases...)...) {
			err = fmt.Errorf("isolated bridge %q: the names of these begin with one of %q", in.bridge, s.begin)
		}
		if err != nil {
			if !p.closed { // Protect keeps it out of every bridge, which closes it as well
				bad.add(p.Owner, fmt.Errorf("port %s on %s: %w", p.MAC, p.Interface, err))
			}
			continue
		}
		byMAC[in.mac] = len(s.ports)
		names[in.name] = true
		s.ports = append(s.ports, in)
	}
	for _, p := range s.begin {
		if !nameRE.MatchString(p) {
			return nil, fmt.Errorf("prefix %q of isolated bridges: no name of an interface begins so", p)
		}
	}
	for _, n := range s.isolated {
		if !nameRE.MatchString(n) {
			return nil, fmt.Errorf("isolated bridge %q: not a name of an interface", n)
		}
		if !s.mayIsolate(n) {
			return nil, fmt.Errorf("isolated bridge %q: the names of these begin with one of %q", n, s.begin)
		}
	}
	for _, u := range o.Underlay {
		p, err := parsePrefix(u)
		if err != nil {
			return nil, fmt.Errorf("underlay subnet: %w", err)
		}
		s.underlay = append(s.underlay, p)
	}
	s.underlay = disjoint(s.underlay)
	if wrong := s.parseRules(fw, byMAC); len(wrong) > 0 {
		owners := ownersOf(ports)
		for _, w := range wrong {
			for _, o := range owners.of(w.ports) {
				bad.add(o, w.err)
			}
		}
	}
	if len(bad) > 0 {
		return nil, bad
	}
	return s, nil
}

// mayIsolate reports whether isolated bridges may have these names.
func (s *spec) mayIsolate(bridges ...string) bool {
	return len(s.begin) == 0 || !slices.ContainsFunc(bridges, func(b string) bool {
		return !slices.ContainsFunc(s.begin, func(p string) bool { return strings.HasPrefix(b, p) })
	})
}

// anyIsolated reports whether there are isolated bridges.
func (s *spec) anyIsolated() bool {
	return len(s.isolated) > 0 || slices.ContainsFunc(s.ports, func(p portInput) bool { return p.isolated })
}

func parsePort(p Port) (portInput, error) {
	in := portInput{owner: p.Owner, instance: p.Instance, name: p.Interface, bridge: p.Bridge, aliases: p.Names, isolated: p.Isolated,
		vni: p.VNI != 0, firewall: p.Firewall, closed: p.closed, flags: p.SpoofFlags}
	for _, n := range append([]string{p.Interface, p.Bridge}, p.Names...) {
		if !nameRE.MatchString(n) {
			return in, fmt.Errorf("%q is not a name of an interface", n)
		}
	}
	var err error
	if in.mac, err = parseMAC(p.MAC); err != nil {
		return in, err
	}
	for _, a := range p.Addresses {
		prefix, err := netip.ParsePrefix(a.Address)
		if err != nil {
			return in, fmt.Errorf("address: %w", err)
		}
		in.addrs = append(in.addrs, prefix.Addr().Unmap())
	}
	for _, a := range p.AllowedIPs {
		prefix, err := parsePrefix(a)
		switch {
		case err != nil:
			return in, fmt.Errorf("allowed_ips: %w", err)
		case prefix.IsSingleIP():
			in.addrs = append(in.addrs, prefix.Addr())
		default:
			in.nets = append(in.nets, prefix)
		}
	}
	in.nets = disjoint(in.nets)
	in.addrs = append(in.addrs, linkLocal(in.mac))
	return in, nil
}

func parseMAC(s string) (mac [6]byte, err error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return mac, err
	}
	if len(hw) != len(mac) {
		return mac, fmt.Errorf("MAC %q: not of 6 bytes", s)
	}
	return [6]byte(hw), nil
}

// parsePrefix takes a CIDR, or an address as one of full length.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q: an address with a zone", s)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("%q: write IPv4 as IPv4", s)
	}
	return p.Masked(), nil
}

// disjoint sorts prefixes and leaves out those within another.
func disjoint(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, netip.Prefix.Compare)
	var out []netip.Prefix
	for _, p := range ps {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// linkLocal is the address that a system makes from its MAC (RFC 4291, appendix A).
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// lastAddr is the last address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
