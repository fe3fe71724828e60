package firewall

import "slices"

// judgePriority is where filtering of bridges belongs (NF_BR_PRI_FILTER_BRIDGED).
const judgePriority = -200

// zonePriority is before connection tracking of bridges (-200, like NF_IP_PRI_CONNTRACK).
const zonePriority = -300

func connIs(k conn, value ...byte) []expression {
	return []expression{loadConn{k, 8}, equal{reg: 8, value: value}}
}

func stateIs(state uint32) []expression {
	return []expression{loadConn{connState, 8}, equal{reg: 8, value: encodeNumber(state)}}
}

// noPort ends a chain for what is not of a port, whose names begin with prefix. It
// costs a comparison, and everything else begins with a lookup; without a prefix it is
// no rule.
func noPort(prefix string, side meta, end verdict) []rule {
	if prefix == "" {
		return nil
	}
	return []rule{when(then(loadMeta{side, 0}, equal{reg: 0, value: []byte(prefix), not: true}, end))}
}

// portIn holds when the interface of one side is in set, which has only ports, whose
// names begin with prefix.
func portIn(set, prefix string, side meta) []expression {
	e := []expression{loadMeta{side, 0}}
	if prefix != "" {
		e = append(e, equal{reg: 0, value: []byte(prefix)})
	}
	return append(e, contains{set: set, reg: 0})
}

// judgeHooks are the base chains that call the firewall for packets of a port that
// has one, and before that put them into zones.
func judgeHooks(tracked bool, prefix string) []chain {
	judged := func(side meta) []expression { return portIn(setJudged, prefix, side) }
	var zones []chain
	var known []rule // connections that the current rules have let pass
	if tracked {
		zones = []chain{{table: bridgeTable, name: "zones", hook: prerouting, priority: zonePriority, rules: zoneRules(prefix)}}
		known = []rule{when(then(loadConn{connMark, 0}, contains{set: setCurrent, reg: 0}, acceptIt))}
	}
	return append(zones,
		chain{table: bridgeTable, name: "forward", hook: forward, priority: judgePriority, rules: append(slices.Clone(known),
			when(judged(iifname), then(goTo("judge"))),
			when(judged(oifname), then(goTo("judge"))))},
		// To and from the host itself.
		chain{table: bridgeTable, name: "input", hook: input, priority: judgePriority, rules: append(append(append(noPort(prefix, iifname, acceptIt), isARP()), known...),
			when(judged(iifname), then(jumpTo("from_port"))))},
		chain{table: bridgeTable, name: "output", hook: output, priority: judgePriority, rules: append(append(append(noPort(prefix, oifname, acceptIt), isARP()), known...),
			when(judged(oifname), then(jumpTo("to_port"))))},
	)
}

// isARP lets pass what the guard has judged.
func isARP() rule { return when(etherType(0x08, 0x06), then(acceptIt)) }

// judgeChains is the firewall's program. Without tracked, every packet is judged by
// itself: see Firewall.Stateless.
func judgeChains(tracked bool, prefix string) []chain {
	c := func(name string, rules ...rule) chain { return chain{table: bridgeTable, name: name, rules: rules} }
	chains := []chain{
		c("judge", judgeRules(tracked, prefix)...),
		c("from_port", portRules("from_port", when(then(returnIt)))...),
		c("to_port", portRules("to_port",
			// Another protocol than IP, ARP or a VLAN, past a firewall for IP.
			when(then(loadMeta{oifname, 0}, contains{set: setAnyEtherType, reg: 0}, returnIt)),
			when(then(goTo(chainBlockIn))))...),
		c(chainBlockIn, when(dropAs(countBlockedIn))),
		c(chainBlockOut, when(dropAs(countBlockedOut))),
	}
	for _, ip6 := range []bool{false, true} {
		chains = append(chains, familyChains(ip6, tracked)...)
	}
	return chains
}

// judgeRules judge a frame on behalf of the port it comes from and the one it goes
// to. The generation that it is judged under is taken before and stamped on the
// connection after: a change in between makes that an old one.
func judgeRules(tracked bool, prefix string) []rule {
	judged := func(side meta) []expression { return portIn(setJudged, prefix, side) }
	judge := []rule{
		when(judged(iifname), then(jumpTo("from_port"))),
		when(judged(oifname), then(jumpTo("to_port"))),
	}
	if !tracked {
		return append([]rule{isARP()}, judge...)
	}
	begin := when(then(put{0, encodeNumber(0)}, translate{setGeneration, 0, 1}, storeMark{1}))
	clear := []expression{put{0, encodeNumber(0)}, storeMark{0}, acceptIt}
	return append(append([]rule{isARP(), begin}, judge...),
		// A copy that is flooded to another port than the one it is for was not judged
		// on behalf of that one.
		when(then(loadHeader{linkHeader, 0, 6, 0}, contains{set: setFirewalled, reg: 0},
			loadMeta{oifname, 0}, loadHeader{linkHeader, 0, 6, 4}, contains{setOwner, 0, true}), clear),
		when(then(loadMeta{mark, 0}, storeConnMark{0}), clear),
	)
}

