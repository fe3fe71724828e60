package firewall

import (
	"crypto/sha256"
	"slices"
	"strings"
)

// state is a ruleset with what it was made of: as much as it takes to change one port
// in it. What all have in common is the ruleset's own, and of rules there are groups.
type state struct {
	*ruleset
	numbers *numbers
	options *spec // without ports, rules and sets

	ports   map[[6]byte]*placed // by MAC
	names   map[string][6]byte  // of interfaces
	groups  map[string]*placedGroup
	rules   map[string]*placedRule // by content
	known   map[string]*placedSet  // address sets that these name
	shared  map[sharedKey]*sharedElement
	bridges map[string]int    // ports with a firewall
	zones   map[uint16]string // the bridge of each
	mixed   bool              // ports say different things of a bridge's name
}

// placed is a port in a state.
type placed struct {
	portInput
	in, out *placedGroup // nil: no firewall
}

// placedGroup is a group in a state.
type placedGroup struct {
	direction direction
	key       string
	id        uint32
	rules     []*placedRule // strongest first
	ports     int
}

// placedRule is a rule in a state: of ruleInput, ports and peers are not used.
type placedRule struct {
	ruleInput
	sets   []*placedSet
	groups int
}

// placedSet is an address set in a state.
type placedSet struct {
	setInput
	rules int
}

// sharedKey names an element that may be there on behalf of several ports.
type sharedKey struct{ set, name string }

type sharedElement struct {
	count  int
	bridge string // of the ports
}

func newState(s *spec, r *ruleset, n *numbers, bridges map[string]int) *state {
	options := *s
	options.ports, options.rules, options.sets = nil, nil, nil
	st := &state{ruleset: r, numbers: n, options: &options,
		ports: make(map[[6]byte]*placed, len(s.ports)), names: make(map[string][6]byte, len(s.ports)), groups: make(map[string]*placedGroup),
		rules: make(map[string]*placedRule), known: make(map[string]*placedSet),
		shared: make(map[sharedKey]*sharedElement), bridges: bridges, zones: make(map[uint16]string, len(n.zones))}
	for b, z := range n.zones {
		st.zones[z] = b
	}
	for _, b := range s.isolated {
		st.share(sharedKey{setIsolated, b}, "", 1)
		st.elements[setIsolated][string(encodeName(b))] = element{}
	}
	return st
}

// place puts a spec's ports into a state that has none.
func (st *state) place(s *spec, groups []group) {
	for i := range s.ports {
		st.ports[s.ports[i].mac] = &placed{portInput: s.ports[i]}
	}
	for _, g := range groups {
		rules := make([]*ruleInput, len(g.rules))
		for i, r := range g.rules {
			rules[i] = &s.rules[r]
		}
		p := st.newGroup(g.direction, rules, s.sets)
		p.id, p.ports = g.id, len(g.ports)
		st.enter(p)
		for _, i := range g.ports {
			*st.ports[s.ports[i].mac].group(g.direction) = p
		}
	}
	for i := range s.ports {
		p := st.ports[s.ports[i].mac]
		st.names[p.name] = p.mac
		st.ruleset.ports[p.name] = p.chain()
		p.own(func(set, key string, e element) { st.elements[set][key] = e })
		p.ofBridge(func(set, name string) {
			st.share(sharedKey{set, name}, p.bridge, 1)
			st.elements[set][string(encodeName(name))] = element{data: st.shares(set, st.numbers.zones[p.bridge])}
		})
	}
}

func (p *placed) group(d direction) **placedGroup {
	if d == in {
		return &p.in
	}
	return &p.out
}

// own says which elements are a port's alone.
func (p *placed) own(put func(set, key string, e element)) {
	p.guarded(put)
	p.tracked(put)
	for _, g := range []*placedGroup{p.in, p.out} {
		if g != nil {
			put(g.direction.setOf(), string(encodeName(p.name)), element{data: string(encodeResult(g.id))})
		}
	}
}

