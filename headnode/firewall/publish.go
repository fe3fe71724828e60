package firewall

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Member is a NIC of an instance, as rules know it.
type Member struct {
	Instance
	MAC string
}

// Members lists the NICs of an owner's instances; without an owner, of everybody's.
type Members func(owner string) ([]Member, error)

// namedPrefix counts the rules that name a set as peers, by its name in the journal. A
// set that none names is not kept.
const namedPrefix = Prefix + "named/"

// set is the journal's set of the addresses of instances that a selector names.
func (s selector) set() journal.Set {
	return journal.Set{Name: api.AccountSet(s.scope, "addresses/"+s.setName())}
}

// SpecOf is an enabled rule as servers follow it.
func SpecOf(r api.FirewallRule) (api.RuleSpec, error) {
	parsed, err := Parse(r.Rule)
	if err != nil {
		return api.RuleSpec{}, fmt.Errorf("firewall rule %s: %w", r.UUID, err)
	}
	spec := api.RuleSpec{UUID: r.UUID, ParsedRule: parsed, Log: r.Log}
	if namesSome(parsed.To) {
		spec.FromPeers = peersOf(r.Owner, parsed.From)
	}
	if namesSome(parsed.From) {
		spec.ToPeers = peersOf(r.Owner, parsed.To)
	}
	return spec, nil
}

// namesSome says whether a side of a rule names instances.
func namesSome(side []api.RuleTarget) bool { return slices.ContainsFunc(side, namesInstances) }

func namesInstances(t api.RuleTarget) bool {
	return t.Kind == api.TargetAllVMs || t.Kind == api.TargetTag || t.Kind == api.TargetVM
}

// peersOf are the peers that a side of a rule comes to.
func peersOf(owner string, side []api.RuleTarget) []api.RulePeers {
	var out []api.RulePeers
	var literal []string
	for _, t := range side {
		switch {
		case t.Kind == api.TargetAny:
		case namesInstances(t):
			s := selectorOf(owner, t)
			out = append(out, api.RulePeers{Name: s.setName(), Set: s.set().Name})
		default:
			literal = append(literal, t.Value)
		}
	}
	if literal != nil {
		s := selector{kind: api.TargetIP, value: strings.Join(literal, " ")}
		out = append(out, api.RulePeers{Name: s.setName(), Members: literal})
	}
	return out
}

// peerSets are the selectors that a rule names as peers, by the names of their sets.
func peerSets(r api.FirewallRule) (map[string]selector, error) {
	parsed, err := Parse(r.Rule)
	if err != nil {
		return nil, fmt.Errorf("firewall rule %s: %w", r.UUID, err)
	}
	out := map[string]selector{}
	add := func(side, other []api.RuleTarget) {
		for _, t := range side {
			if namesInstances(t) && namesSome(other) {
				s := selectorOf(r.Owner, t)
				out[s.set().Name] = s
			}
		}
	}
	add(parsed.From, parsed.To)
	add(parsed.To, parsed.From)
	return out, nil
}

// Publish brings the sets that servers follow up to date with a change of a rule; nil:
// there was, or is, none. Where it is the first rule that names some instances as peers,
// their addresses are gathered, which reads all NICs of the rule's owner.
func Publish(tx store.Tx, before, after *api.FirewallRule, members Members) error {
	was, is := map[string]selector{}, map[string]selector{}
	for _, side := range []struct {
		rule *api.FirewallRule
		sets *map[string]selector
	}{{before, &was}, {after, &is}} {
		if side.rule == nil || !side.rule.Enabled {
			continue
		}
		sets, err := peerSets(*side.rule)
		if err != nil {
			return err
		}
		*side.sets = sets
	}
	if err := publishRule(tx, before, after); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, still := is[name]; still {
			continue
		}
		if err := unname(tx, name); err != nil {
			return err
		}
	}
	var listed []Member // of the owner, once they are asked for
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if _, had := was[name]; had {
			continue
		}
		n, _, err := store.Lookup[int](tx, namedPrefix+name)
		if err == nil {
			err = store.Put(tx, namedPrefix+name, n+1)
		}
		if err == nil && n == 0 {
			if listed == nil {
				listed, err = members(is[name].scope)
			}
			if err == nil {
				err = fill(tx, is[name], listed)
			}
		}
		if err != nil {
			return fmt.Errorf("addresses of set %s: %w", name, err)
		}
	}
	return nil
}

// publishRule brings the set of the rules of an account, or of the global ones, up to date.
func publishRule(tx store.Tx, before, after *api.FirewallRule) error {
	if after != nil && after.Enabled {
		spec, err := SpecOf(*after)
		if err != nil {
			return err
		}
		value, err := json.Marshal(spec)
		if err != nil {
			return fmt.Errorf("firewall rule %s: %w", after.UUID, err)
		}
		_, err = journal.Put(tx, ruleSet(*after), after.UUID, value)
		return err
	}
	if before == nil {
		return nil
	}
	_, err := journal.Delete(tx, ruleSet(*before), before.UUID)
	return err
}

