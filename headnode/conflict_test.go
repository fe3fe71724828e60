package headnode

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"nereid/api"
	"nereid/headnode/networks"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
	"nereid/headnode/trust"
)

// recorder is a running head node whose transactions are recorded: those of an
// operation at a time.
type recorder struct {
	*head
	mu  sync.Mutex
	ops map[any][]storetest.Trace
}

type opKey struct{}

func (tr *recorder) record(s *Server) {
	s.store = storetest.Recording(s.store, func(ctx context.Context, t storetest.Trace) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if op := ctx.Value(opKey{}); op != nil && len(t.Written) > 0 {
			tr.ops[op] = append(tr.ops[op], t)
		}
	})
}

// op gives the transactions of an operation that wrote something.
func (tr *recorder) op(fn func(ctx context.Context)) []storetest.Trace {
	tr.t.Helper()
	op := new(int)
	fn(context.WithValue(context.Background(), opKey{}, op))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.ops[op]) == 0 {
		tr.t.Fatal("the operation wrote nothing")
	}
	return tr.ops[op]
}

// TestQuietSync: what a sync that brings nothing new asks the store. Its report is read
// once, its hardware not at all, and nothing is written.
func TestQuietSync(t *testing.T) {
	var mu sync.Mutex
	var traces []storetest.Trace
	h, ms := fabricRackIn(startIn(t, initDir(t, 250), func(s *Server) {
		s.store = storetest.Recording(s.store, func(ctx context.Context, t storetest.Trace) {
			mu.Lock()
			defer mu.Unlock()
			if ctx.Value(opKey{}) != nil {
				traces = append(traces, t)
			}
		})
	}), 1)
	m := ms[0]
	m.mustSync()
	m.mustSync()
	csr, err := trust.ParseCSR(m.csr())
	if err != nil {
		t.Fatal(err)
	}
	need, err := h.takeReport(context.WithValue(t.Context(), opKey{}, true), caller{uuid: m.uuid, key: csr.Key},
		&syncInput{UUID: m.uuid, Body: api.SyncRequest{InventoryDigest: "d1", Report: m.rep}})
	mu.Lock()
	defer mu.Unlock()
	if err != nil || need || len(traces) != 1 {
		t.Fatalf("%d transactions, inventory needed: %v, %v; want one, and no need", len(traces), need, err)
	}
	tr := traces[0]
	if n := tr.Read["observed/"+m.uuid]; n != 1 {
		t.Errorf("the report was read %d times", n)
	}
	if tr.Read["hardware/"+m.uuid] != 0 || len(tr.Written) != 0 || tr.Trips > 3 {
		t.Errorf("%d requests: read %v, wrote %v", tr.Trips, tr.Read, tr.Written)
	}
}

