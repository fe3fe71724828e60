package router

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// mainTable is the kernel's main routing table (RT_TABLE_MAIN).
const mainTable = 254

// External side and router side of the link between their namespaces.
var (
	uplinkEnd = netip.MustParsePrefix("fe80::1/64")
	routerEnd = netip.MustParsePrefix("fe80::2/64")
)

// Names of interfaces in our namespaces.
const (
	extName = "ext" // in a router: to the uplink
	upName  = "up"  // in an uplink: to the tag's bridge
)

// desired is what there shall be.
type desired struct {
	items    map[key]item
	rules    map[string]string // nftables text by digest
	keep     map[string]bool   // namespaces that are left as they are
	paths    []path
	problems []error
	env      Env
	have     *state
	owners   map[string]string // owner to the namespace that there is
	taken    map[string]bool
}

// desire says what there shall be for accounts, given what there is: names of
// namespaces, blocks of ports and the gateway server in use are kept. broken are
// the owners whose spec cannot be met.
func desire(accounts []account, broken []string, have *state, env Env) *desired {
	d := &desired{items: map[key]item{}, rules: map[string]string{}, keep: map[string]bool{}, env: env, have: have,
		owners: map[string]string{}, taken: map[string]bool{}}
	for k, i := range have.Items {
		if k.Kind != kindSpace {
			continue
		}
		if owner, ok := strings.CutPrefix(i.Value.(string), "router "); ok {
			d.owners[owner] = k.At
		}
	}
	slices.SortFunc(accounts, func(a, b account) int { return cmp.Compare(a.owner, b.owner) })
	for _, owner := range broken {
		if name := d.owners[owner]; name != "" {
			d.keep[name] = true
		}
	}
	up := newUplinks(d)
	for i := range accounts {
		up.join(&accounts[i])
	}
	for _, a := range accounts {
		d.router(a, up.grants[a.owner])
	}
	up.items()
	return d
}

func (d *desired) problem(owner, format string, args ...any) {
	d.problems = append(d.problems, fmt.Errorf("router of %s: "+format, append([]any{owner}, args...)...))
}

func (d *desired) add(of string, k key, v any) { d.items[k] = item{k, v, of} }

// name is the namespace of an owner's router: the one it has, otherwise nr- and
// as many of the UUID's digits, at least 8, as make it unique here.
func (d *desired) name(owner string) (string, bool) {
	if name := d.owners[owner]; name != "" {
		return name, true
	}
	hex := strings.ReplaceAll(owner, "-", "")
	for n := 8; n <= len(hex); n++ {
		name := "nr-" + hex[:n]
		_, made := d.have.Items[key{Kind: kindSpace, At: name}]
		if made || d.taken[name] || d.have.Foreign[name] != "" {
			continue
		}
		d.taken[name] = true
		return name, true
	}
	return "", false
}

// router adds the items of an account's router.
func (d *desired) router(a account, g grant) {
	space, ok := d.name(a.owner)
	if !ok {
		d.problem(a.owner, "all namespaces with the name nr-%s... are of others", a.owner[:8])
		return
	}
	d.base(space, "router "+a.owner, nil)
	var legs []leg // that can be made
	for _, l := range a.legs {
		if d.leg(space, a.owner, l) {
			legs = append(legs, l)
		}
	}
	n := a.nat
	if n != nil && n.transit != nil && !d.leg(space, a.owner, *n.transit) {
		n = &nat{uplink: n.uplink, forwards: n.forwards}
	}
	if n != nil && n.uplink != nil {
		if g.slot == 0 {
			n = &nat{transit: n.transit, address: n.address} // said why already
		} else {
			d.ext(space, a.owner, n, g)
		}
	}
	if n != nil && n.uplink == nil && n.transit != nil && len(n.via) > 0 {
		d.paths = append(d.paths, d.via(space, a.owner, n))
	}
	for _, l := range legs {
		for dst, next := range l.routes {
			d.route(space, space, mainTable, dst, hop{next, l.name()})
		}
	}
	d.ruleset(space, routerRules(legs, n, g, d.env.Deny))
}

// base adds what every namespace has.
func (d *desired) base(space, note string, more map[string]string) {
	d.add(space, key{Kind: kindSpace, At: space}, note)
	d.add(space, key{Kind: kindUp, At: space, Link: "lo"}, true)
	for _, m := range []map[string]string{sysctls(), more} {
		for path, value := range m {
			d.add(space, key{Kind: kindSysctl, At: space, Link: path}, value)
		}
	}
}

// legFlags are of a leg's port. The router itself answers ARP and neighbour
// solicitations for the gateway, so that it has to hear them. See the package's
// comment for why neither neigh_suppress nor proxy_arp_wifi is on.
func legFlags() portFlags { return portFlags{McastFlood: true, BcastFlood: true} }

// uplinkFlags are of a port on a NIC tag's bridge: an ordinary one.
func uplinkFlags() portFlags {
	return portFlags{Learning: true, Flood: true, McastFlood: true, BcastFlood: true}
}

// bridge is the name of a NIC tag's bridge, empty: it is not there. The one that
// Env gives may be an alternative name.
func (d *desired) bridge(tag string, vlan int) string { return d.have.Names[d.env.bridge(tag, vlan)] }

// leg adds a router's leg on a VNI. Without the VNI's bridge there is none.
func (d *desired) leg(space, owner string, l leg) bool {
	bridge := fmt.Sprintf("vb%d", l.vni)
	outer := hostName(owner, l.vni, l.mac)
	if !d.pair(space, owner, l.name(), outer, bridge, legFlags(), l.mac, "leg "+owner) {
		return false
	}
	d.add(space, key{Kind: kindFDB, Link: outer, MAC: l.mac}, true)
	addrs := append([]netip.Prefix{netip.PrefixFrom(linkLocal(l.mac), 64)}, l.gateways...)
	for _, p := range addrs {
		d.add(space, key{Kind: kindAddr, At: space, Link: l.name(), Addr: p}, true)
		d.add(space, key{Kind: kindNeigh, Link: bridge, Addr: host(p.Addr())}, l.mac)
	}
	return true
}

