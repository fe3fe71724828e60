package networks

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

var t0 = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

// id is a UUID that is easy to tell from others.
func id(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

var (
	alice, bob         = id(0xa), id(0xb)
	server1, server2   = id(0x51), id(0x52)
	instance1          = id(0x1)
	external, underlay = "external", "underlay"
)

// world is a store in which every Update runs twice, and after each of which all
// that is derived is compared with what it is derived from.
type world struct {
	*testing.T
	s   store.Store
	now time.Time
}

func openBolt(t testing.TB) *store.Bolt {
	b, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func newWorld(t *testing.T) *world { return &world{t, storetest.Twice(openBolt(t)), t0} }

// try runs fn as a transaction.
func (w *world) try(fn func(store.Tx) error) error {
	w.Helper()
	err := w.s.Update(w.Context(), fn)
	if cerr := w.s.View(w.Context(), Check); cerr != nil {
		w.Fatal(cerr)
	}
	return err
}

// must is try of what succeeds.
func (w *world) must(fn func(store.Tx) error) {
	w.Helper()
	if err := w.try(fn); err != nil {
		w.Fatal(err)
	}
}

// refused is try of what is refused with a code and a message that has all words.
func (w *world) refused(code api.Code, words string, fn func(store.Tx) error) *api.Problem {
	w.Helper()
	err := w.try(fn)
	p := (*api.Problem)(nil)
	if !errors.As(err, &p) {
		w.Fatalf("got %v, want a refusal with %q", err, words)
	}
	if p.Code != code || p.Title == "" || p.Status == 0 || p.Detail == "" {
		w.Errorf("got %+v, want code %s", p, code)
	}
	for _, part := range strings.Split(words, "|") {
		if !strings.Contains(p.Error(), part) {
			w.Errorf("got %q, want %q in it", p, part)
		}
	}
	return p
}

// do is an operation with a result.
func do[T any](w *world, fn func(store.Tx) (T, error)) (v T) {
	w.Helper()
	w.must(func(tx store.Tx) (err error) { v, err = fn(tx); return err })
	return v
}

func (w *world) tag(name string, mtu int) api.NICTag {
	w.Helper()
	return do(w, func(tx store.Tx) (api.NICTag, error) { return CreateNICTag(tx, api.NICTag{Name: name, MTU: mtu}) })
}

func (w *world) network(n api.Network) api.Network {
	w.Helper()
	return do(w, func(tx store.Tx) (api.Network, error) { return CreateNetwork(tx, n) })
}

// on is a NIC of alice's instance on networks or pools; "NET=IP" names an address.
func on(nets ...string) api.NetworkNIC {
	n := api.NetworkNIC{Owner: alice, BelongsTo: instance1, BelongsToType: api.BelongsToZone}
	for _, s := range nets {
		net, ip, _ := strings.Cut(s, "=")
		n.Addresses = append(n.Addresses, api.NICAddress{Network: net, IP: ip})
	}
	return n
}

func (w *world) create(n api.NetworkNIC, provided ...string) func(store.Tx) error {
	return func(tx store.Tx) error {
		_, err := CreateNIC(tx, w.now, n, provided)
		return err
	}
}

func (w *world) nic(n api.NetworkNIC, provided ...string) api.NetworkNIC {
	w.Helper()
	c := do(w, func(tx store.Tx) (Change, error) { return CreateNIC(tx, w.now, n, provided) })
	if c.Before != nil || c.After == nil {
		w.Fatalf("create gave %+v", c)
	}
	return *c.After
}

func (w *world) drop(mac string) {
	w.Helper()
	w.must(func(tx store.Tx) error { _, err := DeleteNIC(tx, w.now, mac); return err })
}

func (w *world) update(id string, u api.NetworkUpdate) func(store.Tx) error {
	return func(tx store.Tx) error { _, _, err := UpdateNetwork(tx, w.now, id, u); return err }
}

// ips are the addresses of a NIC.
func ips(n api.NetworkNIC) string {
	var out []string
	for _, a := range n.Addresses {
		out = append(out, a.IP)
	}
	return strings.Join(out, " ")
}

func ptr[T any](v T) *T { return &v }

// rack makes NIC tags, an underlay with addresses of two servers, and the network
// external 10.0.0.0/24.
func rack(t *testing.T) *world {
	w := newWorld(t)
	w.tag(external, 0)
	w.tag(underlay, MaxMTU)
	w.must(func(tx store.Tx) error {
		_, err := UpdateSettings(tx, api.FabricSettings{UnderlayTag: underlay})
		return err
	})
	w.network(api.Network{Name: "under", NICTag: underlay, Subnet: "172.30.0.0/24"})
	for _, s := range []string{server1, server2} {
		w.nic(api.NetworkNIC{BelongsTo: s, Server: s, BelongsToType: api.BelongsToServer, Underlay: true, Addresses: []api.NICAddress{{Network: "under"}}})
	}
	w.network(api.Network{Name: external, NICTag: external, VLAN: 7, Subnet: "10.0.0.0/24", Gateway: "10.0.0.1"})
	return w
}

// fabricNet is a fabric network.
func fabricNet(name, owner, subnet string, vni uint32) api.Network {
	return api.Network{Name: name, Owners: []string{owner}, Subnet: subnet, VNI: vni, VLAN: 2, Fabric: true}
}
