package fabric

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/agent/router"
	"nereid/api"
	"nereid/headnode"
	"nereid/headnode/journal"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// TestRoutersMeanTheSame: what agents make of the sets that a head node takes over from a
// store of before is what the head node of before put into the specs of its servers, as
// fixtures/headnode has it: two gateway servers of an account, one that does NAT for
// itself alone, and one that needs the gateways.
func TestRoutersMeanTheSame(t *testing.T) {
	const before = "../../fixtures/headnode/dfd0bf7"
	type spec struct {
		VNIs    []api.VNISpec    `json:"vnis"`
		Routers []api.RouterSpec `json:"routers"`
	}
	var want map[string]spec
	text, err := os.ReadFile(before + ".routers.json")
	if err == nil {
		err = json.Unmarshal(text, &want)
	}
	if err != nil || len(want) != 4 {
		t.Fatalf("%d servers: %v", len(want), err)
	}
	dir := t.TempDir()
	db := filepath.Join(dir, "headnode.db")
	unzip(t, before+".db.gz", db)
	s, err := headnode.Open(t.Context(), headnode.Config{Dir: dir})
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	bolt, err := store.OpenBolt(t.Context(), db, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer bolt.Close()
	got := map[string]spec{}
	err = bolt.View(t.Context(), func(tx store.Tx) error {
		for server := range want {
			vnis, routers := build(t, tx, server)
			got[server] = spec{vnis, routers}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// build is what a server's agent makes of its sets.
func build(t *testing.T, tx store.Tx, server string) ([]api.VNISpec, []api.RouterSpec) {
	t.Helper()
	hosts, err := networks.Hosts(tx, server)
	if err != nil {
		t.Fatal(err)
	}
	var self api.ServerNAT
	for _, n := range valuesOf[api.ServerNAT](t, tx, api.ServerNATSet(server)) {
		if n.UUID == api.SelfKey {
			self = n
		} else if _, there := hosts[n.UUID]; !there {
			hosts[n.UUID] = nil
		}
	}
	var accounts []router.Account
	for _, owner := range slices.Sorted(maps.Keys(hosts)) {
		accounts = append(accounts, router.Account{Owner: owner, Hosts: hosts[owner],
			Networks: valuesOf[api.AccountNetwork](t, tx, api.NetworkSet(owner)), NAT: valuesOf[api.AccountNAT](t, tx, api.NATSet(owner))})
	}
	return router.Build(self, accounts)
}

// valuesOf are the values of a set.
func valuesOf[V any](t *testing.T, tx store.Tx, set string) (out []V) {
	t.Helper()
	for e, err := range journal.Live(tx, set) {
		var v V
		if err == nil {
			err = json.Unmarshal(e.Value, &v)
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func unzip(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if _, err := io.Copy(&b, z); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}