// portRules send IP on to the chain of its family; neighbour discovery was judged
// by the guard.
func portRules(name string, other ...rule) []rule {
	return append([]rule{
		when(bytesAre(linkHeader, 12, 0x08, 0x00), then(goTo(name+"_ip4"))),
		when(bytesAre(linkHeader, 12, 0x86, 0xdd), transports(protoICMP6), then(loadHeader{transportHeader, 0, 1, 8}, contains{set: setDiscovery, reg: 8}, returnIt)),
		when(bytesAre(linkHeader, 12, 0x86, 0xdd), then(goTo(name+"_ip6"))),
	}, other...)
}

// familyChains choose the view for a packet of one family. What comes from a port
// is out for it when it opens a connection; a reply belongs to one that is in.
func familyChains(ip6, tracked bool) []chain {
	family, icmp := "_ip4", byte(protoICMP)
	if ip6 {
		family, icmp = "_ip6", protoICMP6
	}
	var chains []chain
	for _, port := range []struct {
		name         string
		side         meta
		first, other direction
	}{
		{"from_port", iifname, out, in},
		{"to_port", oifname, in, out},
	} {
		head := view{port.first, port.side, ip6, fromHeaders}
		ping := view{port.first, port.side, ip6, fromICMP}
		untracked := []rule{
			when(transports(icmp), then(goTo(ping.name()))),
			when(then(goTo(head.name()))),
		}
		views := []view{head, ping}
		name := port.name + family
		rules := untracked
		if tracked {
			first := view{port.first, port.side, ip6, fromConn}
			other := view{port.other, port.side, ip6, fromConn}
			views = append(views, first, other)
			rules = []rule{
				when(stateIs(stateUntracked), then(goTo(name+"_untracked"))),
				when(stateIs(stateInvalid), dropAs(countInvalid)),
				when(connIs(connDirection, original), then(goTo(first.name()))),
				when(connIs(connDirection, reply), then(goTo(other.name()))),
				when(dropAs(countInvalid)),
			}
			chains = append(chains, chain{table: bridgeTable, name: name + "_untracked", rules: untracked})
		}
		chains = append(chains, chain{table: bridgeTable, name: name, rules: rules})
		for _, v := range views {
			chains = append(chains, v.chains()...)
		}
	}
	return chains
}

// zoneRules put each packet that concerns a firewall into the zone of its bridge,
// and keep the rest of a fabric out of the table of connections. They come before
// connection tracking of bridges.
func zoneRules(prefix string) []rule {
	zoned := []expression{loadMeta{ibrname, 0}, translate{setZones, 0, 8}, storeZone{8}, acceptIt}
	return []rule{
		when(portIn(setJudged, prefix, iifname), zoned),
		when(then(loadHeader{linkHeader, 0, 6, 0}, contains{set: setFirewalled, reg: 0}), zoned),
		when(then(loadMeta{ibrname, 0}, contains{set: setManyMACs, reg: 0}), zoned),
		when(then(loadMeta{ibrname, 0}, contains{set: setFabrics, reg: 0}, noTrack{})),
	}
}

// trackElements fills the sets of connection tracking with what is of no port.
func trackElements(es map[string]elements, n *numbers) {
	for t := byte(ndRouterSolicitation); t <= ndRedirect; t++ {
		es[setDiscovery][string([]byte{t})] = element{}
	}
	es[setCurrent], es[setGeneration] = n.current()
}

// current are the elements of the sets that hold the generation.
func (n *numbers) current() (set, translated elements) {
	g := string(encodeNumber(n.generation))
	return elements{g: {}}, elements{string(encodeNumber(0)): {data: g}}
}

// tracked says by which elements a port with a firewall is known.
func (p *portInput) tracked(put func(set, key string, e element)) {
	if !p.firewall {
		return
	}
	name := string(encodeName(p.name))
	put(setJudged, name, element{})
	put(setFirewalled, string(p.mac[:]), element{})
	put(setOwner, key([]byte(name), p.mac[:]), element{})
	if p.flags.AllowRestrictedTraffic {
		put(setAnyEtherType, name, element{})
	}
}

// ofBridge says in which sets a port puts the names of its bridge, as may others.
func (p *portInput) ofBridge(put func(set, name string)) {
	for _, name := range append([]string{p.bridge}, p.aliases...) {
		if p.vni {
			put(setFabrics, name)
		}
		if p.isolated {
			put(setIsolated, name)
		}
		if p.firewall {
			put(setZones, name)
			if p.flags.AllowMACSpoofing {
				put(setManyMACs, name)
			}
		}
	}
}
