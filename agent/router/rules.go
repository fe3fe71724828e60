package router

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// table is the name of our nftables table in each namespace.
const table = "nereid"

// private are destinations that are never on the Internet (RFC 1918, 6598, 4193,
// 3927, 1122, 4291, 5771): packets to them do not leave by NAT, but to the external
// network's own subnet.
func private() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range []string{"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3",
		"fc00::/7", "fe80::/10", "ff00::/8", "::/127"} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// writer collects nftables text.
type writer struct{ strings.Builder }

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// set declares a set or map. Elements are sorted, and each is there once.
func (w *writer) set(what, name, typ, flags string, elements []string) {
	w.line("\t%s %s {\n\t\t%s", what, name, typ)
	if flags != "" {
		w.line("\t\t%s", flags)
	}
	if len(elements) > 0 {
		slices.Sort(elements)
		w.line("\t\telements = { %s }", strings.Join(slices.Compact(elements), ", "))
	}
	w.line("\t}")
}

// prefixes declares a set for each family.
func (w *writer) prefixes(name string, list []netip.Prefix) {
	for _, six := range []bool{false, true} {
		var e []string
		for _, p := range list {
			if p.Addr().Is6() == six {
				e = append(e, p.String())
			}
		}
		w.set("set", name+digit(six), "type "+addrType(six), "flags interval; auto-merge", e)
	}
}

// chain writes a chain with its lines, those empty left out.
func (w *writer) chain(name, hook string, lines ...string) {
	w.line("\tchain %s {", name)
	for _, l := range append([]string{hook}, lines...) {
		if l != "" {
			w.line("\t\t%s", l)
		}
	}
	w.line("\t}")
}

func digit(six bool) string {
	if six {
		return "6"
	}
	return "4"
}

// family is nftables' word for addresses of one family, and for its NAT.
func family(six bool) string {
	if six {
		return "ip6"
	}
	return "ip"
}