func ruleSet(r api.FirewallRule) journal.Set { return journal.Set{Name: api.RuleSet(r.Owner)} }

// unname counts out a rule that named a set as peers.
func unname(tx store.Tx, name string) error {
	n, _, err := store.Lookup[int](tx, namedPrefix+name)
	switch {
	case err != nil:
		return err
	case n > 1:
		return store.Put(tx, namedPrefix+name, n-1)
	}
	if err := tx.Delete(namedPrefix + name); err != nil {
		return err
	}
	return journal.Clear(tx, name)
}

// fill puts the addresses of instances into the set of a selector.
func fill(tx store.Tx, s selector, all []Member) error {
	_, err := journal.Edit(tx, s.set(), func(e *journal.Editor) error {
		for _, m := range all {
			for has := range m.selectors {
				if has != s {
					continue
				}
				for _, a := range m.Addresses {
					if err := putMember(e, memberKey(a, m.MAC)); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	return err
}

func memberKey(a netip.Addr, mac string) string { return api.MemberKey(a.String(), mac) }

// putMember writes a member, whose value is its key.
func putMember(e *journal.Editor, key string) error {
	value, err := json.Marshal(key)
	if err != nil {
		return err
	}
	return e.Put(key, value)
}

// Moved is a NIC before and after a change; nil: there was, or is, none that rules are
// about.
type Moved struct{ Before, After *Member }

// Move brings the sets of addresses that rules name up to date with changes of NICs. It
// reads no rule: of each set that a NIC is in, or was, it reads whether a rule names it.
func Move(tx store.Tx, moved ...Moved) error {
	type change struct{ gone, put map[string]bool } // keys
	sets := map[string]*change{}
	note := func(m *Member, add func(c *change, key string)) {
		if m == nil {
			return
		}
		for s := range m.selectors {
			name := s.set().Name
			if sets[name] == nil {
				sets[name] = &change{gone: map[string]bool{}, put: map[string]bool{}}
			}
			for _, a := range m.Addresses {
				add(sets[name], memberKey(a, m.MAC))
			}
		}
	}
	for _, m := range moved {
		note(m.Before, func(c *change, key string) { c.gone[key] = true })
		note(m.After, func(c *change, key string) { c.put[key] = true })
	}
	for name, c := range sets {
		for key := range c.put {
			if c.gone[key] { // it stays
				delete(c.put, key)
				delete(c.gone, key)
			}
		}
		if len(c.put)+len(c.gone) == 0 {
			delete(sets, name)
		}
	}
	all := slices.Sorted(maps.Keys(sets))
	keys := make([]string, len(all))
	for i, name := range all {
		keys[i] = namedPrefix + name
	}
	named, err := store.LookupAll[int](tx, keys...)
	if err != nil {
		return fmt.Errorf("look for rules that name a NIC: %w", err)
	}
	for i, name := range all {
		if named[i] == nil {
			continue
		}
		c := sets[name]
		_, err := journal.Edit(tx, journal.Set{Name: name}, func(e *journal.Editor) error {
			for _, key := range slices.Sorted(maps.Keys(c.gone)) {
				if err := e.Delete(key); err != nil {
					return err
				}
			}
			for _, key := range slices.Sorted(maps.Keys(c.put)) {
				if err := putMember(e, key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// published is there once the rules of an older head node are in the journal.
const published = Prefix + "published"

// publishedAtOnce is how many rules a transaction of TakeOver takes.
const publishedAtOnce = 200

// TakeOver puts a part of the rules that an older head node left in the store into the
// sets that servers follow: those behind the UUID after. next is what to pass for the
// part that follows; empty after the last. It costs one look when it was done before.
func TakeOver(tx store.Tx, after string, members Members) (next string, err error) {
	done, err := store.Has(tx, published)
	if err != nil || done {
		return "", err
	}
	rules, next, err := List(tx, Filter{}, after, publishedAtOnce)
	for _, r := range rules {
		if err == nil {
			err = takeOverOne(tx, r, members)
		}
	}
	if err == nil && next == "" {
		err = store.Put(tx, published, true)
	}
	if err != nil {
		return "", fmt.Errorf("take over firewall rules: %w", err)
	}
	return next, nil
}

// takeOverOne publishes a rule, unless a start that was cut short has done so.
func takeOverOne(tx store.Tx, r api.FirewallRule, members Members) error {
	_, there, err := journal.Get(tx, ruleSet(r).Name, r.UUID)
	if err != nil || there {
		return err
	}
	return Publish(tx, nil, &r, members)
}
