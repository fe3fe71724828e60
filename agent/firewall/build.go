package firewall

import (
	"errors"
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

// build makes the ruleset for a spec. before is what it will replace, or nil, and n the
// numbers which that was made with.
func build(s *spec, n *numbers, before *state, tracked bool) (*state, error) {
	n = n.successor()
	groups := append(groupPorts(s, in), groupPorts(s, out)...)
	numberGroups(s, groups, n)
	es, err := compileGroups(s, groups, n)
	if err != nil {
		return nil, err
	}
	if n.usedUp() {
		return nil, errNumbers
	}
	bridges := firewalledBridges(s)
	if n.zones, err = assignZones(n.zones, slices.Sorted(maps.Keys(bridges))); err != nil {
		return nil, err
	}
	r := &ruleset{
		elements: es,
		sets:     slices.Concat(guardSets(), judgeSets(), trackSets(), hostSets()),
		counters: append(guardCounters(), counterName{bridgeTable, countBlockedIn}, counterName{bridgeTable, countBlockedOut},
			counterName{bridgeTable, countInvalid}, counterName{inetTable, countVXLAN}, counterName{inetTable, countIsolated}),
		ports: make(map[string]chain, len(s.ports)),
	}
	for _, set := range r.sets {
		if es[set.name] == nil || set.judges() && len(bridges) == 0 {
			es[set.name] = make(elements)
		}
	}
	// Without any port to judge for, nothing is asked and nothing tracked.
	var judge []chain
	if len(bridges) > 0 {
		judge = slices.Concat(judgeHooks(tracked, s.prefix), judgeChains(tracked, s.prefix), logChains(n))
	}
	r.chains = slices.Concat(guardChains(), judge, hostChains(s))
	st := newState(s, r, n, bridges)
	st.place(s, groups)
	if before != nil && slices.ContainsFunc(judgeSets(), func(a set) bool { return !maps.Equal(before.elements[a.name], es[a.name]) }) {
		n.nextGeneration()
	}
	guardElements(es)
	trackElements(es, n)
	hostElements(es, s)
	return st, nil
}

// errNumbers is what a process comes to after some billion changes.
var errNumbers = errors.New("the numbers of groups and patterns are used up; restart the agent")

func (n *numbers) usedUp() bool { return n.next > math.MaxUint32-4*maxElements }

// judges reports whether a set's elements say what passes.
func (s set) judges() bool {
	return s.table == bridgeTable && slices.ContainsFunc(judgeSets(), func(j set) bool { return j.name == s.name })
}

// firewalledBridges counts the ports with a firewall of each bridge that has any.
func firewalledBridges(s *spec) map[string]int {
	bridges := make(map[string]int)
	for _, p := range s.ports {
		if p.firewall {
			bridges[p.bridge]++
		}
	}
	return bridges
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
	if len(s.underlay) > maxDirect || len(s.begin) > maxDirect || len(s.begin) == 0 && s.anyIsolated() {
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

// hostElements fills the sets of what reaches the server with what is of no port.
func hostElements(es map[string]elements, s *spec) {
	for _, p := range s.underlay {
		set := setUnderlay6
		if p.Addr().Is4() {
			set = setUnderlay4
		}
		es[set][string(p.Addr().AsSlice())] = element{end: string(lastAddr(p).AsSlice())}
	}
}