// together gives the keys for which two operations may have to be run again.
func together(a, b []storetest.Trace) []string {
	var keys []string
	for _, x := range a {
		for _, y := range b {
			keys = append(keys, x.Conflicts(y)...)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// TestTwoAtATime: operations on different servers have no key in common for which a
// serializable store would run one of them again. What they share by their nature is
// named: two NICs of one network take addresses from the same span.
func TestTwoAtATime(t *testing.T) {
	tr := &recorder{ops: map[any][]storetest.Trace{}}
	h, ms := fabricRackIn(startIn(t, initDir(t, 250), withImages, tr.record), 4)
	tr.head = h
	bg := context.Background()
	must[api.NICTag](t)(h.client.NICTags().Create(bg, api.NICTag{Name: "external"}))
	for i, m := range ms {
		if err := h.client.ProvideNICTags(bg, m.uuid, api.NICTagUse{MAC: m.nics[1], NICTags: []string{"external", "underlay"}}); err != nil {
			t.Fatal(err)
		}
		must[api.Network](t)(h.client.Networks().Create(bg, api.Network{Name: "n" + string(rune('0'+i)), NICTag: "external", VLAN: 7 + i,
			Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), 0}), 24).String()}))
	}
	fabric := func(owner string) string {
		must[api.FabricVLAN](t)(h.client.FabricVLANs(owner).Create(bg, api.FabricVLAN{VLAN: 2, Name: "web"}))
		return must[api.Network](t)(h.client.FabricNetworks(owner, 2).Create(bg, api.Network{Name: "web"})).UUID
	}
	const bob = "00000000-0000-4000-b000-00000000000b"
	alices, bobs := fabric(alice), fabric(bob)
	instance := 0
	nic := func(m *machine, owner, network string) func(context.Context) {
		return func(ctx context.Context) {
			t.Helper()
			instance++
			err := h.Server.update(ctx, func(tx store.Tx) error {
				provided, err := provides(tx, m.uuid)
				if err != nil {
					return err
				}
				c, err := h.createNIC(tx, api.NetworkNIC{Owner: owner, BelongsToType: api.BelongsToOther, Server: m.uuid,
					BelongsTo: "00000000-0000-4000-9000-0000000000" + string(rune('a'+instance/10)) + string(rune('0'+instance%10)),
					Addresses: []api.NICAddress{{Network: network}}}, provided)
				_, err = h.nicChanged(tx, c, err)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	dropNIC := func(m *machine, network string) func(context.Context) {
		return func(ctx context.Context) {
			t.Helper()
			var mac string
			err := h.Server.store.View(bg, func(tx store.Tx) error {
				on, err := networks.GetNetwork(tx, network)
				if err != nil {
					return err
				}
				nics, err := networks.NICsOfServer(tx, m.uuid)
				for _, n := range nics {
					if n.BelongsToType == api.BelongsToOther && n.Addresses[0].Network == on.UUID {
						mac = n.MAC
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			err = h.Server.update(ctx, func(tx store.Tx) error {
				c, err := networks.DeleteNIC(tx, h.now(), mac)
				_, err = h.nicChanged(tx, c, err)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, m := range ms[:2] {
		runner(m)
	}
	create := func(m *machine, owner, network string) func(context.Context) {
		return func(ctx context.Context) {
			t.Helper()
			instance++
			_, err := h.Server.createInstance(ctx, api.InstanceCreate{Owner: owner, Name: "i" + string(rune('a'+instance)), Image: "debian", Package: "sample-128M", Server: m.uuid,
				Networks: []api.InstanceNetwork{{Addresses: []api.NICAddress{{Network: network}}}}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	// boot is a server's whole boot, to its first sync.
	boot := func(m *machine) func(context.Context) {
		return func(ctx context.Context) {
			t.Helper()
			m.ctx = ctx
			m.powerOn()
			csr, err := trust.ParseCSR(m.csr())
			if err != nil {
				t.Fatal(err)
			}
			if out, err := h.enrolOnce(ctx, api.EnrolRequest{Token: m.token, BootID: m.boot, CSR: m.csr(), Sysinfo: m.sysinfo()}, csr); err != nil || !out.Granted {
				t.Fatalf("enrol: %+v, %v", out, err)
			}
			if _, err := h.takeReport(ctx, caller{uuid: m.uuid, key: csr.Key}, &syncInput{UUID: m.uuid, Body: api.SyncRequest{InventoryDigest: "d1", Report: m.rep}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	report := func(m *machine) func(context.Context) {
		return func(ctx context.Context) {
			t.Helper()
			csr, err := trust.ParseCSR(m.csr())
			if err != nil {
				t.Fatal(err)
			}
			m.rep.Problems = append(m.rep.Problems, "something new")
			if _, err := h.takeReport(ctx, caller{uuid: m.uuid, key: csr.Key}, &syncInput{UUID: m.uuid, Body: api.SyncRequest{InventoryDigest: "d1", Report: m.rep}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		a, b   func(context.Context)
		shared []string // the beginnings of what they share
	}{
		{"NICs on two networks", nic(ms[0], alice, "n0"), nic(ms[1], bob, "n1"), nil},
		{"NICs of one owner on two networks", nic(ms[0], alice, "n0"), nic(ms[1], alice, "n1"), nil},
		{"NICs of one network", nic(ms[0], alice, "n0"), nic(ms[1], bob, "n0"), []string{"networks/free/", "networks/ip/"}},
		{"NICs of two fabrics", nic(ms[0], alice, alices), nic(ms[1], bob, bobs), nil},
		{"a NIC made, a NIC deleted", nic(ms[0], alice, "n0"), dropNIC(ms[1], "n1"), nil},
		{"instances of one owner on two networks", create(ms[0], alice, "n0"), create(ms[1], alice, "n1"), nil},
		{"instances on two fabrics", create(ms[0], alice, alices), create(ms[1], bob, bobs), nil},
		{"boots", boot(ms[0]), boot(ms[1]), []string{"token/expiry/"}}, // expired ones are pruned
		{"a boot and a NIC", boot(ms[2]), nic(ms[3], alice, "n3"), nil},
		{"reports", report(ms[0]), report(ms[1]), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := tr.op(c.a), tr.op(c.b)
			for _, key := range together(a, b) {
				if !slices.ContainsFunc(c.shared, func(p string) bool { return strings.HasPrefix(key, p) }) {
					t.Errorf("both need %s", key)
				}
			}
		})
	}
}
