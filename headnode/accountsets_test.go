package headnode

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// accountSets are the sets of accounts that a server's agent follows: the global rules,
// those of the accounts whose ports are there, and the addresses that those of them name
// as peers which are about one of the ports.
type accountSets struct {
	at      map[string]api.Follow
	has     map[string]map[string]json.RawMessage // values, by set and key
	refused map[string]bool
}

// follow is what is asked for with ports.
func (a *accountSets) follow(t testing.TB, ports map[string]api.PortSpec) []api.Follow {
	t.Helper()
	if a.at == nil {
		a.at, a.has, a.refused = map[string]api.Follow{}, map[string]map[string]json.RawMessage{}, map[string]bool{}
	}
	want := map[string]bool{}
	for _, owner := range append([]string{""}, ownersOf(ports)...) {
		set := api.RuleSet(owner)
		want[set] = true
		for _, r := range rulesIn(t, a.has[set]) {
			for _, p := range ports {
				if owner != "" && p.Owner != owner {
					continue
				}
				if concerns(r.To, p) {
					name(want, r.FromPeers)
				}
				if concerns(r.From, p) {
					name(want, r.ToPeers)
				}
			}
		}
	}
	var out []api.Follow
	for _, set := range slices.Sorted(maps.Keys(want)) {
		f := a.at[set]
		f.Set = set
		a.at[set] = f
		out = append(out, f)
	}
	maps.DeleteFunc(a.at, func(set string, _ api.Follow) bool { return !want[set] })
	maps.DeleteFunc(a.has, func(set string, _ map[string]json.RawMessage) bool { return !want[set] })
	return out
}

func name(want map[string]bool, peers []api.RulePeers) {
	for _, p := range peers {
		if p.Set != "" {
			want[p.Set] = true
		}
	}
}

func ownersOf(ports map[string]api.PortSpec) []string {
	owners := map[string]bool{}
	for _, p := range ports {
		owners[p.Owner] = true
	}
	return slices.Sorted(maps.Keys(owners))
}

func rulesIn(t testing.TB, values map[string]json.RawMessage) (out []api.RuleSpec) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		var r api.RuleSpec
		if err := json.Unmarshal(values[key], &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func concerns(side []api.RuleTarget, p api.PortSpec) bool {
	return slices.ContainsFunc(side, func(t api.RuleTarget) bool {
		v, tagged := p.Tags[t.Value]
		switch t.Kind {
		case api.TargetAllVMs:
			return true
		case api.TargetVM:
			return t.Value == p.Instance
		case api.TargetTag:
			return tagged && (t.TagValue == nil || *t.TagValue == v)
		}
		return false
	})
}

// take takes in a delta of such a set.
func (a *accountSets) take(d api.Delta) (is bool) {
	if _, _, is := api.AccountOfSet(d.Set); !is {
		return false
	}
	if d.Full || a.has[d.Set] == nil {
		a.has[d.Set] = map[string]json.RawMessage{}
	}
	for _, key := range d.Gone {
		delete(a.has[d.Set], key)
	}
	for _, v := range d.Put {
		var r api.RuleSpec
		var key string
		if json.Unmarshal(v, &key) != nil {
			_ = json.Unmarshal(v, &r)
			key = r.UUID
		}
		a.has[d.Set][key] = v
	}
	a.at[d.Set] = a.at[d.Set].Take(d)
	return true
}

func (a *accountSets) refuse(sets []api.RefusedSet) {
	for _, r := range sets {
		a.refused[r.Set] = true
	}
}

// rules are those of an account that a server follows, or the global ones.
func (m *machine) rules(owner string) []api.RuleSpec {
	m.h.t.Helper()
	return rulesIn(m.h.t, m.sets.has[api.RuleSet(owner)])
}

// peers are the addresses of a rule's peers that a server follows.
func (m *machine) peers(peers []api.RulePeers) string {
	m.h.t.Helper()
	var out []string
	for _, p := range peers {
		out = append(out, p.Members...)
		for key := range m.sets.has[p.Set] {
			ip, _, _ := strings.Cut(key, "/")
			out = append(out, ip)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}
