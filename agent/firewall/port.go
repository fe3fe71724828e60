package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"nereid/api"
)

// errNotApplied says that there are no rules yet that a port could be put into.
var errNotApplied = errors.New("the rules of this server were not made yet; they are made first")

// SetPort makes the rules of one port, in one transaction, and in none when it has them
// already: what an Apply of the last one's ports and rules with this change would do.
// What it costs does not depend on how many other ports there are: with rules that no
// other port has it depends on how many different rules there are, and only where the
// server's tables have to be others it is an Apply.
//
// rules are those of this port, with the address sets that they name; their Ports say
// nothing. The interface need not be there: whoever makes it calls Protect. What SetPort
// is given must not be changed afterwards.
//
// After an error the port is not to be made: it keeps the rules it had, or is closed.
// The error is of the port's owner, or the kernel's.
func (f *Firewall) SetPort(ctx context.Context, p Port, rules api.FirewallSpec) error {
	mac, err := parseMAC(p.MAC)
	if err != nil {
		return fmt.Errorf("port %s on %s: %w", p.MAC, p.Interface, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied == nil {
		return errNotApplied
	}
	c := change{&p, ofPort(rules, p.MAC)}
	if said, same := f.refused[mac]; same && reflect.DeepEqual(said.change, c) {
		return said.err
	}
	if f.healthy(mac, p.Owner) {
		o := f.applied.options
		s, err := parseInput([]Port{p}, c.rules, Options{PortPrefix: o.prefix, IsolatedPrefixes: o.begin})
		if err == nil {
			if m, ok := f.applied.plan(mac, s, !f.Stateless); ok {
				return f.move(ctx, m, mac, c)
			}
		}
	}
	failures, err := f.applyWith(ctx, mac, c)
	if err != nil {
		return err
	}
	for _, x := range failures {
		if x.Owner == p.Owner {
			err := fmt.Errorf("the firewall of account %s: %w", cmp.Or(x.Owner, "unknown"), x.Err)
			f.refused[mac] = refusedPort{c, err}
			return err
		}
	}
	return nil
}

// DropPort takes away the rules of an instance's port, or with instance "" whosever it
// is, when its interface is gone. A port of another instance with the same MAC keeps
// them. Where there are none, nothing is done.
//
// Errors: the kernel's. The rules are still there then.
func (f *Firewall) DropPort(ctx context.Context, mac, instance string) error {
	m, err := parseMAC(mac)
	if err != nil {
		return fmt.Errorf("port %s: %w", mac, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied == nil {
		return nil
	}
	p := f.applied.ports[m]
	if p == nil && !f.asks(m) || p != nil && instance != "" && p.instance != instance {
		return nil
	}
	if p != nil && f.healthy(m, p.owner) {
		if move, ok := f.applied.plan(m, nil, !f.Stateless); ok {
			return f.move(ctx, move, m, change{})
		}
	}
	_, err = f.applyWith(ctx, m, change{})
	return err
}

// change is what SetPort and DropPort were asked for since the last Apply.
type change struct {
	port  *Port // nil: none
	rules api.FirewallSpec
}

// refusedPort is a change that failed, and is not tried again before another one.
type refusedPort struct {
	change
	err error
}

// ofPort are rules, as those of one port.
func ofPort(rules api.FirewallSpec, mac string) api.FirewallSpec {
	out := api.FirewallSpec{Sets: rules.Sets, Rules: slices.Clone(rules.Rules)}
	for i := range out.Rules {
		out.Rules[i].Ports = []string{mac}
	}
	return out
}

// healthy reports whether nothing is wrong with what the owners want whose the port is
// and was.
func (f *Firewall) healthy(mac [6]byte, owner string) bool {
	old := f.applied.ports[mac]
	return f.failing[owner] == nil && (old == nil || f.failing[old.owner] == nil)
}

// asks reports whether there is to be a port, although there may be none.
func (f *Firewall) asks(mac [6]byte) bool {
	return len(f.failing) > 0 && f.asked.with(f.since).at(mac) != nil
}

func (in wanted) at(mac [6]byte) *Port { return ownersOf(in.ports)[string(mac[:])] }

// applyWith applies what was asked for last, with a change.
func (f *Firewall) applyWith(ctx context.Context, mac [6]byte, c change) ([]Failure, error) {
	since := maps.Clone(f.since)
	if since == nil {
		since = make(map[[6]byte]change)
	}
	since[mac] = c
	return f.apply(ctx, f.asked.with(since), f.options)
}

// with is an input with ports that changed since.
func (in wanted) with(since map[[6]byte]change) wanted {
	if len(since) == 0 {
		return in
	}
	changed := func(text string) bool {
		m, err := parseMAC(text)
		_, there := since[m]
		return err == nil && there
	}
	var out wanted
	for _, p := range in.ports {
		if !changed(p.MAC) {
			out.ports = append(out.ports, p)
		}
	}
	at := make(map[string]int) // rules, by all but their ports
	add := func(e api.FirewallEntry, ports []string) {
		e.Ports = nil
		k := contentOf(e)
		i, there := at[k]
		if !there {
			i = len(out.fw.Rules)
			at[k] = i
			out.fw.Rules = append(out.fw.Rules, e)
		}
		out.fw.Rules[i].Ports = append(out.fw.Rules[i].Ports, ports...)
	}
	for _, e := range in.fw.Rules {
		ports := slices.DeleteFunc(slices.Clone(e.Ports), changed)
		if len(ports) > 0 || len(e.Ports) == 0 {
			add(e, ports)
		}
	}
	sets := make(map[string]bool)
	for _, mac := range slices.SortedFunc(maps.Keys(since), func(a, b [6]byte) int { return slices.Compare(a[:], b[:]) }) {
		c := since[mac]
		if c.port == nil {
			continue
		}
		out.ports = append(out.ports, *c.port)
		for _, e := range c.rules.Rules {
			add(e, e.Ports)
		}
		for _, a := range c.rules.Sets {
			if !sets[a.Name] {
				sets[a.Name] = true
				out.fw.Sets = append(out.fw.Sets, a)
			}
		}
	}
	named := make(map[string]bool)
	for _, e := range out.fw.Rules {
		for _, p := range e.Peers {
			named[p] = true
		}
	}
	for _, a := range in.fw.Sets {
		if named[a.Name] && !sets[a.Name] {
			out.fw.Sets = append(out.fw.Sets, a)
		}
	}
	return out
}

// contentOf is all of a rule but its ports.
func contentOf(e api.FirewallEntry) string {
	types := make([]string, len(e.Types))
	for i, t := range e.Types {
		if types[i] = fmt.Sprint(t.Type); t.Code != nil {
			types[i] += fmt.Sprint("/", *t.Code)
		}
	}
	return fmt.Sprintf("%q %q %q %q %q %v %q %d %v", e.Rule, e.Direction, e.Peers, e.Action, e.Protocol, e.Dst, types, e.Priority, e.Log)
}

// move is a change of one port that is worked out.
type move struct {
	t     *transaction
	place func() // changes the state, but for the ruleset
}

// plan works out what it takes to make a port as it is in want, which has it and its
// rules, or to drop it when want is nil. ok is false when it takes more than elements
// and the port's chain.
func (st *state) plan(mac [6]byte, want *spec, tracked bool) (m move, ok bool) {
	old, next := st.ports[mac], (*placed)(nil)
	if want != nil {
		next = &placed{portInput: want.ports[0]}
	}
	if st.mixed || !st.fits(old, next) || want != nil && !st.knows(want) {
		return m, false
	}
	n := st.numbers.successor()
	t := &transaction{}
	var come, gone []*placedGroup
	for _, d := range []direction{in, out} {
		var was, is *placedGroup
		if old != nil {
			was = *old.group(d)
		}
		if next != nil && next.firewall {
			var rules []*ruleInput
			for i := range want.rules {
				if want.rules[i].direction == d {
					rules = append(rules, &want.rules[i])
				}
			}
			if is = st.groups[groupKeyOf(d, rules)]; is == nil {
				is = st.newGroup(d, rules, want.sets)
				come = append(come, is)
			}
			*next.group(d) = is
		}
		if was != nil && was != is && was.ports == 1 {
			gone = append(gone, was)
			if is != nil && is.ports == 0 {
				is.id = was.id
			}
		}
		if is != nil && is.id == 0 {
			is.id = n.take()
		}
	}
	if len(come)+len(gone) > 0 && !st.regroup(t, n, come, gone) || n.usedUp() {
		return m, false
	}
	before, after := old.elementsOf(), next.elementsOf()
	for _, s := range st.sets {
		t.change(s, before[s.name], after[s.name])
	}
	zone, ok := st.moveShared(t, old, next)
	if !ok {
		return m, false
	}
	if slices.ContainsFunc(slices.Concat(t.delElements, t.addElements), func(e setElements) bool { return e.set.judges() }) {
		n.nextGeneration()
		current, generation := n.current()
		set, _ := st.set(setCurrent)
		t.change(set, st.elements[setCurrent], current)
		set, _ = st.set(setGeneration)
		t.change(set, st.elements[setGeneration], generation)
	}
	st.moveChain(t, old, next)
	return move{t, func() {
		st.numbers = n
		for _, g := range gone {
			st.leave(g)
		}
		for _, g := range come {
			st.enter(g)
		}
		st.put(old, -1, 0)
		st.put(next, 1, zone)
	}}, true
}

// fits reports whether a port can be changed without another chain of the program.
func (st *state) fits(old, next *placed) bool {
	firewalled := len(st.bridges) > 0
	if old != nil && old.firewall && len(st.bridges) == 1 && st.bridges[old.bridge] == 1 || !firewalled {
		if (next != nil && next.firewall) != firewalled {
			return false
		}
	}
	isolates := func(p *placed) bool { return p != nil && p.isolated }
	if len(st.options.begin) == 0 && isolates(old) != isolates(next) {
		return false
	}
	if next == nil {
		return true
	}
	other, taken := st.names[next.name]
	return !taken || other == next.mac
}

// knows reports whether the address sets that rules of a spec name are those of the
// state, as far as it has them.
func (st *state) knows(s *spec) bool {
	for _, r := range s.rules {
		for _, p := range r.peers {
			set := &s.sets[p]
			if known := st.known[set.name]; known != nil && (!slices.Equal(known.hosts, set.hosts) || !slices.Equal(known.nets, set.nets)) {
				return false
			}
		}
	}
	return true
}

// regroup compiles all groups anew, but for their ports.
func (st *state) regroup(t *transaction, n *numbers, come, gone []*placedGroup) (ok bool) {
	var groups []*placedGroup
	for _, g := range st.groups {
		if !slices.Contains(gone, g) {
			groups = append(groups, g)
		}
	}
	s, list := st.rulesOf(append(groups, come...))
	es, err := compileGroups(s, list, n)
	if err != nil {
		return false // whose fault that is, is found by looking at all
	}
	for _, set := range judgeSets() {
		if set.name != setInGroups && set.name != setOutGroups {
			t.change(set, st.elements[set.name], es[set.name])
		}
	}
	had := make(map[string]chain)
	for _, c := range st.chains {
		if isLog(c) {
			had[c.name] = c
		}
	}
	for _, c := range logChains(n) {
		if _, there := had[c.name]; !there {
			t.addChains = append(t.addChains, c)
		}
		delete(had, c.name)
	}
	for _, name := range slices.Sorted(maps.Keys(had)) {
		t.delChains = append(t.delChains, had[name])
	}
	return true
}

// moveShared changes the elements that a port may have in common with others, and says
// which zone its bridge has then.
func (st *state) moveShared(t *transaction, old, next *placed) (zone uint16, ok bool) {
	if next != nil && next.firewall {
		if zone = st.numbers.zones[next.bridge]; zone == 0 {
			if len(st.zones) >= maxZones {
				return 0, false
			}
			zone = zoneFor(next.bridge, func(z uint16) bool { _, taken := st.zones[z]; return taken })
		}
	}
	counts := make(map[sharedKey]int)
	ok = true
	if old != nil {
		old.ofBridge(func(set, name string) { counts[sharedKey{set, name}]-- })
	}
	if next != nil {
		next.ofBridge(func(set, name string) {
			k := sharedKey{set, name}
			counts[k]++
			if e := st.shared[k]; e != nil && set == setZones && e.bridge != next.bridge {
				ok = false
			}
		})
	}
	for k, n := range counts {
		has := 0
		if e := st.shared[k]; e != nil {
			has = e.count
		}
		set, _ := st.set(k.set)
		name := string(encodeName(k.name))
		switch {
		case has == 0 && n > 0:
			t.change(set, nil, elements{name: {data: st.shares(k.set, zone)}})
		case has > 0 && has+n == 0:
			t.change(set, elements{name: st.elements[k.set][name]}, nil)
		}
	}
	return zone, ok
}

func (st *state) moveChain(t *transaction, old, next *placed) {
	switch {
	case old == nil && next == nil:
	case old == nil:
		t.port(chain{}, next.chain())
	case next == nil:
		t.port(st.ruleset.ports[old.name], chain{})
	case old.name == next.name:
		t.port(st.ruleset.ports[old.name], next.chain())
	default:
		t.port(st.ruleset.ports[old.name], chain{})
		t.port(chain{}, next.chain())
	}
}

// put counts a port in, whose bridge has the zone, or with -1 out.
func (st *state) put(p *placed, n int, zone uint16) {
	if p == nil {
		return
	}
	if n < 0 {
		delete(st.ports, p.mac)
		delete(st.names, p.name)
	} else {
		st.ports[p.mac] = p
		st.names[p.name] = p.mac
	}
	for _, g := range []*placedGroup{p.in, p.out} {
		if g == nil {
			continue
		}
		k := groupKey{g.direction, p.mac}
		if g.ports += n; n < 0 {
			delete(st.numbers.groups, k)
		} else {
			st.numbers.groups[k] = g.id
		}
	}
	p.ofBridge(func(set, name string) { st.share(sharedKey{set, name}, p.bridge, n) })
	if !p.firewall {
		return
	}
	if n > 0 && st.bridges[p.bridge] == 0 {
		st.zones[zone], st.numbers.zones[p.bridge] = p.bridge, zone
	}
	if st.bridges[p.bridge] += n; st.bridges[p.bridge] == 0 {
		delete(st.bridges, p.bridge)
		delete(st.zones, st.numbers.zones[p.bridge])
		delete(st.numbers.zones, p.bridge)
	}
}

// move makes a change of one port.
func (f *Firewall) move(ctx context.Context, m move, mac [6]byte, c change) error {
	start := time.Now()
	if !m.t.empty() {
		if err := f.commit(ctx, m.t); err != nil {
			// Somebody has changed our tables, so that they do not take the change.
			f.log().WarnContext(ctx, "firewall: replacing all rules", "because", err)
			undo := f.applied.change(m.t)
			if _, err := f.replace(ctx, f.applied.ruleset); err != nil {
				undo()
				return err
			}
		} else {
			f.applied.change(m.t)
		}
		clear(f.refused)
		f.log().InfoContext(ctx, "firewall applied", "port", mac, "sent", m.t.size(), "took", time.Since(start))
	}
	m.place()
	if f.since == nil {
		f.since = make(map[[6]byte]change)
	}
	if f.since[mac] = c; len(f.since) > 2*len(f.applied.ports)+maxSince {
		f.asked, f.inForce, f.since = f.asked.with(f.since), f.inForce.with(f.since), nil
	}
	return nil
}

// maxSince is how many changes of ports that are gone are kept apart, at least.
const maxSince = 64
