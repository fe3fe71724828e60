package firewall

import (
	"fmt"
)

// Names of sets, chains and counters of the firewall.
const (
	setInGroups   = "in_groups" // by interface
	setOutGroups  = "out_groups"
	setHosts4     = "hosts4"
	setNets4      = "nets4"
	setHosts6     = "hosts6"
	setNets6      = "nets6"
	setBehaviours = "behaviours"
	setSingles    = "singles"
	setRanges     = "ranges"
	setDecisions  = "decisions"
	setDiscovery  = "discovery" // ICMPv6 types of neighbour discovery

	setJudged       = "judged"        // interfaces with a firewall
	setFirewalled   = "firewalled"    // MACs of these ports
	setOwner        = "owner"         // these ports, each with its MAC
	setAnyEtherType = "any_ethertype" // those of them that may send any
	setZones        = "zones"         // bridges with such ports
	setManyMACs     = "many_macs"     // bridges with such ports that may send from any MAC
	setFabrics      = "fabrics"       // bridges that carry a VNI
	setCurrent      = "current"       // the generation, as a set and as a map
	setGeneration   = "generation"

	chainBlockIn  = "block_in"
	chainBlockOut = "block_out"

	countBlockedIn  = "blocked_in"
	countBlockedOut = "blocked_out"
	countInvalid    = "invalid"
)

// Values of "ct state" (enum nft_ct_keys, NF_CT_STATE_BIT) and "ct direction".
const (
	stateInvalid   = 1
	stateUntracked = 1 << 6
	original       = 0
	reply          = 1
)

// judgeSets are those that judge; a change of their elements is a new generation.
func judgeSets() []set {
	triple := []field{number, protocol, port}
	return []set{
		{bridgeTable, setInGroups, []field{ifname}, result, false},
		{bridgeTable, setOutGroups, []field{ifname}, result, false},
		{bridgeTable, setHosts4, []field{ipv4Addr}, result, false},
		{bridgeTable, setNets4, []field{ipv4Addr}, result, true},
		{bridgeTable, setHosts6, []field{ipv6Addr}, result, false},
		{bridgeTable, setNets6, []field{ipv6Addr}, result, true},
		{bridgeTable, setBehaviours, []field{number, number}, result, false},
		{bridgeTable, setSingles, triple, result, false},
		{bridgeTable, setRanges, triple, result, true},
		{bridgeTable, setDecisions, []field{number}, outcome, false},
	}
}

func trackSets() []set {
	return []set{
		{bridgeTable, setJudged, []field{ifname}, noField, false},
		{bridgeTable, setFirewalled, []field{etherAddr}, noField, false},
		{bridgeTable, setOwner, []field{ifname, etherAddr}, noField, false},
		{bridgeTable, setAnyEtherType, []field{ifname}, noField, false},
		{bridgeTable, setZones, []field{ifname}, zone, false},
		{bridgeTable, setManyMACs, []field{ifname}, noField, false},
		{bridgeTable, setFabrics, []field{ifname}, noField, false},
		{bridgeTable, setCurrent, []field{number}, noField, false},
		{bridgeTable, setGeneration, []field{number}, number, false},
		{bridgeTable, setDiscovery, []field{icmp6Type}, noField, false},
	}
}

// view is where a judging chain takes its facts from: which interface the port is,
// which direction the connection has as the port sees it, and whether the facts
// are those of the connection's first packet, as connection tracking keeps them,
// or those of this packet's headers.
type view struct {
	direction direction
	side      meta // iifname or oifname
	ip6       bool
	source    source
}

type source uint8

const (
	fromConn    source = iota
	fromHeaders        // ports of TCP and UDP
	fromICMP           // type and code of ICMP
)

func (v view) name() string {
	family := map[bool]string{false: "ip4", true: "ip6"}[v.ip6]
	return fmt.Sprintf("%s_%s_%s_%s", v.direction, map[meta]string{iifname: "iif", oifname: "oif"}[v.side], family, [...]string{"conn", "head", "icmp"}[v.source])
}

