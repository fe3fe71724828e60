package firewall

import (
	"cmp"
	"slices"
)

// group is ports of one direction that the same rules concern.
type group struct {
	direction direction
	ports     []int // indices into spec.ports
	rules     []int // indices into spec.rules, strongest first
	id        uint32
}

// groupPorts splits the ports with a firewall into groups, by splitting groups in
// two for each rule that concerns only a part of one. It takes time in proportion
// to the sum of the rules' ports.
func groupPorts(s *spec, d direction) []group {
	type node struct{ parent, rule int }
	type step struct{ node, rule int }
	nodes := []node{{-1, -1}} // a tree of rule lists, the root being the empty list
	steps := make(map[step]int)
	at := make([]int, len(s.ports))
	for r := range s.rules {
		if s.rules[r].direction != d {
			continue
		}
		for _, p := range s.rules[r].ports {
			if n := at[p]; nodes[n].rule != r { // a port may be named twice
				next, known := steps[step{n, r}]
				if !known {
					next = len(nodes)
					nodes = append(nodes, node{n, r})
					steps[step{n, r}] = next
				}
				at[p] = next
			}
		}
	}
	byNode := make(map[int]int)
	var groups []group
	for p := range s.ports {
		if !s.ports[p].firewall {
			continue
		}
		i, known := byNode[at[p]]
		if !known {
			i = len(groups)
			byNode[at[p]] = i
			g := group{direction: d}
			for n := at[p]; n > 0; n = nodes[n].parent {
				g.rules = append(g.rules, nodes[n].rule)
			}
			slices.Reverse(g.rules)
			groups = append(groups, g)
		}
		groups[i].ports = append(groups[i].ports, p)
	}
	return groups
}

// setOf is the set of the ports in the groups of a direction.
func (d direction) setOf() string { return [...]string{setInGroups, setOutGroups}[d] }

// numberGroups gives each group the number that most of its ports had, so that what
// stays together keeps it, whoever comes or goes.
func numberGroups(s *spec, groups []group, n *numbers) {
	type vote struct {
		group, ports int
		id           uint32
	}
	var votes []vote
	for i, g := range groups {
		had := make(map[uint32]int)
		for _, p := range g.ports {
			if id := n.groups[groupKey{g.direction, s.ports[p].mac}]; id != 0 {
				had[id]++
			}
		}
		for id, ports := range had {
			votes = append(votes, vote{i, ports, id})
		}
	}
	slices.SortFunc(votes, func(a, b vote) int {
		return cmp.Or(cmp.Compare(b.ports, a.ports), cmp.Compare(a.id, b.id), cmp.Compare(a.group, b.group))
	})
	taken := make(map[uint32]bool)
	for _, v := range votes {
		if g := &groups[v.group]; g.id == 0 && !taken[v.id] {
			g.id, taken[v.id] = v.id, true
		}
	}
	next := make(map[groupKey]uint32)
	for i := range groups {
		g := &groups[i]
		if g.id == 0 {
			g.id = n.take()
		}
		for _, p := range g.ports {
			next[groupKey{g.direction, s.ports[p].mac}] = g.id
		}
	}
	n.groups = next
}
