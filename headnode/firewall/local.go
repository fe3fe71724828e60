package firewall

import (
	"slices"

	"nereid/api"
)

// local is the ports of one server, and what of the rules they are concerned by.
type local struct {
	macs   []string      // sorted
	groups map[int][]int // ports in a group, in order
	rules  []int         // that name one of the groups, in order
}

func (r *Resolver) local(ports []api.PortSpec) *local {
	l := &local{groups: make(map[int][]int)}
	instance := make(map[string]string, len(ports))
	for _, p := range ports {
		if p.Firewall {
			l.macs = append(l.macs, p.MAC)
			instance[p.MAC] = p.Instance
		}
	}
	slices.Sort(l.macs)
	l.macs = slices.Compact(l.macs)
	for i, mac := range l.macs {
		for _, g := range r.member[instance[mac]] {
			if n := len(l.groups[g]); n == 0 || l.groups[g][n-1] != i {
				l.groups[g] = append(l.groups[g], i)
			}
		}
	}
	for g := range l.groups {
		l.rules = append(l.rules, r.groups[g].rules...)
	}
	slices.Sort(l.rules)
	l.rules = slices.Compact(l.rules)
	return l
}

// ports gives the ports of one side of a rule. ANY has none: it is about peers.
func (l *local) ports(p peers) []int {
	if len(p.groups) == 1 {
		return l.groups[p.groups[0]]
	}
	var all []int
	for _, g := range p.groups {
		all = append(all, l.groups[g]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// never is more than every priority.
const never = MaxPriority + 1

// effective drops what has no effect, and names the ports.
//
// An entry of the default's own action (BLOCK inwards, ALLOW outwards) that does
// not log has an effect on a port only if it overrules one there of the same
// direction and protocol: of the other action and a lower priority, or one that
// would log, of its own priority or a lower one.
func (l *local) effective(entries []entry) []api.FirewallEntry {
	type class struct{ direction, protocol string }
	least := make(map[class][]int) // priority that has an effect, by port
	need := func(e entry, priority int) {
		c := class{e.Direction, e.Protocol}
		if least[c] == nil {
			least[c] = slices.Repeat([]int{never}, len(l.macs))
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
	named := make(map[*int][]string) // groups' ports, which entries share
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
		e.Ports = l.name(named, e.ports)
		out = append(out, e.FirewallEntry)
	}
	return out
}

// name gives the MACs of ports. The same slice of ports has the same MACs.
func (l *local) name(known map[*int][]string, ports []int) []string {
	if macs, found := known[&ports[0]]; found {
		return macs
	}
	macs := make([]string, len(ports))
	for i, p := range ports {
		macs[i] = l.macs[p]
	}
	known[&ports[0]] = macs
	return macs
}
