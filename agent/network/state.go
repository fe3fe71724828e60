package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// State is what is there, of one network namespace.
type State struct {
	Links map[string]*Link `json:"links"` // by name
}

// Link is a network interface. Links that are to be made are described by the
// same type; Index and what only the kernel knows are then zero.
type Link struct {
	Index    int32    `json:"index,omitempty"`
	Name     string   `json:"name"`
	AltNames []string `json:"alt_names,omitempty"`
	Kind     string   `json:"kind,omitempty"` // the kernel's; empty: a device
	Alias    string   `json:"alias,omitempty"`
	MAC      string   `json:"mac,omitempty"`
	PermMAC  string   `json:"perm_mac,omitempty"` // the hardware's, where it says so
	MTU      int      `json:"mtu"`
	MaxMTU   int      `json:"max_mtu,omitempty"` // 0: not known
	Up       bool     `json:"up,omitempty"`
	Carrier  bool     `json:"-"`
	Loopback bool     `json:"-"`
	Master   string   `json:"master,omitempty"`
	Parent   string   `json:"parent,omitempty"` // VLAN: the device below
	Closed   bool     `json:"closed,omitempty"` // the host has no IP there

	VLAN  int        `json:"vlan,omitempty"`
	VNI   uint32     `json:"vni,omitempty"`
	Local netip.Addr `json:"local,omitzero"` // VXLAN: source of its packets
	Plain bool       `json:"-"`              // VXLAN: nolearning, port 4789, as it is made here
	Mode  string     `json:"mode,omitempty"` // bond
	Rate  string     `json:"rate,omitempty"` // bond, 802.3ad: slow or fast

	Flags  PortFlags `json:"flags,omitzero"` // as a port of a bridge
	Member Member    `json:"-"`              // as a member of a bond
	Stats  Stats     `json:"-"`

	Addrs  []Addr  `json:"addrs,omitempty"`  // without link-local ones
	Routes []Route `json:"routes,omitempty"` // of the main table, but for those that come with an address
}

// dumped is a link as read, with the indexes of others instead of their names.
type dumped struct {
	Link
	master, parent int32
	foreignParent  bool // the parent's index is of another namespace
	open4, open6   bool
}

// named is the link with the names of others, found by their indexes.
func (d *dumped) named(name func(index int32) string) *Link {
	l := d.Link
	if d.master != 0 {
		l.Master = name(d.master)
	}
	if d.parent != 0 && !d.foreignParent && d.Kind == "vlan" {
		l.Parent = name(d.parent)
	}
	if d.Loopback {
		l.Addrs, l.Routes = nil, nil
	}
	return &l
}

// PortFlags are the flags of a bridge port that matter here (IFLA_BRPORT_*).
type PortFlags struct {
	Learning, Flood, McastFlood, BcastFlood bool
	NeighSuppress, ProxyARPWiFi             bool
}

// Flags of the ports that are made here.
var (
	// A port that does not isolate anything: a bridge's default.
	openPort = PortFlags{Learning: true, Flood: true, McastFlood: true, BcastFlood: true}
	// A VXLAN device: nothing is learnt or flooded, ARP and ND are answered for
	// what is behind it.
	vxlanPort = PortFlags{NeighSuppress: true}
	// An instance's NIC on a VNI: see doc.go.
	fabricPort = PortFlags{McastFlood: true, ProxyARPWiFi: true}
)

// Member is the state of a bond's member in 802.3ad (IFLA_BOND_SLAVE_AD_*), as in
// IEEE 802.1AX, section 6.4.2.3.
type Member struct {
	Actor, Partner uint8
}

// Stats are a link's counters.
type Stats struct {
	RxBytes, TxBytes, RxErrors, TxErrors, RxDropped, TxDropped uint64
}

// Addr is an address of a link.
type Addr struct {
	Prefix netip.Prefix `json:"prefix"` // host bits included
	Ours   bool         `json:"ours,omitempty"`
}

