package router

import (
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Ports of an external address are given to routers in blocks. The more are
// taken, the smaller are new ones: 32nds of what is free.
const (
	minBlock = 64
	maxBlock = 1024
)

// grant is an account's part of an uplink: packets to address and ports are
// marked with the slot and routed by its table. A slot of 0 is none.
type grant struct {
	slot    int
	first   int // port
	size    int
	address netip.Prefix
}

func (g grant) table() int { return 1000 + g.slot }

func (g grant) last() int { return g.first + g.size - 1 }

// String is kept in the alias of the account's link.
func (g grant) String() string {
	return fmt.Sprintf("slot %d ports %d+%d at %s", g.slot, g.first, g.size, g.address)
}

func parseGrant(s string) (g grant, ok bool) {
	var addr string
	if n, err := fmt.Sscanf(s, "slot %d ports %d+%d at %s", &g.slot, &g.first, &g.size, &addr); n != 4 || err != nil {
		return grant{}, false
	}
	var err error
	g.address, err = netip.ParsePrefix(addr)
	return g, err == nil && g.slot > 0 && g.first >= firstBlockPort && g.size >= minBlock && g.last() < 1<<16
}

// block finds a free block next to those used on the same address. Blocks are
// aligned to their size.
func block(used []grant) (first, size int, ok bool) {
	free := 1<<16 - firstBlockPort
	for _, u := range used {
		free -= u.size
	}
	want := free / 32
	if want > 0 {
		want = 1 << (bits.Len(uint(want)) - 1)
	}
	for size = min(max(want, minBlock), maxBlock); size >= minBlock; size /= 2 {
		for first = firstBlockPort; first < 1<<16; first += size {
			if !slices.ContainsFunc(used, func(u grant) bool { return first <= u.last() && u.first <= first+size-1 }) {
				return first, size, true
			}
		}
	}
	return 0, 0, false
}

func uplinkName(tag string, vlan int) string { return fmt.Sprintf("nr-external-%s-%d", tag, vlan) }

// uplinks are the namespaces between routers and external networks.
type uplinks struct {
	d      *desired
	grants map[string]grant // by owner
	all    map[string]*uplinkSpace
	given  map[string]map[string]grant // by uplink and link: those there are, and new ones
}

type uplinkSpace struct {
	uplink
	bridge   string
	gateways map[bool]netip.Addr // by whether IPv6
	links    map[string]grant    // by the name of the link to the router
	forwards map[string][]forward
}

func newUplinks(d *desired) *uplinks {
	u := &uplinks{d, map[string]grant{}, map[string]*uplinkSpace{}, map[string]map[string]grant{}}
	for k, i := range d.have.Items {
		if v, ok := i.Value.(veth); ok && k.At != "" {
			if g, ok := parseGrant(v.Note); ok {
				u.give(k.At, k.Link, g)
			}
		}
	}
	return u
}

func (u *uplinks) give(name, link string, g grant) {
	if u.given[name] == nil {
		u.given[name] = map[string]grant{}
	}
	u.given[name][link] = g
}

// join gives an account its grant: the one it has, when it is still right,
// otherwise a new one that takes nothing from any other.
func (u *uplinks) join(a *account) {
	if a.nat == nil || a.nat.uplink == nil {
		return
	}
	want := a.nat.uplink
	name := uplinkName(want.tag, want.vlan)
	bridge := u.d.bridge(want.tag, want.vlan)
	if bridge == "" {
		u.d.problem(a.owner, "internet NAT: NIC tag %s has no bridge for VLAN %d on this server", want.tag, want.vlan)
		return
	}
	if u.d.env.Server == "" {
		u.d.problem(a.owner, "internet NAT: this server's UUID is not known, and its external MAC is made of it")
		return
	}
	if what := u.d.have.Foreign[name]; what != "" {
		u.d.problem(a.owner, "internet NAT: namespace %s is there and was made by another (%s); remove it", name, what)
		return
	}
	s := u.all[name]
	if s == nil {
		s = &uplinkSpace{*want, bridge, map[bool]netip.Addr{}, map[string]grant{}, map[string][]forward{}}
		u.all[name] = s
	}
	six := want.address.Addr().Is6()
	if have, other := s.gateways[six]; other && have != want.gateway {
		u.d.problem(a.owner, "internet NAT: gateway %s on NIC tag %s VLAN %d, where another account has %s; use one gateway", want.gateway, want.tag, want.vlan, have)
		return
	}
	link := hostName(a.owner, "ext")
	g, ok := u.given[name][link]
	if !ok || g.address != want.address {
		if g, ok = u.grant(name, link, want.address); !ok {
			u.d.problem(a.owner, "internet NAT: all ports of %s are given out, to %d accounts; give the NAT network more addresses", want.address.Addr(), len(u.given[name]))
			return
		}
	}
	s.gateways[six] = want.gateway
	u.give(name, link, g)
	s.links[link], s.forwards[link] = g, a.nat.forwards
	u.grants[a.owner] = g
}

// grant makes a new one for a link. What it has is free for it.
func (u *uplinks) grant(name, link string, address netip.Prefix) (grant, bool) {
	var used []grant
	slots := map[int]bool{}
	for other, g := range u.given[name] {
		if other == link {
			continue
		}
		slots[g.slot] = true
		if g.address.Addr() == address.Addr() {
			used = append(used, g)
		}
	}
	g := grant{slot: 1, address: address}
	for slots[g.slot] {
		g.slot++
	}
	var ok bool
	g.first, g.size, ok = block(used)
	return g, ok
}

// items adds those of the namespaces themselves.
func (u *uplinks) items() {
	d := u.d
	for _, name := range slices.Sorted(maps.Keys(u.all)) {
		s := u.all[name]
		if len(s.links) == 0 {
			continue
		}
		mac := madeMAC(d.env.Server, s.tag, s.vlan)
		outer := hostName("uplink", s.tag, s.vlan)
		d.base(name, fmt.Sprintf("uplink %s %d", s.tag, s.vlan), map[string]string{
			// What routers send has an address of this namespace as its source.
			"net/ipv4/conf/all/accept_local":     "1",
			"net/ipv4/conf/default/accept_local": "1",
		})
		d.add(name, key{Kind: kindPolicy, At: name}, true)
		d.pair(name, "all accounts", upName, outer, s.bridge, uplinkFlags(), mac, "uplink "+s.tag)
		d.add(name, key{Kind: kindAddr, At: name, Link: upName, Addr: netip.PrefixFrom(linkLocal(mac), 64)}, true)
		for _, g := range s.links {
			d.add(name, key{Kind: kindAddr, At: name, Link: upName, Addr: g.address}, true)
		}
		for six, gw := range s.gateways {
			d.route(name, name, mainTable, anywhere(six), hop{gw, upName})
		}
		// A router that is left as it is keeps its part.
		for link, g := range u.given[name] {
			if i := d.have.Items[key{Kind: kindVeth, At: name, Link: link}]; d.keep[i.For] {
				s.links[link] = g
				d.add(name, key{Kind: kindAddr, At: name, Link: upName, Addr: g.address}, true)
			}
		}
		d.ruleset(name, uplinkRules(*s, d.env.Deny))
	}
	// An uplink that only routers in keep use stays with them.
	for k, i := range d.have.Items {
		if k.Kind == kindVeth && d.keep[i.For] && strings.HasPrefix(k.At, "nr-external-") {
			if s := u.all[k.At]; s == nil || len(s.links) == 0 {
				d.keep[k.At] = true
			}
		}
	}
}
