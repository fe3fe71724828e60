package firewall

import (
	"cmp"
	"maps"
	"slices"

	"nereid/api"
)

// AccountRules are the rules of an account, which are about its own ports; without an
// owner, the global ones, which are about everybody's.
type AccountRules struct {
	Owner string
	Rules []api.RuleSpec
}

// Resolve says what rules mean for the ports of a server, of which those without a
// firewall are left out. members gives the addresses of a set that rules name: sorted,
// each once. sets are those that the result depends on, in order.
//
// Entries that can change neither the action nor the log of a packet are left out. Its
// time grows with the rules, with the ports and with what rules say of ports. Slices in
// the result are shared and must not be changed.
func Resolve(ports []api.PortSpec, rules []AccountRules, members func(set string) []string) (spec api.FirewallSpec, sets []string) {
	r := newResolver(rules)
	r.place(ports)
	var entries []resolvedEntry
	peers := map[string]api.RulePeers{} // by name
	for i := range r.rules {
		rule := &r.rules[i]
		for _, d := range []struct {
			direction string
			ports     []int
			peers     []api.RulePeers
			any       bool
		}{{"in", r.ports(rule.to), rule.FromPeers, anySide(rule.From)}, {"out", r.ports(rule.from), rule.ToPeers, anySide(rule.To)}} {
			if len(d.ports) == 0 {
				continue
			}
			var names []string
			for _, p := range d.peers {
				if p.Set != "" {
					sets = append(sets, p.Set)
					p.Members = members(p.Set)
				}
				if len(p.Members) > 0 {
					names = append(names, p.Name)
					peers[p.Name] = p
				}
			}
			if !d.any && len(names) == 0 {
				continue // nobody: no names would mean everybody
			}
			slices.Sort(names)
			entries = append(entries, resolvedEntry{ports: d.ports, FirewallEntry: api.FirewallEntry{
				Rule: rule.UUID, Direction: d.direction, Peers: names, Action: rule.Action, Protocol: rule.Protocol,
				Dst: rule.Ports, Types: rule.Types, Priority: rule.Priority, Log: rule.Log}})
		}
	}
	needed := map[string]bool{}
	for _, e := range r.effective(entries) {
		spec.Rules = append(spec.Rules, e)
		for _, name := range e.Peers {
			needed[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		spec.Sets = append(spec.Sets, api.AddressSet{Name: name, Members: peers[name].Members})
	}
	slices.Sort(sets)
	return spec, slices.Compact(sets)
}

func anySide(side []api.RuleTarget) bool {
	return slices.ContainsFunc(side, func(t api.RuleTarget) bool { return t.Kind == api.TargetAny })
}

// resolver is rules by the instances that they name, and the ports of these.
type resolver struct {
	rules  []resolvedRule // by UUID
	groups map[selector]int
	at     [][]int  // ports of each group, in order
	macs   []string // of ports, sorted
}

type resolvedRule struct {
	api.RuleSpec
	from, to []int // groups
}

// selector is what names instances: of an owner, or without one of everybody.
type selector struct {
	owner, kind, value, tag string
	exact                   bool // the tag has the value tag
}

// resolvedEntry is a FirewallEntry while it is made; ports are indexes of macs.
type resolvedEntry struct {
	api.FirewallEntry
	ports []int
}

func newResolver(rules []AccountRules) *resolver {
	r := &resolver{groups: map[selector]int{}}
	for _, a := range rules {
		for _, spec := range a.Rules {
			r.rules = append(r.rules, resolvedRule{spec, r.side(a.Owner, spec.From), r.side(a.Owner, spec.To)})
		}
	}
	slices.SortFunc(r.rules, func(a, b resolvedRule) int { return cmp.Compare(a.UUID, b.UUID) })
	r.at = make([][]int, len(r.groups))
	return r
}

// side are the groups of the instances that a side of a rule names.
func (r *resolver) side(owner string, targets []api.RuleTarget) (groups []int) {
	for _, t := range targets {
		s := selector{owner: owner, kind: t.Kind, value: t.Value}
		switch t.Kind {
		case api.TargetTag:
			if t.TagValue != nil {
				s.tag, s.exact = *t.TagValue, true
			}
		case api.TargetAllVMs, api.TargetVM:
		default:
			continue
		}
		g, known := r.groups[s]
		if !known {
			g = len(r.groups)
			r.groups[s] = g
		}
		groups = append(groups, g)
	}
	return groups
}

// place finds the groups of ports that have a firewall.
func (r *resolver) place(ports []api.PortSpec) {
	by := make(map[string]*api.PortSpec, len(ports))
	for i := range ports {
		if p := &ports[i]; p.Firewall {
			r.macs = append(r.macs, p.MAC)
			by[p.MAC] = p
		}
	}
	slices.Sort(r.macs)
	r.macs = slices.Compact(r.macs)
	for i, mac := range r.macs {
		p := by[mac]
		put := func(s selector) {
			if g, named := r.groups[s]; named {
				if n := len(r.at[g]); n == 0 || r.at[g][n-1] != i {
					r.at[g] = append(r.at[g], i)
				}
			}
		}
		for _, owner := range slices.Compact([]string{p.Owner, ""}) {
			put(selector{owner: owner, kind: api.TargetAllVMs})
			put(selector{owner: owner, kind: api.TargetVM, value: p.Instance})
			for name, value := range p.Tags {
				put(selector{owner: owner, kind: api.TargetTag, value: name})
				put(selector{owner: owner, kind: api.TargetTag, value: name, tag: value, exact: true})
			}
		}
	}
}

// ports are those of some groups.
func (r *resolver) ports(groups []int) []int {
	if len(groups) == 1 {
		return r.at[groups[0]]
	}
	var all []int
	for _, g := range groups {
		all = append(all, r.at[g]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// defaultAction is what happens without a rule. At equal priority the other action wins.
func defaultAction(direction string) string {
	if direction == "out" {
		return "allow"
	}
	return "block"
}

// effective drops what has no effect, and names the ports.
//
// An entry of the default's own action (BLOCK inwards, ALLOW outwards) that does not log
// has an effect on a port only if it overrules one there of the same direction and
// protocol: of the other action and a lower priority, or one that would log, of its own
// priority or a lower one.
func (r *resolver) effective(entries []resolvedEntry) []api.FirewallEntry {
	const never = 1 << 30 // more than every priority
	type class struct{ direction, protocol string }
	least := map[class][]int{} // priority that has an effect, by port
	need := func(e resolvedEntry, priority int) {
		c := class{e.Direction, e.Protocol}
		if least[c] == nil {
			least[c] = slices.Repeat([]int{never}, len(r.macs))
		}
		for _, p := range e.ports {
			least[c][p] = min(least[c][p], priority)
		}
	}
	for _, e := range entries {
		if e.Action != defaultAction(e.Direction) {
			need(e, e.Priority+1)
		} else if e.Log {
			need(e, e.Priority)
		}
	}
	named := map[*int][]string{} // groups' ports, which entries share
	var out []api.FirewallEntry
	for _, e := range entries {
		if e.Action == defaultAction(e.Direction) && !e.Log {
			low := least[class{e.Direction, e.Protocol}]
			if low == nil {
				continue
			}
			idle := func(p int) bool { return e.Priority < low[p] }
			if slices.ContainsFunc(e.ports, idle) {
				e.ports = slices.DeleteFunc(slices.Clone(e.ports), idle)
			}
			if len(e.ports) == 0 {
				continue
			}
		}
		macs, known := named[&e.ports[0]]
		if !known || len(macs) != len(e.ports) {
			macs = make([]string, len(e.ports))
			for i, p := range e.ports {
				macs[i] = r.macs[p]
			}
			named[&e.ports[0]] = macs
		}
		e.Ports = macs
		out = append(out, e.FirewallEntry)
	}
	return out
}