// pair adds a pair from a namespace to a bridge of the server.
func (d *desired) pair(space, owner, inner, outer, bridge string, flags portFlags, mac, note string) bool {
	mtu, there := d.have.Bridges[bridge]
	if !there {
		d.problem(owner, "bridge %s is not there", bridge)
		return false
	}
	if what := d.have.Foreign[outer]; what != "" {
		d.problem(owner, "interface %s is there and was made by another (%s); remove it", outer, what)
		return false
	}
	d.add(space, key{Kind: kindVeth, Link: outer}, veth{Space: space, Inner: inner, MAC: mac, Outer: highMAC(outer), Note: note})
	d.add(space, key{Kind: kindPort, Link: outer}, port{bridge, flags})
	for _, end := range []key{{Link: outer}, {At: space, Link: inner}} {
		end.Kind = kindMTU
		d.add(space, end, mtu)
		end.Kind = kindUp
		d.add(space, end, true)
	}
	return true
}

// ext adds the link between a router and its uplink, and the routes both ways.
func (d *desired) ext(space, owner string, n *nat, g grant) {
	u := uplinkName(n.uplink.tag, n.uplink.vlan)
	outer := hostName(owner, "ext")
	v := veth{Space: space, Inner: extName, MAC: madeMAC(owner, "router end"), Outer: madeMAC(owner, "uplink end"), Note: g.String()}
	d.add(space, key{Kind: kindVeth, At: u, Link: outer}, v)
	mtu := d.have.Bridges[d.bridge(n.uplink.tag, n.uplink.vlan)]
	for _, e := range []struct {
		at, link, peer string
		own, other     netip.Prefix
	}{{u, outer, v.MAC, uplinkEnd, routerEnd}, {space, extName, v.Outer, routerEnd, uplinkEnd}} {
		d.add(space, key{Kind: kindMTU, At: e.at, Link: e.link}, mtu)
		d.add(space, key{Kind: kindUp, At: e.at, Link: e.link}, true)
		d.add(space, key{Kind: kindAddr, At: e.at, Link: e.link, Addr: e.own}, true)
		d.add(space, key{Kind: kindNeigh, At: e.at, Link: e.link, Addr: host(e.other.Addr())}, e.peer)
	}
	any := anywhere(n.six())
	d.route(space, space, mainTable, any, hop{uplinkEnd.Addr(), extName})
	d.route(space, u, g.table(), any, hop{routerEnd.Addr(), outer})
	d.add(space, key{Kind: kindRule, At: u, N: g.slot, Six: n.six()}, g.table())
}

// via adds the default route by a gateway server: the one in use, or the first.
func (d *desired) via(space, owner string, n *nat) path {
	k := key{Kind: kindRoute, At: space, Addr: anywhere(n.six()), N: mainTable}
	h := hop{n.via[0], n.transit.name()}
	if have, ok := d.have.Items[k].Value.(hop); ok && slices.Contains(n.via, have.Via) {
		h.Via = have.Via
	}
	d.add(space, k, h)
	return path{owner: owner, space: space, link: h.Dev, from: n.address.Addr(), via: n.via, active: h.Via}
}

// route adds a route. Of two to one destination the first stays, which is the
// same one each time.
func (d *desired) route(of, at string, table int, dst netip.Prefix, h hop) {
	k := key{Kind: kindRoute, At: at, Addr: dst, N: table}
	if _, there := d.items[k]; there {
		d.problems = append(d.problems, fmt.Errorf("router %s: a second route to %s, by %s, is left out", of, dst, h.Via))
		return
	}
	d.add(of, k, h)
}

func (d *desired) ruleset(space, text string) {
	sum := digest(text)
	d.rules[sum] = text
	d.add(space, key{Kind: kindRules, At: space}, sum)
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func anywhere(six bool) netip.Prefix {
	if six {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// sysctls are those of each of our namespaces. What is set for "default" holds
// for interfaces made later, "all" has the rest.
func sysctls() map[string]string {
	m := map[string]string{
		"net/ipv4/ip_forward":              "1",
		"net/ipv6/conf/all/forwarding":     "1",
		"net/ipv6/conf/all/disable_ipv6":   "0",
		"net/ipv4/conf/all/arp_announce":   "2", // ask from the leg's own address
		"net/ipv4/conf/all/arp_ignore":     "1", // answer for the leg's own addresses only
		"net/ipv6/conf/default/accept_dad": "0", // the same address is on every server
		// Link-local addresses are given explicitly.
		"net/ipv6/conf/default/addr_gen_mode": "1",
		// Five days of the kernel's default would hold ports of connections
		// whose ends are gone; RFC 5382 asks for 2 h 4 min at least.
		"net/netfilter/nf_conntrack_tcp_timeout_established": "7440",
	}
	for _, which := range []string{"all", "default"} {
		// Packets from A to B are routed on A's server and the answers on B's, so
		// that no reverse path is ever right.
		m["net/ipv4/conf/"+which+"/rp_filter"] = "0"
		m["net/ipv4/conf/"+which+"/accept_redirects"] = "0"
		m["net/ipv4/conf/"+which+"/send_redirects"] = "0"
		m["net/ipv4/conf/"+which+"/accept_source_route"] = "0"
		m["net/ipv6/conf/"+which+"/accept_ra"] = "0"
		m["net/ipv6/conf/"+which+"/accept_redirects"] = "0"
	}
	return m
}