// elementsOf are those that are a port's alone, by set; of nil there are none.
func (p *placed) elementsOf() map[string]elements {
	es := make(map[string]elements)
	if p != nil {
		p.own(func(set, key string, e element) {
			if es[set] == nil {
				es[set] = make(elements)
			}
			es[set][key] = e
		})
	}
	return es
}

// shares is the data of a shared element.
func (st *state) shares(set string, z uint16) string {
	if set == setZones {
		return string(encodeZone(z))
	}
	return ""
}

// share counts who wants a shared element.
func (st *state) share(k sharedKey, bridge string, n int) {
	e := st.shared[k]
	if e == nil {
		e = &sharedElement{bridge: bridge}
		st.shared[k] = e
	}
	if k.set == setZones && e.bridge != bridge {
		st.mixed = true
	}
	if e.count += n; e.count == 0 {
		delete(st.shared, k)
	}
}

// groupKeyOf names a group by its rules.
func groupKeyOf(d direction, rules []*ruleInput) string {
	h := sha256.New()
	for _, r := range rules {
		h.Write([]byte(r.key))
		h.Write([]byte{0})
	}
	return d.String() + " " + string(h.Sum(nil))
}

// newGroup is a group that is not in the state yet, of rules that are sorted.
func (st *state) newGroup(d direction, rules []*ruleInput, sets []setInput) *placedGroup {
	g := &placedGroup{direction: d, key: groupKeyOf(d, rules)}
	for _, r := range rules {
		p := st.rules[r.key]
		if p == nil {
			p = &placedRule{ruleInput: *r}
			p.ports, p.peers = nil, nil
			for _, s := range r.peers {
				set := st.known[sets[s].name]
				if set == nil {
					set = &placedSet{setInput: sets[s]}
				}
				p.sets = append(p.sets, set)
			}
		}
		g.rules = append(g.rules, p)
	}
	return g
}

func (st *state) enter(g *placedGroup) {
	st.groups[g.key] = g
	for _, r := range g.rules {
		if r.groups++; r.groups > 1 {
			continue
		}
		st.rules[r.key] = r
		for i, s := range r.sets {
			if known := st.known[s.name]; known != nil {
				r.sets[i] = known
			} else {
				st.known[s.name] = s
			}
			r.sets[i].rules++
		}
	}
}

func (st *state) leave(g *placedGroup) {
	delete(st.groups, g.key)
	for _, r := range g.rules {
		if r.groups--; r.groups > 0 {
			continue
		}
		delete(st.rules, r.key)
		for _, s := range r.sets {
			if s.rules--; s.rules == 0 {
				delete(st.known, s.name)
			}
		}
	}
}

// rulesOf is the spec of groups' rules and sets, and the groups in it. It has no ports.
func (st *state) rulesOf(groups []*placedGroup) (*spec, []group) {
	s := *st.options
	at, sets := make(map[string]int), make(map[string]int) // places in s
	for _, g := range groups {
		for _, r := range g.rules {
			if _, seen := at[r.key]; seen {
				continue
			}
			at[r.key] = 0
			rule := r.ruleInput
			for _, set := range r.sets {
				i, seen := sets[set.name]
				if !seen {
					i = len(s.sets)
					sets[set.name] = i
					s.sets = append(s.sets, set.setInput)
				}
				rule.peers = append(rule.peers, i)
			}
			s.rules = append(s.rules, rule)
		}
	}
	slices.SortFunc(s.rules, compareRules)
	for i, r := range s.rules {
		at[r.key] = i
	}
	list := make([]group, len(groups))
	for i, g := range groups {
		list[i] = group{direction: g.direction, id: g.id}
		for _, r := range g.rules {
			list[i].rules = append(list[i].rules, at[r.key])
		}
	}
	slices.SortFunc(list, func(a, b group) int { return int(a.id) - int(b.id) })
	return &s, list
}

// isLog reports whether a chain is one of logChains.
func isLog(c chain) bool { return c.table == bridgeTable && strings.HasPrefix(c.name, "log_") }
