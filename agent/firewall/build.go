package firewall

import (
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
)

const (
	setIsolated  = "isolated"
	setUnderlay4 = "underlay4"
	setUnderlay6 = "underlay6"

	countVXLAN    = "vxlan"
	countIsolated = "isolated"
)

// build makes the ruleset for a spec. before is the ruleset that it will replace,
// or nil, and n the numbers which that was made with.
func build(s *spec, n *numbers, before *ruleset, tracked bool) (*ruleset, *numbers, error) {
	n = n.successor()
	es, err := compileRules(s, n)
	if err != nil {
		return nil, nil, err
	}
	if n.next > math.MaxUint32-4*maxElements {
		return nil, nil, fmt.Errorf("the numbers of groups and patterns are used up; restart the agent")
	}
	if n.zones, err = assignZones(n.zones, firewalledBridges(s)); err != nil {
		return nil, nil, err
	}
	// Without any port to judge for, nothing is asked and nothing tracked.
	var judge []chain
	if len(firewalledBridges(s)) > 0 {
		judge = slices.Concat(judgeHooks(tracked, s.prefix), judgeChains(tracked, s.prefix), logChains(n))
	} else {
		for _, set := range judgeSets() {
			es[set.name] = make(elements)
		}
	}
	if before != nil && slices.ContainsFunc(judgeSets(), func(a set) bool { return !maps.Equal(before.elements[a.name], es[a.name]) }) {
		n.nextGeneration()
	}
	maps.Copy(es, guardElements(s.ports))
	maps.Copy(es, trackElements(s, n))
	maps.Copy(es, hostElements(s))

	r := &ruleset{
		elements: es,
		sets:     slices.Concat(guardSets(), judgeSets(), trackSets(), hostSets()),
		counters: append(guardCounters(), counterName{bridgeTable, countBlockedIn}, counterName{bridgeTable, countBlockedOut},
			counterName{bridgeTable, countInvalid}, counterName{inetTable, countVXLAN}, counterName{inetTable, countIsolated}),
		chains: slices.Concat(portChains(s.ports), guardChains(), judge, hostChains(s)),
	}
	return r, n, nil
}

func firewalledBridges(s *spec) []string {
	bridges := make(map[string]bool)
	for _, p := range s.ports {
		if p.firewall {
			bridges[p.bridge] = true
		}
	}
	return slices.Sorted(maps.Keys(bridges))
}

// logChains write a line for what rules decide and then do it.
func logChains(n *numbers) []chain {
	keys := slices.SortedFunc(maps.Keys(n.logs), func(a, b logKey) int { return int(n.logs[a]) - int(n.logs[b]) })
	var chains []chain
	for _, k := range keys {
		end := returnIt
		switch {
		case k.allow:
		case k.direction == in:
			end = goTo(chainBlockIn)
		default:
			end = goTo(chainBlockOut)
		}
		word := map[bool]string{true: "allow", false: "block"}[k.allow]
		chains = append(chains, chain{table: bridgeTable, name: "log_" + k.String(), rules: []rule{
			when(then(limit{10}, logs{fmt.Sprintf("nereid %s %s %s ", k.rule, k.direction, word)})),
			when(then(end)),
		}})
	}
	return chains
}

func hostSets() []set {
	return []set{
		{inetTable, setIsolated, []field{ifname}, noField, false},
		{inetTable, setUnderlay4, []field{ipv4Addr}, noField, true},
		{inetTable, setUnderlay6, []field{ipv6Addr}, noField, true},
	}
}

// hostChains judge what reaches the server itself. VXLAN has no authentication: who
// can send to its port can put frames into any tenant's network (RFC 7348, section 7).
func hostChains(s *spec) []chain {
	c := func(name string, rules ...rule) chain { return chain{table: inetTable, name: name, rules: rules} }
	family := func(number byte, set string, offset, size int) rule {
		return when(then(loadMeta{nfproto, 8}, equal{reg: 8, value: []byte{number}}, loadHeader{networkHeader, offset, size, 0}, contains{set: set, reg: 0}, returnIt))
	}
	base := chain{table: inetTable, name: "host", hook: input, priority: guardPriority, rules: append(directRules(s), when(from(setIsolated), dropAs(countIsolated)))}
	if len(s.underlay) > 0 {
		base.rules = append(base.rules, when(transports(protoUDP), bytesAre(transportHeader, 2, 4789>>8, 4789&0xff), then(goTo("vxlan"))))
	}
	return []chain{base, c("vxlan",
		family(2, setUnderlay4, 12, 4), // NFPROTO_IPV4
		family(10, setUnderlay6, 8, 16),
		when(dropAs(countVXLAN)),
	)}
}

// maxDirect is how many comparisons may stand for a lookup.
const maxDirect = 4

// directRules let pass, without lookups, what comes from the underlay's subnets and not
// from a bridge that may be isolated, VXLAN first of all; none when that would be too
// many rules. They compare bytes of headers, as that is what nf_tables is quickest at
// (nft_do_chain in nf_tables_core.c does it without a call).
func directRules(s *spec) []rule {
	if len(s.underlay) > maxDirect || len(s.begin) > maxDirect || len(s.begin) == 0 && len(s.isolated) > 0 {
		return nil
	}
	var elsewhere []expression
	if len(s.begin) > 0 {
		elsewhere = append(elsewhere, loadMeta{iifname, 0})
	}
	for _, p := range s.begin {
		elsewhere = append(elsewhere, equal{reg: 0, value: []byte(p), not: true})
	}
	var rules []rule
	for _, p := range s.underlay {
		version, source := bytesAre(networkHeader, 0, 0x45), 12 // with options, the others judge it
		if p.Addr().Is6() {
			version, source = then(loadHeader{networkHeader, 0, 1, 8}, mask{8, []byte{0xf0}}, equal{reg: 8, value: []byte{0x60}}), 8
		}
		first, size := p.Masked().Addr().AsSlice(), p.Addr().BitLen()/8
		rules = append(rules, when(
			version,
			then(loadHeader{networkHeader, source, size, 8}, mask{8, net.CIDRMask(p.Bits(), 8*size)}, equal{reg: 8, value: first}),
			elsewhere, then(acceptIt)))
	}
	return rules
}

func hostElements(s *spec) map[string]elements {
	es := make(map[string]elements)
	for _, set := range hostSets() {
		es[set.name] = make(elements)
	}
	for _, b := range s.isolated {
		es[setIsolated][string(encodeName(b))] = element{}
	}
	for _, p := range s.underlay {
		set := setUnderlay6
		if p.Addr().Is4() {
			set = setUnderlay4
		}
		es[set][string(p.Addr().AsSlice())] = element{end: string(lastAddr(p).AsSlice())}
	}
	return es
}
