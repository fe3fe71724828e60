package firewall

import "slices"

// group is ports of one direction that the same rules concern.
type group struct {
	direction direction
	ports     []int // indices into spec.ports
	rules     []int // indices into spec.rules, strongest first
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
