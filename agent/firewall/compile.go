package firewall

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// maxElements is how many elements the firewall's sets may have together, about
// 100 MB of the kernel's memory; maxSteps is how many rules may be looked at for
// patterns of addresses, some seconds of work.
const (
	maxElements = 1 << 20
	maxSteps    = 1 << 24
)

// compiler turns rules into elements:
//
//	port (interface name)          -> group      setInGroups, setOutGroups
//	address                        -> pattern    setHosts4..., setNets4...
//	group, pattern                 -> behaviour  setBehaviours
//	behaviour, protocol, port      -> outcome    setSingles, setRanges
//	group, protocol, port          -> outcome    the same sets: rules for every peer
//	outcome                        -> verdict    setDecisions
//
// What a behaviour has no outcome for is decided by the group, and what the group
// has none for by default.
type compiler struct {
	spec     *spec
	n        *numbers // changed
	es       map[string]elements
	elements int
	room     int // for elements
	steps    int
}

// compileGroups fills the firewall's sets, but for which ports are in the groups.
func compileGroups(s *spec, groups []group, n *numbers) (map[string]elements, error) {
	c := &compiler{spec: s, n: n, es: make(map[string]elements), room: cmp.Or(s.room, maxElements)}
	for _, set := range judgeSets() {
		c.es[set.name] = make(elements)
	}
	c.logs()
	addresses := mapAddresses(s)
	patternNumbers := c.numberPatterns(addresses)
	bySet := make([][]int, len(s.sets)) // the patterns that a set is in
	for i, p := range addresses.patterns {
		for _, set := range p {
			bySet[set] = append(bySet[set], i)
		}
	}
	behaviours := newBehaviours()
	for _, g := range groups {
		if !c.group(g, addresses.patterns, patternNumbers, bySet, behaviours) {
			return nil, c.weigh(groups, bySet)
		}
	}
	behaviours.number(n)
	for pair, content := range behaviours.of {
		c.put(setBehaviours, key(encodeNumber(pair[0]), encodeNumber(pair[1])), n.behaviours[content])
	}
	for content, o := range behaviours.contents {
		c.outcomes(n.behaviours[content], o)
	}
	for a, p := range addresses.hosts {
		set := setHosts6
		if a.Is4() {
			set = setHosts4
		}
		c.put(set, string(a.AsSlice()), patternNumbers[p])
	}
	for _, r := range addresses.ranges {
		set := setNets6
		if r.first.Is4() {
			set = setNets4
		}
		c.es[set][string(r.first.AsSlice())] = element{string(r.last.AsSlice()), string(encodeResult(patternNumbers[r.pattern]))}
	}
	c.elements += len(addresses.hosts) + len(addresses.ranges)
	if c.elements > c.room {
		return nil, c.weigh(groups, bySet)
	}
	return c.es, nil
}

func (c *compiler) put(set, key string, number uint32) {
	c.es[set][key] = element{data: string(encodeResult(number))}
}

// logs numbers the outcomes of rules that log.
func (c *compiler) logs() {
	var keys []logKey
	for _, r := range c.spec.rules {
		if r.log {
			keys = append(keys, logKey{r.id, r.direction, r.allow})
		}
	}
	c.n.logs = renumber(c.n, c.n.logs, keys)
	for o, chain := range map[uint32]verdict{outcomeAllow: returnIt, outcomeBlockIn: goTo(chainBlockIn), outcomeBlockOut: goTo(chainBlockOut)} {
		c.es[setDecisions][string(encodeNumber(o))] = element{data: chain.String()}
	}
	for k, o := range c.n.logs {
		c.es[setDecisions][string(encodeNumber(o))] = element{data: goTo("log_" + k.String()).String()}
	}
}

// outcome is what is done with what a rule decides about.
func (c *compiler) outcome(rule int) uint32 {
	r := &c.spec.rules[rule]
	switch {
	case r.log:
		return c.n.logs[logKey{r.id, r.direction, r.allow}]
	case r.allow:
		return outcomeAllow
	}
	return defaultOf(r.direction, false)
}

// defaultOf is what allowing or blocking is in a direction.
func defaultOf(d direction, allow bool) uint32 {
	switch {
	case allow:
		return outcomeAllow
	case d == in:
		return outcomeBlockIn
	}
	return outcomeBlockOut
}

// numberPatterns numbers patterns by the names of their sets.
func (c *compiler) numberPatterns(a *addressMap) []uint32 {
	keys := make([]string, len(a.patterns))
	for i, p := range a.patterns {
		names := make([]string, len(p))
		for j, s := range p {
			names[j] = c.spec.sets[s].name
		}
		slices.Sort(names)
		var b []byte
		for _, n := range names {
			b = append(append(b, n...), ' ')
		}
		keys[i] = string(b)
	}
	c.n.patterns = renumber(c.n, c.n.patterns, slices.Sorted(slices.Values(keys)))
	ids := make([]uint32, len(keys))
	for i, k := range keys {
		ids[i] = c.n.patterns[k]
	}
	return ids
}