func addrType(six bool) string {
	if six {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// natAddr writes an address before a port.
func natAddr(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

func icmpWord(six bool) string {
	if six {
		return "icmpv6"
	}
	return "icmp"
}

// when gives s if ok, otherwise the empty line that chain leaves out.
func when(ok bool, format string, args ...any) string {
	if !ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// routerRules is the ruleset of a router's namespace. n may be nil. g is the
// router's part of the uplink.
func routerRules(legs []leg, n *nat, g grant, deny []netip.Prefix) string {
	if n == nil {
		n = &nat{}
	}
	var internal []netip.Prefix
	var names []string
	sources := map[bool][]string{}
	for _, l := range legs {
		names = append(names, l.name())
		for _, p := range l.gateways {
			internal = append(internal, p.Masked())
		}
		internal = slices.AppendSeq(internal, maps.Keys(l.routes))
		for _, p := range l.internet {
			sources[p.Addr().Is6()] = append(sources[p.Addr().Is6()], fmt.Sprintf("%s . %s", l.name(), p))
		}
	}
	var out, transit string // where it leaves by, empty: nowhere; the transit leg
	var six bool
	if n.uplink != nil || n.transit != nil {
		six = n.six()
	}
	ip, via := family(six), n.address.Masked()
	gateway := n.uplink != nil && n.transit != nil
	if n.transit != nil {
		transit, out = n.transit.name(), n.transit.name()
		internal = append(internal, via)
	}
	if n.uplink != nil {
		out = extName
	}
	slices.SortFunc(internal, netip.Prefix.Compare)

	w := &writer{}
	w.line("table inet %s {", table)
	w.line("\tcounter to_private { }\n\tcounter not_internet_nat { }\n\tcounter to_router { }")
	w.set("set", "legs", "type ifname", "", names)
	w.prefixes("internal", internal)
	w.prefixes("denied", deny)
	w.prefixes("private", private())
	for _, s := range []bool{false, true} {
		w.set("set", "sources"+digit(s), "type ifname . "+addrType(s), "flags interval", sources[s])
	}
	if len(n.forwards) > 0 {
		var e []string
		for _, f := range n.forwards {
			e = append(e, fmt.Sprintf("%s . %d : %s . %d", f.protocol, f.port, f.internal.Addr(), f.internal.Port()))
		}
		w.set("map", "forwards", "type inet_proto . inet_service : "+addrType(six)+" . inet_service", "", e)
	}
	// Of what is between networks of the account each server sees one direction,
	// which connection tracking would call invalid. Answers to a transit address
	// are tracked, but for those of the probes.
	w.chain("untracked", "type filter hook prerouting priority raw; policy accept;",
		`iifname "ext" accept`,
		when(n.transit != nil, `iifname %q %s saddr %s %s daddr %s %s type { echo-request, echo-reply } notrack accept`, transit, ip, via, ip, n.address.Addr(), icmpWord(six)),
		when(n.transit != nil, `%s daddr %s accept`, ip, n.address.Addr()),
		"ip daddr @internal4 notrack", "ip6 daddr @internal6 notrack")
	w.chain("untracked_own", "type filter hook output priority raw; policy accept;",
		"ip daddr @internal4 notrack", "ip6 daddr @internal6 notrack")
	w.chain("input", "type filter hook input priority filter; policy drop;",
		"iifname @legs meta l4proto { icmp, icmpv6 } accept",
		when(n.transit != nil, `iifname %q meta l4proto { icmp, icmpv6 } accept`, transit),
		"counter name to_router")
	w.chain("forward", "type filter hook forward priority filter; policy drop;",
		"iifname @legs oifname @legs accept",
		// The answer to a forward, to the gateway server it came in by.
		when(n.transit != nil, `iifname @legs oifname %q %s daddr %s accept`, transit, ip, via),
		when(out != "", "oifname %q goto leaving", out),
		when(out != "", "iifname %q goto arriving", out),
		"counter name not_internet_nat")
	w.chain("leaving", "",
		"ip daddr @denied4 counter name to_private drop", "ip6 daddr @denied6 counter name to_private drop",
		// A gateway server knows the external subnet, and does this for the others.
		when(n.uplink != nil && !six, "ip daddr != %s ip daddr @private4 counter name to_private drop", maskedOf(n.uplink)),
		when(n.uplink != nil && six, "ip6 daddr != %s ip6 daddr @private6 counter name to_private drop", maskedOf(n.uplink)),
		when(n.uplink != nil, "ct direction reply ct status dnat accept"),
		"meta l4proto != { tcp, udp, icmp, icmpv6 } counter name not_internet_nat drop",
		"tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu",
		"iifname . ip saddr @sources4 accept", "iifname . ip6 saddr @sources6 accept",
		when(gateway, "iifname %q %s saddr %s accept", transit, ip, via),
		"counter name not_internet_nat drop")
	w.chain("arriving", "", "ct state established,related accept", when(n.uplink != nil, "ct status dnat accept"), "drop")
	w.chain("destination", "type nat hook prerouting priority dstnat; policy accept;",
		when(len(n.forwards) > 0, `iifname "ext" %s daddr %s dnat %s to meta l4proto . th dport map @forwards`, ip, g.address.Addr(), ip))
	var source []string
	if n.uplink != nil {
		for _, proto := range []string{"tcp", "udp", icmpWord(six)} {
			source = append(source, fmt.Sprintf(`oifname "ext" %s saddr != %s meta l4proto %s snat %s to %s:%d-%d`, ip, g.address.Addr(), proto, ip, natAddr(g.address.Addr()), g.first, g.last()))
		}
	}
	source = append(source,
		when(gateway, "oifname @legs ct status dnat snat %s to %s", ip, n.address.Addr()),
		when(n.uplink == nil && n.transit != nil, "oifname %q %s daddr != %s snat %s to %s", transit, ip, via, ip, n.address.Addr()))
	w.chain("source", "type nat hook postrouting priority srcnat; policy accept;", source...)
	w.line("}")
	return w.String()
}

func maskedOf(u *uplink) string {
	if u == nil {
		return ""
	}
	return u.address.Masked().String()
}

// uplinkRules is the ruleset of the namespace between the routers and an external
// network. It tracks no connection. A "ct" expression makes the kernel register
// its defragmentation all the same, without which fragments have no ports.
func uplinkRules(s uplinkSpace, deny []netip.Prefix) string {
	owners, errs, echoes := map[bool][]string{}, map[bool][]string{}, map[bool][]string{}
	var links, addresses4, addresses6 []string
	for name, g := range s.links {
		links = append(links, name)
		a, six := g.address.Addr(), g.address.Addr().Is6()
		if six {
			addresses6 = append(addresses6, a.String())
		} else {
			addresses4 = append(addresses4, a.String())
		}
		for proto, number := range map[string]int{"tcp": 6, "udp": 17} {
			owners[six] = append(owners[six], fmt.Sprintf("%s . %s . %d-%d : %d", a, proto, g.first, g.last(), g.slot))
			errs[six] = append(errs[six], fmt.Sprintf("%s . %d . %d-%d : %d", a, number, g.first, g.last(), g.slot))
		}
		echoes[six] = append(echoes[six], fmt.Sprintf("%s . %d-%d : %d", a, g.first, g.last(), g.slot))
		for _, f := range s.forwards[name] {
			number := map[string]int{"tcp": 6, "udp": 17}[f.protocol]
			owners[six] = append(owners[six], fmt.Sprintf("%s . %s . %d : %d", a, f.protocol, f.port, g.slot))
			errs[six] = append(errs[six], fmt.Sprintf("%s . %d . %d : %d", a, number, f.port, g.slot))
		}
	}
	w := &writer{}
	w.line("table inet %s {", table)
	w.line("\tcounter to_private { }\n\tcounter to_nobody { }")
	w.set("set", "links", "type ifname", "", links)
	w.set("set", "addresses4", "type ipv4_addr", "", addresses4)
	w.set("set", "addresses6", "type ipv6_addr", "", addresses6)
	w.prefixes("denied", deny)
	// An ICMP error quotes the packet that it is about (RFC 792, RFC 4443): its
	// protocol and source port are at fixed places when it has no options.
	for _, six := range []bool{false, true} {
		proto, port := "@th,136,8", "@th,224,16"
		if six {
			proto, port = "@th,112,8", "@th,384,16"
		}
		w.set("map", "owners"+digit(six), "type "+addrType(six)+" . inet_proto . inet_service : mark", "flags interval", owners[six])
		w.set("map", "errors"+digit(six), fmt.Sprintf("typeof %s daddr . %s . %s : meta mark", family(six), proto, port), "flags interval", errs[six])
		w.set("map", "echoes"+digit(six), fmt.Sprintf("typeof %s daddr . %s id : meta mark", family(six), icmpWord(six)), "flags interval", echoes[six])
	}
	const errors4, errors6 = "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
		"icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
	w.chain("owner_of_error", "",
		errors4+" @th,136,8 1 meta mark set ip daddr . @th,256,16 map @echoes4",
		errors4+" @th,136,8 != 1 meta mark set ip daddr . @th,136,8 . @th,224,16 map @errors4",
		errors6+" @th,112,8 58 meta mark set ip6 daddr . @th,416,16 map @echoes6",
		errors6+" @th,112,8 != 58 meta mark set ip6 daddr . @th,112,8 . @th,384,16 map @errors6")
	w.chain("owner", "type filter hook prerouting priority raw; policy accept;",
		"notrack",
		"meta l4proto { tcp, udp } meta mark set ip daddr . meta l4proto . th dport map @owners4",
		"meta l4proto { tcp, udp } meta mark set ip6 daddr . meta l4proto . th dport map @owners6",
		"icmp type echo-reply meta mark set ip daddr . icmp id map @echoes4",
		"icmpv6 type echo-reply meta mark set ip6 daddr . icmpv6 id map @echoes6",
		"jump owner_of_error")
	w.chain("untracked_own", "type filter hook output priority raw; policy accept;", "notrack")
	// Errors about what a router sent go to the external address, our own.
	w.chain("own_errors", "type route hook output priority mangle; policy accept;", "jump owner_of_error")
	w.chain("input", "type filter hook input priority filter; policy drop;",
		`iifname "up" icmp type { echo-request, destination-unreachable, time-exceeded } accept`,
		`iifname "up" icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, nd-neighbor-solicit, nd-neighbor-advert } accept`,
		"counter name to_nobody")
	w.chain("forward", "type filter hook forward priority filter; policy drop;",
		"ip daddr @denied4 counter name to_private drop", "ip6 daddr @denied6 counter name to_private drop",
		"ct state != untracked drop",
		`iifname "up" meta mark != 0 oifname @links accept`,
		`iifname @links oifname "up" ip saddr @addresses4 accept`,
		`iifname @links oifname "up" ip6 saddr @addresses6 accept`,
		// From one account to what another forwards.
		"iifname @links meta mark != 0 oifname @links accept",
		"counter name to_nobody")
	w.line("}")
	return w.String()
}
