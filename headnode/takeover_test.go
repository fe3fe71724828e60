package headnode

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// before is the last commit whose stores are taken over: fixtures/headnode has the
// store of a head node of that commit with four servers on a fabric with NAT, one that
// waits for approval, and one that only asked for an address; and what its server list
// said.
const before = "../fixtures/headnode/dfd0bf7"

// dirBefore is a data directory with the store that the commit before wrote.
func dirBefore(t *testing.T) string {
	t.Helper()
	dir := initDir(t, 250)
	in, err := os.Open(before + ".db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, storeFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// keysOf are all keys and values of a head node's store.
func keysOf(t *testing.T, s store.Store) map[string]string {
	t.Helper()
	keys := map[string]string{}
	err := s.View(t.Context(), func(tx store.Tx) error {
		for it, err := range tx.Scan("", "") {
			if err != nil {
				return err
			}
			keys[it.Key] = string(it.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestTakeOver: a store that the commit before wrote is taken over at the first start,
// with all it says of its servers, and a second start finds nothing to do.
func TestTakeOver(t *testing.T) {
	dir := dirBefore(t)
	h := startIn(t, dir)
	var said, got []api.Server
	b, err := os.ReadFile(before + ".servers.json")
	if err == nil {
		err = json.Unmarshal(b, &said)
	}
	if err != nil {
		t.Fatal(err)
	}
	for sv, err := range h.client.Servers(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, sv)
	}
	for _, list := range [][]api.Server{said, got} {
		for i := range list { // what is of the moment
			list[i].State, list[i].StateReason, list[i].LastSeen, list[i].Usage, list[i].Alerts = "", "", nil, nil, nil
			list[i].Platform.Running = ""
		}
	}
	if d := cmp.Diff(said, got[:min(len(got), len(said))]); d != "" || len(said) < 5 {
		t.Errorf("the servers are others (-want +got):\n%s", d)
	}
	keys := keysOf(t, h.Server.store)
	numbers := map[string]string{}
	for k, v := range keys {
		for _, old := range []string{"nat/indexes", "networks/mac-counter", "firewall-revision", "rules-revision/global"} {
			if k == old {
				t.Errorf("%s is still there", k)
			}
		}
		if server, is := strings.CutPrefix(k, natIndexPrefix); is {
			var n uint32
			if err := json.Unmarshal([]byte(v), &n); err != nil || keys[indexedKey(n)] != `"`+server+`"` {
				t.Errorf("server %s has number %s, which is that of %q", server, v, keys[indexedKey(n)])
			}
			numbers[server] = v
		}
	}
	if len(numbers) != 3 {
		t.Errorf("%d servers have a transit address, want 3", len(numbers))
	}
	h.stop()
	again := startIn(t, dir)
	if d := cmp.Diff(stable(keys), stable(keysOf(t, again.Server.store))); d != "" {
		t.Errorf("a second start changed something:\n%s", d)
	}
}

// TestTakeOverRules: the rules of a store of before, and the addresses that they name as
// peers, become sets that servers follow; so does what a start that was cut short left.
func TestTakeOverRules(t *testing.T) {
	dir := dirBefore(t)
	const web = "fe29345b-a42a-42b6-a6f6-000000000001"
	var tagged api.NetworkNIC
	s, err := store.OpenBolt(t.Context(), filepath.Join(dir, storeFile), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(tx store.Tx) error {
		rule := api.FirewallRule{UUID: web, Rule: "FROM tag role = web TO all vms ALLOW tcp PORT 80", Enabled: true, Owner: alice, Revision: "1"}
		for e, err := range store.Each[api.NetworkNIC](tx, "networks/nic/") {
			if err != nil {
				return err
			}
			if n := e.Value; n.Owner == alice && n.BelongsToType == api.BelongsToZone {
				tagged = n
			}
		}
		tagged.Tags = map[string]string{"role": "web"}
		return errors.Join(store.Put(tx, "networks/nic/"+tagged.MAC, tagged), store.Put(tx, "firewall/rule/"+web, rule),
			store.Put(tx, "firewall/owner/"+alice+"/"+web, struct{}{}), store.Put(tx, "firewall/count/"+alice, 2))
	})
	if err == nil {
		err = s.Close()
	}
	if err != nil || tagged.Server == "" {
		t.Fatalf("NIC %+v: %v", tagged, err)
	}
	for range 2 {
		h := startIn(t, dir)
		keys := keysOf(t, h.Server.store)
		if _, is := keys["networks/owned/"+tagged.Server+"/"+alice+"/"+tagged.MAC]; !is {
			t.Error("the NIC is not found by its account")
		}
		var rules []api.RuleSpec
		var port api.PortSpec
		err := h.Server.store.View(t.Context(), func(tx store.Tx) error {
			rules = nil
			for e, err := range journal.Live(tx, api.RuleSet(alice)) {
				if err != nil {
					return err
				}
				rules = append(rules, decoded[api.RuleSpec](t, e.Value))
			}
			e, _, err := journal.Get(tx, api.PortSet(tagged.Server), api.PortKey(tagged.MAC, tagged.BelongsTo))
			port = decoded[api.PortSpec](t, e.Value)
			return err
		})
		if err != nil || port.Tags["role"] != "web" || len(rules) != 2 {
			t.Fatalf("port %+v, rules %+v: %v", port, rules, err)
		}
		i := slices.IndexFunc(rules, func(r api.RuleSpec) bool { return r.UUID == web })
		var got []string
		err = h.Server.store.View(t.Context(), func(tx store.Tx) error {
			got = nil
			for e, err := range journal.Live(tx, rules[i].FromPeers[0].Set) {
				if err != nil {
					return err
				}
				got = append(got, e.Key)
			}
			return nil
		})
		if err != nil || !slices.Equal(got, []string{api.MemberKey(tagged.Addresses[0].IP, tagged.MAC)}) {
			t.Errorf("addresses %q of peers %+v: %v", got, rules[i].FromPeers, err)
		}
		// As if the start had been cut short before its end.
		if err := h.Server.store.Update(t.Context(), func(tx store.Tx) error { return tx.Delete("firewall/published") }); err != nil {
			t.Fatal(err)
		}
		h.stop()
	}
}

// stable leaves out what every start writes.
func stable(keys map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range keys {
		if k != "journal/run" {
			out[k] = v
		}
	}
	return out
}

// TestTransitNumbers: a server keeps its number, no two have one, and a number that is
// given back is drawn again.
func TestTransitNumbers(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: initDir(t, 250)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	draw := func(n ...uint32) func(uint32) uint32 {
		return func(uint32) uint32 { x := n[0]; n = n[1:]; return x }
	}
	var got []uint32
	err = s.store.Update(t.Context(), func(tx store.Tx) error {
		got = nil
		take := func(server string, n ...uint32) error {
			x, err := newIndex(tx, server, draw(n...))
			got = append(got, x)
			return err
		}
		for _, fn := range []func() error{
			func() error { return take("one", 4) },
			func() error { return take("two", 4, 4, 9) },
			func() error { return forgetNAT(tx, "one") },
			func() error { return take("three", 9, 4) },
		} {
			if err := fn(); err != nil {
				return err
			}
		}
		a, err := transitAddr(tx, "two")
		if a.String() != "100.64.0.10" {
			t.Errorf("the address is %s, want 100.64.0.10", a)
		}
		return err
	})
	if err != nil || !slices.Equal(got, []uint32{5, 10, 5}) {
		t.Errorf("numbers %v, %v; want 5, 10, 5", got, err)
	}
}
