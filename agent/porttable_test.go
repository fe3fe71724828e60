package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"nereid/agent/firewall"
	"nereid/api"
)

// TestPortTable: a table that takes in changes is one that is made anew, and what rules
// mean by it, account by account, is what they mean for all ports at once: also when rules,
// and addresses that they name, change between. What was given before stays as it was.
func TestPortTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	owners := []string{"a", "b", "c"}
	a := &Agent{board: newBoard(api.Report{})}
	kept := newCopies(a)
	s, table := newPortState(), &portTable{}
	version := uint64(0)
	put := func(set string, full bool, values ...any) {
		version++
		d := api.Delta{Set: set, Epoch: "e", Version: version, Full: full}
		for _, v := range values {
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			d.Put = append(d.Put, text)
		}
		if unread := kept.apply(copiesRecord{Deltas: []api.Delta{d}}); unread != nil {
			t.Fatal(unread)
		}
	}
	rule := func(owner string, n int) {
		side := []api.RuleTarget{{Kind: api.TargetAllVMs}}
		if n%2 == 1 {
			value := fmt.Sprint(r.IntN(2))
			side = []api.RuleTarget{{Kind: api.TargetTag, Value: "role", TagValue: &value}}
		}
		put(api.RuleSet(owner), false, api.RuleSpec{UUID: fmt.Sprintf("%d%s", n, owner),
			ParsedRule: api.ParsedRule{From: side, To: side, Action: []string{"allow", "block"}[r.IntN(2)], Protocol: "tcp", Priority: r.IntN(3)},
			FromPeers:  []api.RulePeers{{Name: "p" + owner, Set: api.AccountSet(owner, "addresses/x")}}, ToPeers: []api.RulePeers{{Name: "p" + owner, Set: api.AccountSet(owner, "addresses/x")}}})
	}
	for step := range 600 {
		was, text := table.all, fmt.Sprint(table.all)
		var ports []api.PortSpec
		p := port(r.IntN(40), fmt.Sprint(r.IntN(3)))
		p.Owner, p.Firewall, p.Tags = owners[r.IntN(3)], r.IntN(4) > 0, map[string]string{"role": fmt.Sprint(r.IntN(2))}
		if r.IntN(3) == 0 {
			p.MAC = "02:6E:72:00:00:AA" // as somebody else may write it
		}
		d := delta(step+1, nil, p)
		switch r.IntN(12) {
		case 0, 1, 2, 3:
			d = delta(step+1, []api.PortSpec{p})
		case 4:
			rule(append(owners, "")[r.IntN(4)], r.IntN(4))
		case 5:
			put(api.AccountSet(append(owners, "")[r.IntN(4)], "addresses/x"), r.IntN(2) == 0, api.MemberKey(fmt.Sprintf("10.0.0.%d", r.IntN(9)), "m"))
		case 6:
			if step%10 == 0 { // others are stale, until they come again
				d = full(delta(step+1, nil, p))
			}
		case 7:
			for i := range 20 {
				q := port(i, "z")
				q.Owner, q.Firewall = owners[i%3], true
				ports = append(ports, q)
			}
			d = delta(step+1, nil, ports...)
		}
		if unread := s.take(d); unread != nil {
			t.Fatal(unread)
		}
		table.update(&s)
		if len(s.touched) > 0 {
			t.Fatal("changes are left")
		}
		fresh := &portTable{}
		fresh.update(&s)
		if !reflect.DeepEqual(table.all, fresh.all) || !reflect.DeepEqual(table.named, fresh.named) || !slices.Equal(slices.Sorted(maps.Keys(table.owners)), slices.Sorted(maps.Keys(fresh.owners))) {
			t.Fatalf("step %d: %+v\nwant %+v", step, table, fresh)
		}
		for owner, o := range table.owners {
			if !reflect.DeepEqual(o.ports, fresh.owners[owner].ports) {
				t.Fatalf("step %d: account %s has %+v, want %+v", step, owner, o.ports, fresh.owners[owner].ports)
			}
		}
		if fmt.Sprint(was) != text {
			t.Fatalf("step %d changed a list that was given before", step)
		}
		got, sets, _ := kept.firewall(table.owners)
		var rules []firewall.AccountRules
		for _, owner := range slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(table.owners)), ""))) {
			rules = append(rules, firewall.AccountRules{Owner: owner, Rules: kept.sets[api.RuleSet(owner)].ruleSpecs()})
		}
		all, named := firewall.Resolve(table.named, rules, func(set string) []string { return kept.sets[set].addresses() })
		x, y := indexRules(got, 0), indexRules(all, 0)
		for _, p := range table.named {
			one, other := x.port(p.MAC), y.port(p.MAC)
			for i := range one.Rules { // they name other ports beside
				one.Rules[i].Ports = nil
			}
			for i := range other.Rules {
				other.Rules[i].Ports = nil
			}
			if !reflect.DeepEqual(one, other) {
				t.Fatalf("step %d: rules of %s of %s\n%+v, want\n%+v", step, p.MAC, p.Owner, one, other)
			}
		}
		if !reflect.DeepEqual(got.Sets, all.Sets) || !slices.Equal(sets[len(sets)-len(named):], named) {
			t.Fatalf("step %d: sets %v and %q, want %v and %q", step, got.Sets, sets, all.Sets, named)
		}
	}
}
