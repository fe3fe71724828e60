package router

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// kind is what an item is. Items are made in this order and removed in the
// opposite one: rules are there before a link is up, and sysctls before the links
// that take their defaults from them.
type kind int

const (
	kindSpace  kind = iota // network namespace
	kindRules              // its nftables rules
	kindSysctl             // of a namespace
	kindVeth               // pair of interfaces, by its outer end
	kindMTU                // of an interface
	kindPort               // an interface's place on a bridge
	kindAddr               // address of an interface
	kindFDB                // static forwarding entry at a bridge port
	kindNeigh              // permanent neighbour
	kindPolicy             // the local routing table asked only for unmarked packets
	kindUp                 // interface is up
	kindRoute
	kindRule // packets with mark N use table N
)

func (k kind) String() string {
	return [...]string{"namespace", "rules", "sysctl", "veth", "mtu", "port", "address", "fdb", "neighbour", "policy", "up", "route", "rule"}[k]
}

// key names one thing in the kernel. Fields that its kind has no use for are
// zero.
type key struct {
	Kind kind
	At   string       // namespace, empty: the server's own
	Link string       // interface; of a sysctl, its path below /proc/sys
	Addr netip.Prefix // address, neighbour (whole length) or destination
	MAC  string       // of a forwarding entry
	N    int          // routing table; mark of a rule
	Six  bool         // IPv6, of a rule
}

func (k key) String() string {
	s := []string{k.Kind.String(), cmp.Or(k.At, "server")}
	for _, part := range []string{k.Link, k.MAC} {
		if part != "" {
			s = append(s, part)
		}
	}
	if k.Addr.IsValid() {
		s = append(s, k.Addr.String())
	}
	if k.N != 0 {
		s = append(s, fmt.Sprint(k.N))
	}
	if k.Six {
		s = append(s, "inet6")
	}
	return strings.Join(s, " ")
}

// item is a thing and how it is. Value is comparable: a string, a number, or one
// of the structs below.
type item struct {
	key
	Value any
	For   string // namespace of the router or uplink that it is part of
}

func (i item) String() string {
	if i.Value == true {
		return i.key.String()
	}
	return fmt.Sprintf("%v = %v", i.key, i.Value)
}

// veth is a pair. Its outer end is the key's.
type veth struct {
	Space string // where the inner end is
	Inner string // its name
	MAC   string // its MAC
	Outer string // MAC of the outer end; empty: any
	Note  string // ends up in the aliases
}

func (v veth) String() string {
	return strings.TrimRight(fmt.Sprintf("%s %s %s %s %s", v.Space, v.Inner, v.MAC, cmp.Or(v.Outer, "-"), v.Note), " ")
}

// parseVeth is the inverse of String. Other packages' links have other words at its
// beginning.
func parseVeth(s string) (veth, bool) {
	f := strings.SplitN(s, " ", 5)
	if len(f) < 4 || !strings.HasPrefix(f[0], "nr-") {
		return veth{}, false
	}
	v := veth{Space: f[0], Inner: f[1], MAC: f[2], Outer: f[3]}
	if v.Outer == "-" {
		v.Outer = ""
	}
	if len(f) == 5 {
		v.Note = f[4]
	}
	return v, true
}

// port is a bridge port's settings that matter here.
type port struct {
	Bridge string
	Flags  portFlags
}

type portFlags struct {
	Learning, Flood, McastFlood, BcastFlood bool
	NeighSuppress, ProxyARPWiFi             bool
}

// hop is where a route leads.
type hop struct {
	Via netip.Addr
	Dev string
}

// state is what there is: what this package made, and the little it must know of
// the rest.
type state struct {
	Items   map[key]item
	Bridges map[string]int    // MTU of each bridge of the server
	Names   map[string]string // of each bridge by its names: it may have alternative ones
	Foreign map[string]string // names of namespaces and of interfaces that others made, and what they are
}

func (s *state) put(i item) { s.Items[i.key] = i }

// String prints the items one a line, sorted.
func (s *state) String() string {
	var b strings.Builder
	for _, i := range sorted(s.Items) {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func sorted(items map[key]item) []item {
	list := make([]item, 0, len(items))
	for _, i := range items {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.At, b.At), cmp.Compare(a.Link, b.Link), cmp.Compare(a.N, b.N),
			a.Addr.Addr().Compare(b.Addr.Addr()), cmp.Compare(a.Addr.Bits(), b.Addr.Bits()), cmp.Compare(a.MAC, b.MAC), cmp.Compare(family(a.Six), family(b.Six)))
	})
	return list
}
