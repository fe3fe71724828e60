package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Instance is what rules need to know of an instance.
type Instance struct {
	UUID      string
	Owner     string
	Tags      map[string]string
	Addresses []netip.Addr // of all its NICs
}

// Resolver knows rules and instances, and says what they mean for a server: what its agent
// makes of the sets that it follows.
// It does not change and may be used by several goroutines.
type Resolver struct {
	rules  []resolved // by UUID
	groups []group
	member map[string][]int // groups that an instance is in, by its UUID
}

// resolved is an enabled rule.
type resolved struct {
	uuid     string
	owner    string // empty: it is global
	log      bool
	parsed   api.ParsedRule
	from, to peers
}

// peers is one side of a rule.
type peers struct {
	any       bool
	instances bool // a group is of instances, and not of addresses
	groups    []int
}

// NewResolver reads all rules, of which it drops the disabled, and all instances.
// Its time grows with the text of the rules and with the instances and their
// tags, not with their product. A rule that cannot be read, or that is neither
// global nor somebody's, is an error: without it the others would mean something
// else.
func NewResolver(rules []api.FirewallRule, instances []Instance) (*Resolver, error) {
	r := &Resolver{member: make(map[string][]int, len(instances))}
	index := make(map[selector]int)
	for _, in := range rules {
		if !in.Enabled {
			continue
		}
		if in.Global == (in.Owner != "") {
			return nil, fmt.Errorf("resolve firewall rule %s: it is not of either an owner or everybody", in.UUID)
		}
		parsed, err := Parse(in.Rule)
		if err != nil {
			return nil, fmt.Errorf("resolve firewall rule %s: %w", in.UUID, err)
		}
		r.rules = append(r.rules, resolved{uuid: in.UUID, owner: in.Owner, log: in.Log, parsed: parsed,
			from: r.side(index, in.Owner, parsed.From), to: r.side(index, in.Owner, parsed.To)})
	}
	slices.SortFunc(r.rules, func(a, b resolved) int { return cmp.Compare(a.uuid, b.uuid) })
	for i, rule := range r.rules {
		for _, g := range slices.Concat(rule.from.groups, rule.to.groups) {
			r.groups[g].rules = append(r.groups[g].rules, i)
		}
	}
	for _, in := range instances {
		for s := range in.selectors {
			if g, used := index[s]; used {
				r.groups[g].addresses = append(r.groups[g].addresses, in.Addresses...)
				r.member[in.UUID] = append(r.member[in.UUID], g)
			}
		}
	}
	for i := range r.groups {
		r.groups[i].settle()
	}
	return r, nil
}

// side finds the groups of one side of a rule, and makes those that are new. The
// addresses and subnets of a side are one group, which has no instances.
func (r *Resolver) side(index map[selector]int, owner string, targets []api.RuleTarget) peers {
	var p peers
	var literal []string
	for _, t := range targets {
		switch t.Kind {
		case api.TargetAny:
			p.any = true
		case api.TargetIP, api.TargetSubnet:
			literal = append(literal, t.Value)
		default:
			p.instances = true
			p.groups = append(p.groups, r.group(index, selectorOf(owner, t)))
		}
	}
	if literal != nil {
		g := r.group(index, selector{kind: api.TargetIP, value: strings.Join(literal, " ")})
		r.groups[g].members = literal
		p.groups = append(p.groups, g)
	}
	return p
}

func (r *Resolver) group(index map[selector]int, s selector) int {
	g, known := index[s]
	if !known {
		g = len(r.groups)
		index[s] = g
		n := group{name: s.setName()}
		if s.kind != api.TargetIP {
			n.set = s.set().Name
		}
		r.groups = append(r.groups, n)
	}
	return g
}

// About lists the rules that name an instance, by itself, its tags or its owner, on
// either side.
func (r *Resolver) About(instance string) []string {
	var out []string
	for _, g := range r.member[instance] {
		for _, i := range r.groups[g].rules {
			out = append(out, r.rules[i].uuid)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Load reads the addresses of the instances that rules name as peers, as servers follow
// them, in place of those of the instances that the Resolver was made with.
func (r *Resolver) Load(tx store.Tx) error {
	for i := range r.groups {
		g := &r.groups[i]
		if g.set == "" {
			continue
		}
		g.members = nil
		for e, err := range journal.Live(tx, g.set) {
			if err != nil {
				return fmt.Errorf("read addresses that rules name: %w", err)
			}
			text, _, _ := strings.Cut(e.Key, "/")
			a, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("address of set %s: %w", g.set, err)
			}
			g.addresses = append(g.addresses, a)
		}
		g.settle()
	}
	return nil
}

// entry is a FirewallEntry while it is made; ports are indexes of local.macs.
type entry struct {
	api.FirewallEntry
	ports []int
}

// Spec gives what a server's firewall does for its ports, of which those without
// a firewall are left out. The order of ports does not matter. Its time grows
// with the ports, the rules that concern them and the sets these name.
//
// Entries that cannot change the action or the log of a Decide are left out; it
// then names no rule where the default does the same. Slices in the spec are
// shared and must not be changed.
func (r *Resolver) Spec(ports []api.PortSpec) api.FirewallSpec {
	l := r.local(ports)
	var entries []entry
	sets := make(map[int]bool)
	for _, i := range l.rules {
		rule := &r.rules[i]
		entries = r.appendEntry(entries, sets, rule, "in", l.ports(rule.to), rule.from)
		entries = r.appendEntry(entries, sets, rule, "out", l.ports(rule.from), rule.to)
	}
	var spec api.FirewallSpec
	needed := make(map[string]bool)
	for _, e := range l.effective(entries) {
		spec.Rules = append(spec.Rules, e)
		for _, name := range e.Peers {
			needed[name] = true
		}
	}
	for g := range sets {
		if needed[r.groups[g].name] {
			spec.Sets = append(spec.Sets, api.AddressSet{Name: r.groups[g].name, Members: r.groups[g].members})
		}
	}
	slices.SortFunc(spec.Sets, func(a, b api.AddressSet) int { return cmp.Compare(a.Name, b.Name) })
	return spec
}

// appendEntry adds a rule in one direction, if there are ports it concerns and
// peers. It notes in sets which groups the peers are.
func (r *Resolver) appendEntry(entries []entry, sets map[int]bool, rule *resolved, direction string, ports []int, with peers) []entry {
	if len(ports) == 0 {
		return entries
	}
	var names []string
	for _, g := range with.groups {
		if len(r.groups[g].members) > 0 {
			names = append(names, r.groups[g].name)
			sets[g] = true
		}
	}
	if !with.any && len(names) == 0 {
		return entries // nobody: no names would mean everybody
	}
	slices.Sort(names)
	return append(entries, entry{ports: ports, FirewallEntry: api.FirewallEntry{
		Rule: rule.uuid, Direction: direction, Peers: names, Action: rule.parsed.Action, Protocol: rule.parsed.Protocol,
		Dst: rule.parsed.Ports, Types: rule.parsed.Types, Priority: rule.parsed.Priority, Log: rule.log}})
}