// remote loads the address of the other side into r0.
func (v view) remote() expression {
	if v.source == fromConn {
		k := map[bool]conn{false: connSource4, true: connSource6}[v.ip6]
		if v.direction == out {
			k = map[bool]conn{false: connDestination4, true: connDestination6}[v.ip6]
		}
		return loadConn{k, 0}
	}
	offset, size := 12, 4
	if v.ip6 {
		offset, size = 8, 16
	}
	if v.direction == out {
		offset += size
	}
	return loadHeader{networkHeader, offset, size, 0}
}

// place makes register reg ready for a number. A map puts its number there as the
// second half of its data. The kernel would take a number alone; but nft(8) cannot
// list a rule that looks up a concatenation in which is a map's result: it knows no
// length of that (netlink_parse_concat_expr, an assertion, in 1.0.6 and 1.1.3). So it
// sees the mark that was loaded there before.
func place(reg int) expression { return loadMeta{mark, reg} }

// group loads the group's number into register reg, and nothing into the one before.
func (v view) group(reg int) []expression {
	set := setInGroups
	if v.direction == out {
		set = setOutGroups
	}
	return []expression{place(reg), loadMeta{v.side, 0}, translate{set, 0, reg - 1}}
}

// decision does what is decided for the number in r10 in one of the two sets.
func (v view) decision(set string) []expression {
	load := []expression{loadConn{connProtocol, 11}, loadConn{connPort, 12}}
	switch v.source {
	case fromHeaders:
		load = []expression{loadMeta{l4proto, 11}, loadHeader{transportHeader, 2, 2, 12}}
	case fromICMP:
		load = []expression{loadMeta{l4proto, 11}, loadHeader{transportHeader, 0, 2, 12}}
	}
	return append(load, place(13), translate{set, 10, 12}, decide{setDecisions, 13})
}

// behaviour loads the number of what the group does about the address in set into
// r10: the pattern comes to r9, the group to r8.
func (v view) behaviour(set string) []expression {
	pattern := []expression{place(9), v.remote(), translate{set, 0, 8}}
	return append(append(pattern, v.group(8)...), place(10), translate{setBehaviours, 8, 9})
}

// chains is the program of one view. What it allows it returns from.
func (v view) chains() []chain {
	hosts, nets := setHosts4, setNets4
	if v.ip6 {
		hosts, nets = setHosts6, setNets6
	}
	name := v.name()
	end := when(then(returnIt))
	if v.direction == in {
		end = when(then(goTo(chainBlockIn)))
	}
	c := func(name string, rules ...rule) chain { return chain{table: bridgeTable, name: name, rules: rules} }
	side := map[meta]string{iifname: "iifname", oifname: "oifname"}[v.side]
	address := map[direction]string{in: "source", out: "destination"}[v.direction]
	what := map[source]string{fromConn: "of the connection", fromHeaders: "of the packet", fromICMP: "of the packet"}[v.source]
	// As nft(8) shows little of these rules, they say what they do.
	lookup := func(set, in string) note {
		return note{fmt.Sprintf("@behaviours[%s's group . @%s[%s %s]] . protocol . port: @%s", side, set, address, what, in)}
	}
	common := func(in string) note {
		return note{fmt.Sprintf("%s's group . protocol . port %s: @%s", side, what, in)}
	}
	// Most addresses are in no set: that is found once.
	member := func(set, of string) rule {
		return when(then(note{fmt.Sprintf("%s %s in @%s", address, what, set)}, v.remote(), translate{set, 0, 8}, goTo(of)))
	}
	members := func(set, of string) chain {
		return c(of,
			when(then(lookup(set, setSingles)), v.behaviour(set), v.decision(setSingles)),
			when(then(lookup(set, setRanges)), v.behaviour(set), v.decision(setRanges)),
			when(then(goTo(name+"_any"))))
	}
	return []chain{
		c(name, member(hosts, name+"_host"), member(nets, name+"_net"), when(then(goTo(name+"_any")))),
		members(hosts, name+"_host"),
		members(nets, name+"_net"),
		c(name+"_any",
			when(then(common(setSingles)), v.group(10), v.decision(setSingles)),
			when(then(common(setRanges)), v.group(10), v.decision(setRanges)),
			end),
	}
}