// Route is a unicast route by a link.
type Route struct {
	Dst    netip.Prefix `json:"dst"`
	Via    netip.Addr   `json:"via,omitzero"`
	Metric int          `json:"metric,omitempty"`
	Proto  int          `json:"proto,omitempty"`
}

func (r Route) String() string {
	s := r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

func (a Addr) String() string { return a.Prefix.String() }

func (f PortFlags) String() string {
	var on []string
	for _, x := range []struct {
		name string
		is   bool
	}{{"learning", f.Learning}, {"flood", f.Flood}, {"mcast_flood", f.McastFlood}, {"bcast_flood", f.BcastFlood},
		{"neigh_suppress", f.NeighSuppress}, {"proxy_arp_wifi", f.ProxyARPWiFi}} {
		if x.is {
			on = append(on, x.name)
		}
	}
	return "[" + strings.Join(on, " ") + "]"
}

// String prints the links that are not the loopback's, sorted by name. Two states
// that print the same are the same to a plan.
func (s *State) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.Links)) {
		if l := s.Links[name]; !l.Loopback {
			b.WriteString(l.String())
		}
	}
	return b.String()
}

// String is the link's line, and one more for each address and route.
func (l *Link) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s mtu %d", l.Name, l.describe(), l.MTU)
	if l.Master != "" {
		fmt.Fprintf(&b, " master %s", l.Master)
		if l.Flags != (PortFlags{}) {
			fmt.Fprintf(&b, " %s", l.Flags)
		}
	}
	for _, f := range []struct {
		word string
		is   bool
	}{{"up", l.Up}, {"closed", l.Closed}} {
		if f.is {
			b.WriteString(" " + f.word)
		}
	}
	if len(l.AltNames) > 0 {
		fmt.Fprintf(&b, " also %s", strings.Join(slices.Sorted(slices.Values(l.AltNames)), " "))
	}
	if l.Alias != "" {
		fmt.Fprintf(&b, " %q", l.Alias)
	}
	b.WriteByte('\n')
	addrs := slices.Clone(l.Addrs)
	slices.SortFunc(addrs, func(a, b Addr) int { return strings.Compare(a.String(), b.String()) })
	for _, a := range addrs {
		fmt.Fprintf(&b, "  %s\n", a)
	}
	routes := slices.Clone(l.Routes)
	slices.SortFunc(routes, func(a, b Route) int { return strings.Compare(a.String(), b.String()) })
	for _, r := range routes {
		fmt.Fprintf(&b, "  route %s\n", r)
	}
	return b.String()
}

func (l *Link) describe() string {
	switch l.Kind {
	case "":
		return "device " + l.MAC
	case "vxlan":
		return fmt.Sprintf("vxlan %d local %s", l.VNI, l.Local)
	case "vlan":
		return fmt.Sprintf("vlan %d on %s", l.VLAN, l.Parent)
	case "bond":
		return strings.TrimSpace("bond " + l.Mode + " " + l.Rate)
	}
	return l.Kind
}

// clone copies a state deeply.
func (s *State) clone() *State {
	c := &State{Links: make(map[string]*Link, len(s.Links))}
	for name, l := range s.Links {
		c.Links[name] = l.clone()
	}
	return c
}

func (l *Link) clone() *Link {
	c := *l
	c.AltNames, c.Addrs, c.Routes = slices.Clone(l.AltNames), slices.Clone(l.Addrs), slices.Clone(l.Routes)
	return &c
}

// find is a link by its name or an alternative name.
func (s *State) find(name string) *Link {
	if l := s.Links[name]; l != nil {
		return l
	}
	for _, l := range s.Links {
		if len(l.AltNames) > 0 && slices.Contains(l.AltNames, name) {
			return l
		}
	}
	return nil
}

// ports are the links that have a master, sorted.
func (s *State) ports(master string) []*Link {
	var p []*Link
	for _, name := range slices.Sorted(maps.Keys(s.Links)) {
		if l := s.Links[name]; l.Master == master {
			p = append(p, l)
		}
	}
	return p
}
