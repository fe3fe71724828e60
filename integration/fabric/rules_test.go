package fabric

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	agent "nereid/agent/firewall"
	"nereid/api"
	"nereid/headnode/firewall"
	"nereid/headnode/journal"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

// TestRulesMeanTheSame: what an agent makes of the sets that it follows is what the head
// node's resolver makes of all rules and all NICs, whatever was done to these; and a set
// that no rule names is not there.
func TestRulesMeanTheSame(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { rulesMeanTheSame(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

const owners = 3

func uuidOf(kind, n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, n) }

// side is a random side of a rule.
func side(r *rand.Rand) string {
	one := func() string {
		switch r.IntN(6) {
		case 0:
			return "all vms"
		case 1:
			return fmt.Sprintf("tag role = r%d", r.IntN(3))
		case 2:
			return fmt.Sprintf("tag t%d", r.IntN(3))
		case 3:
			return "vm " + uuidOf(9, r.IntN(12))
		case 4:
			return fmt.Sprintf("ip 192.0.2.%d", r.IntN(4))
		}
		return "subnet 198.51.100.0/24"
	}
	switch r.IntN(4) {
	case 0:
		return "any"
	case 1:
		return "(" + strings.ReplaceAll(one(), "all vms", "tag t1") + " OR " + strings.ReplaceAll(one(), "all vms", "tag t0") + ")"
	}
	return one()
}

func rulesMeanTheSame(t *testing.T, r *rand.Rand) {
	bolt, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer bolt.Close()
	s := storetest.Twice(bolt)
	nics := map[string]*firewall.Member{} // by MAC
	rules := map[string]api.FirewallRule{}
	members := func(owner string) (out []firewall.Member, err error) {
		for _, mac := range slices.Sorted(maps.Keys(nics)) {
			if m := nics[mac]; owner == "" || m.Owner == owner {
				out = append(out, *m)
			}
		}
		return out, nil
	}
	random := func() *firewall.Member {
		instance := r.IntN(12)
		m := &firewall.Member{MAC: fmt.Sprintf("02:00:00:00:00:%02x", 2*instance+r.IntN(2))}
		m.UUID, m.Owner, m.Tags = uuidOf(9, instance), uuidOf(1, instance%owners), map[string]string{}
		for range r.IntN(3) {
			m.Tags[fmt.Sprintf("t%d", r.IntN(3))] = "x"
		}
		if r.IntN(2) == 0 {
			m.Tags["role"] = fmt.Sprintf("r%d", r.IntN(3))
		}
		for range 1 + r.IntN(2) {
			m.Addresses = append(m.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(20))}))
		}
		return m
	}
	do := func(fn func(tx store.Tx) error) {
		t.Helper()
		if err := s.Update(context.Background(), fn); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 150 {
		switch k := r.IntN(10); {
		case k < 5: // a NIC comes or changes, and with it the tags of the others of its instance
			m := random()
			moved := []firewall.Moved{{Before: nics[m.MAC], After: m}}
			for mac, o := range nics {
				if mac != m.MAC && o.UUID == m.UUID {
					after := *o
					after.Tags = m.Tags
					moved = append(moved, firewall.Moved{Before: o, After: &after})
				}
			}
			do(func(tx store.Tx) error { return firewall.Move(tx, moved...) })
			for _, c := range moved {
				nics[c.After.MAC] = c.After
			}
		case k < 6:
			for mac, m := range nics {
				do(func(tx store.Tx) error { return firewall.Move(tx, firewall.Moved{Before: m}) })
				delete(nics, mac)
				break
			}
		case k < 9:
			in := api.FirewallRule{Enabled: r.IntN(4) > 0, Log: r.IntN(5) == 0, Owner: uuidOf(1, r.IntN(owners))}
			if r.IntN(3) == 0 {
				in.Owner, in.Global = "", true
			}
			in.Rule = fmt.Sprintf("FROM %s TO %s %s tcp PORT %d PRIORITY %d", side(r), side(r), []string{"ALLOW", "BLOCK"}[r.IntN(2)], 1+r.IntN(3), r.IntN(3))
			var made api.FirewallRule
			err := s.Update(t.Context(), func(tx store.Tx) (err error) {
				if made, err = firewall.Create(tx, in, time.Now()); err == nil {
					err = firewall.Publish(tx, nil, &made, members)
				}
				return err
			})
			if p := (*api.Problem)(nil); errors.As(err, &p) {
				continue // it names no instance
			} else if err != nil {
				t.Fatal(err)
			}
			rules[made.UUID] = made
		default:
			for id, was := range rules {
				on := !was.Enabled
				do(func(tx store.Tx) error {
					is, err := firewall.Update(tx, id, "", api.FirewallRuleUpdate{Enabled: &on})
					if err != nil || r.IntN(1) > 0 {
						return err
					}
					rules[id] = is
					return firewall.Publish(tx, &was, &is, members)
				})
				if n%2 == 0 {
					is := rules[id]
					do(func(tx store.Tx) error {
						if err := firewall.Delete(tx, id, ""); err != nil {
							return err
						}
						return firewall.Publish(tx, &is, nil, members)
					})
					delete(rules, id)
				}
				break
			}
		}
		compare(t, s, rules, nics)
	}
	// Without rules nothing is kept of them.
	for id, was := range rules {
		do(func(tx store.Tx) error {
			if err := firewall.Delete(tx, id, ""); err != nil {
				return err
			}
			return firewall.Publish(tx, &was, nil, members)
		})
	}
	err = s.View(t.Context(), func(tx store.Tx) error {
		for _, prefix := range []string{"firewall/", "journal/entry/account/", "journal/set/account/"} {
			for it, err := range tx.Scan(prefix, "") {
				if err != nil {
					return err
				}
				if !strings.HasSuffix(it.Key, "/rules") {
					t.Errorf("%s is left", it.Key)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// compare asks both for the meaning of the rules for all NICs.
func compare(t *testing.T, s store.Store, rules map[string]api.FirewallRule, nics map[string]*firewall.Member) {
	t.Helper()
	var instances []firewall.Instance
	var ports []api.PortSpec
	for _, mac := range slices.Sorted(maps.Keys(nics)) {
		m := nics[mac]
		instances = append(instances, m.Instance)
		ports = append(ports, api.PortSpec{MAC: mac, Instance: m.UUID, Owner: m.Owner, Tags: m.Tags, Firewall: true})
	}
	resolver, err := firewall.NewResolver(slices.Collect(maps.Values(rules)), instances)
	if err != nil {
		t.Fatal(err)
	}
	want := resolver.Spec(ports)
	var account []agent.AccountRules
	sets := map[string][]string{}
	err = s.View(t.Context(), func(tx store.Tx) error {
		clear(sets)
		account = nil
		for _, owner := range []string{"", uuidOf(1, 0), uuidOf(1, 1), uuidOf(1, 2)} {
			a := agent.AccountRules{Owner: owner}
			for e, err := range journal.Live(tx, api.RuleSet(owner)) {
				var spec api.RuleSpec
				if err == nil {
					err = json.Unmarshal(e.Value, &spec)
				}
				if err != nil {
					return err
				}
				a.Rules = append(a.Rules, spec)
				for _, p := range slices.Concat(spec.FromPeers, spec.ToPeers) {
					sets[p.Set] = nil
				}
			}
			account = append(account, a)
		}
		for name := range sets {
			for e, err := range journal.Live(tx, name) {
				var key string
				if err == nil {
					err = json.Unmarshal(e.Value, &key)
				}
				if err != nil || key != e.Key {
					return fmt.Errorf("member %q with the value %s: %w", e.Key, e.Value, err)
				}
				ip, _, _ := strings.Cut(key, "/")
				sets[name] = append(sets[name], ip)
			}
			slices.SortFunc(sets[name], func(a, b string) int { return netip.MustParseAddr(a).Compare(netip.MustParseAddr(b)) })
			sets[name] = slices.Compact(sets[name])
		}
		// What is read of the sets is what the NICs say.
		if err := resolver.Load(tx); err != nil {
			return err
		}
		if d := cmp.Diff(want, resolver.Spec(ports)); d != "" {
			t.Fatalf("the sets differ from the NICs (-NICs +sets):\n%s", d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := agent.Resolve(ports, account, func(set string) []string { return sets[set] })
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("-head node +agent:\n%s", d)
	}
}
