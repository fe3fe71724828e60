package answers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Interface is a network interface of this machine.
type Interface struct {
	Name      string
	Loopback  bool
	Up        bool
	Addresses []netip.Prefix
}

func (n Interface) has(ip netip.Addr) bool {
	return slices.ContainsFunc(n.Addresses, func(p netip.Prefix) bool { return p.Addr() == ip })
}

// Missing says what of the admin network this machine does not have: its
// interface, or the head node's address on it.
func (a Admin) Missing(here []Interface) []Fault {
	var on *Interface // the admin interface
	other := ""       // an interface that has the address
	for i, n := range here {
		switch {
		case n.Name == a.Interface:
			on = &here[i]
		case n.has(a.Address.Addr()):
			other = n.Name
		}
	}
	if on == nil {
		return []Fault{{Key: "admin.interface", Text: fmt.Sprintf("this machine has no interface %s; it has %s", a.Interface, names(here))}}
	}
	if on.has(a.Address.Addr()) || on.Loopback && a.Address.Addr().IsLoopback() {
		return nil
	}
	f := Fault{Key: "admin.address", Text: fmt.Sprintf("%s does not have %s; give it the address with: ip address add %s dev %s", on.Name, a.Address.Addr(), a.Address, on.Name)}
	if other != "" {
		f.Text = fmt.Sprintf("%s is on interface %s, not on %s", a.Address.Addr(), other, on.Name)
	}
	return []Fault{f}
}

// suggest gives the defaults of the questions about the admin network on this
// machine: an interface that exists, its address, and a range beside that.
func suggest(here []Interface) (iface, address string) {
	iface, address = "admin0", "10.99.99.7/24"
	i := slices.IndexFunc(here, func(n Interface) bool { return n.Name == iface })
	if i < 0 {
		i = slices.IndexFunc(here, func(n Interface) bool { return !n.Loopback })
	}
	if i < 0 {
		return iface, address
	}
	for _, p := range here[i].Addresses {
		if p.Addr().Is4() {
			return here[i].Name, p.String()
		}
	}
	return here[i].Name, address
}

// rangeBeside gives a range for servers in the network of an address: hosts 100
// to 250, or 10 to 99 where the head node is among those.
func rangeBeside(address string) string {
	p, err := netip.ParsePrefix(address)
	if err != nil || !p.Addr().Is4() || p.Bits() > 24 {
		return "10.99.99.100 10.99.99.250"
	}
	b := p.Addr().As4()
	host := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{b[0], b[1], b[2], n}) }
	if b[3] >= 100 && b[3] <= 250 {
		return host(10).String() + " " + host(99).String()
	}
	return host(100).String() + " " + host(250).String()
}

// names lists the interfaces of this machine.
func names(here []Interface) string {
	out := make([]string, len(here))
	for i, n := range here {
		out[i] = n.Name
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