// group compiles the rules of one group of ports; false: that passes the limits.
func (c *compiler) group(g group, patterns []pattern, numbers []uint32, bySet [][]int, behaviours *behaviours) (fits bool) {
	var common []int
	rulesOf := make(map[int][]int) // by set
	var sets []int
	for _, r := range g.rules {
		rule := &c.spec.rules[r]
		if rule.any {
			common = append(common, r)
		}
		for _, s := range rule.peers {
			if rulesOf[s] == nil {
				sets = append(sets, s)
			}
			rulesOf[s] = append(rulesOf[s], r)
		}
	}
	byDefault := defaultOf(g.direction, g.direction == out)
	forAll := paint(c.spec.rules, common)
	c.outcomes(g.id, except(forAll, nil, c.outcome, byDefault))
	seen := make(map[int]bool)
	known := make(map[string]string) // list of rules to content
	for _, s := range sets {
		for _, p := range bySet[s] {
			if seen[p] {
				continue
			}
			seen[p] = true
			rules, name := c.rulesOf(patterns[p], rulesOf)
			content, done := known[name]
			if !done {
				content = behaviours.add(except(paint(c.spec.rules, rules), forAll, c.outcome, byDefault))
				c.elements += len(behaviours.contents[content])
				known[name] = content
			}
			if content != "" {
				behaviours.of[[2]uint32{g.id, numbers[p]}] = content
				c.elements++
			}
			if c.elements > c.room || c.steps > maxSteps {
				return false
			}
		}
	}
	return true
}

// rulesOf lists the rules of a group that name one of a pattern's sets, strongest
// first, and names that list.
func (c *compiler) rulesOf(p pattern, bySet map[int][]int) (rules []int, name string) {
	for _, s := range p {
		rules = append(rules, bySet[s]...)
	}
	c.steps += len(p) + len(rules)
	slices.Sort(rules)
	rules = slices.Compact(rules)
	b := make([]byte, 0, 4*len(rules))
	for _, r := range rules {
		b = binary.NativeEndian.AppendUint32(b, uint32(r))
	}
	return rules, string(b)
}

// outcomes adds elements for what is decided under a number.
func (c *compiler) outcomes(id uint32, o outcomes) {
	for _, d := range o {
		k := key(encodeNumber(id), []byte{d.protocol}, encodePort(d.first))
		if d.first == d.last {
			c.put(setSingles, k, d.outcome)
			continue
		}
		c.es[setRanges][k] = element{key(encodeNumber(id), []byte{d.protocol}, encodePort(d.last)), string(encodeResult(d.outcome))}
	}
}

// crowded says that the limits were passed, and what is due to whom.
type crowded map[string]weight // by owner

// weight is how much of the limits an owner's rules take at most, and about which of
// them that is most.
type weight struct {
	cost, worst int
	err         error
}

func (c crowded) Error() string { return c[c.owners()[0]].err.Error() }

// owners are all of them, the heaviest first.
func (c crowded) owners() []string {
	return slices.SortedFunc(maps.Keys(c), func(a, b string) int { return cmp.Or(cmp.Compare(c[b].cost, c[a].cost), cmp.Compare(a, b)) })
}

// weigh divides what all groups cost among the owners of their ports. What it costs to
// weigh is no more than to have all rules looked at once for each group.
func (c *compiler) weigh(groups []group, bySet [][]int) crowded {
	all := make(crowded)
	for _, g := range groups {
		sum, worst, most := 0, 0, -1
		counted := make(map[int]bool) // sets whose members are in the sum
		for _, r := range g.rules {
			rule := &c.spec.rules[r]
			n := 0
			for _, s := range rule.peers {
				if n += len(bySet[s]); c.steps > maxSteps {
					continue
				}
				n += len(bySet[s]) * (len(rule.spans) - 1) // it is elements that there are too many of
				if set := &c.spec.sets[s]; !counted[s] {
					counted[s], n = true, n+len(set.hosts)+len(set.nets)
				}
			}
			if sum += n; n > most {
				worst, most = r, n
			}
		}
		if most < 0 {
			continue
		}
		seen := make(map[string]bool)
		for _, p := range g.ports {
			o := c.spec.ports[p].owner
			if seen[o] {
				continue
			}
			seen[o] = true
			w := all[o]
			if w.cost += sum; w.err == nil || most > w.worst {
				r := &c.spec.rules[worst]
				w.worst = most
				w.err = fmt.Errorf("rule %s (%s) is too much together with the %d others of %d ports: it meets %d members and combinations of address sets, and all rules may become %d elements; name fewer tags or fewer ranges of ports in it",
					r.id, r.direction, len(g.rules)-1, len(g.ports), most, c.room)
			}
			all[o] = w
		}
	}
	return all
}
