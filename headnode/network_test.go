package headnode

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/networks"
)

const (
	alice = "a11ce000-0000-4000-8000-000000000001"
	bob   = "b0b00000-0000-4000-8000-000000000002"
)

// must gives a value whose error ends the test.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fabricRack is a head node with servers that run and have an underlay.
func fabricRack(t *testing.T, servers int) (*head, []*machine) {
	t.Helper()
	return fabricRackIn(startHead(t), servers)
}

func fabricRackIn(h *head, servers int) (*head, []*machine) {
	t := h.t
	t.Helper()
	ctx := context.Background()
	h.platform("20261122T101500Z")
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "underlay", MTU: 9000}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "underlay", NICTag: "underlay", Subnet: "10.77.0.0/24", ProvisionStart: "10.77.0.11"}))
	must[api.FabricSettings](t)(h.client.SetFabricSettings(ctx, api.FabricSettings{UnderlayTag: "underlay"}))
	var ms []*machine
	for i := range servers {
		m := h.machine(i + 1)
		m.nics = append(m.nics, "52:54:00:00:01:0"+string(rune('1'+i)))
		m.powerOn()
		if _, _, err := m.enrol(); err != nil {
			t.Fatal(err)
		}
		if err := h.client.ApproveServer(ctx, m.uuid, ""); err != nil {
			t.Fatal(err)
		}
		if st, _, err := m.enrol(); err != nil || st != http.StatusOK {
			t.Fatalf("enrol: %d %v", st, err)
		}
		m.mustSync()
		if err := h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: m.nics[1], NICTags: []string{"underlay"}}); err != nil {
			t.Fatal(err)
		}
		must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Underlay: true, Server: m.uuid, BelongsTo: m.uuid, BelongsToType: api.BelongsToServer,
			Owner: alice, Addresses: []api.NICAddress{{Network: "underlay"}}}))
		ms = append(ms, m)
	}
	return h, ms
}

// maps is an agent's poll for maps alone. A refusal of a map is its error.
func (m *machine) maps(follow ...mapFollow) (int, []api.FabricMap, error) {
	req := api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Report: m.rep}
	for _, f := range follow {
		req.Follow = append(req.Follow, api.Follow{Set: api.MapSet(f.VNI), Epoch: f.Epoch, Since: f.Since})
	}
	for {
		var out api.SyncResponse
		st, err := m.post(m.h.ca.Pool(), "/v1/servers/"+m.uuid+"/sync", req, &out)
		if err == nil && len(out.Refused) > 0 {
			err = &out.Refused[0].Why
		}
		if err == nil && out.Spec != nil && len(out.Deltas) == 0 { // that is not what is asked for
			req.Seen = out.Revision
			continue
		}
		var maps []api.FabricMap
		for _, d := range out.Deltas {
			maps = append(maps, mapOf(m.h.t, d))
		}
		return st, maps, err
	}
}

// mapFollow is what is known of a VNI's map.
type mapFollow struct {
	VNI   uint32
	Epoch string
	Since uint64
}

// mapOf is a delta of a map as operators see it.
func mapOf(t *testing.T, d api.Delta) api.FabricMap {
	t.Helper()
	vni, is := api.VNIOfMap(d.Set)
	if !is || d.Toward != 0 {
		t.Fatalf("a delta that is no map, or a part: %+v", d)
	}
	fm := api.FabricMap{VNI: vni, Epoch: d.Epoch, Version: d.Version, Full: d.Full}
	for _, ip := range d.Gone {
		fm.Entries = append(fm.Entries, api.MapEntry{IP: ip, Deleted: true})
	}
	for _, value := range d.Put {
		var e api.MapEntry
		if err := json.Unmarshal(value, &e); err != nil {
			t.Fatal(err)
		}
		fm.Entries = append(fm.Entries, e)
	}
	return fm
}

func TestFabric(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	one, two := ms[0], ms[1]

	vlan := must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	net := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web"}))
	if net.VNI != vlan.VNI || net.MTU != 8950 || net.Gateway == "" {
		t.Errorf("network %+v of %+v", net, vlan)
	}
	if _, err := h.client.FabricVLANs(bob).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}); err != nil {
		t.Errorf("the same VLAN of another account: %v", err)
	}
	other := must[api.Network](t)(h.client.FabricNetworks(bob, 2).Create(ctx, api.Network{Name: "web", Subnet: net.Subnet, Gateway: net.Gateway}))

	agreeing := api.WithConfirm(ctx, api.ConfirmAll) // one NIC of the instance is primary
	nic := func(owner, network string, on *machine) api.NetworkNIC {
		t.Helper()
		return must[api.NetworkNIC](t)(h.client.NICs().Create(agreeing, api.NetworkNIC{Owner: owner, BelongsToType: api.BelongsToOther, Server: on.uuid, Primary: true,
			BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: network}}}))
	}
	a := nic(alice, net.UUID, one)

	spec := one.network()
	if spec == nil {
		t.Fatal("no network in the spec")
	}
	want := api.NetworkSpec{
		Tags:     []api.TagSpec{{Name: "admin", MTU: 1500, MAC: one.mac}, {Name: "underlay", MTU: 9000, MAC: one.nics[1]}},
		Underlay: &api.UnderlaySpec{Tag: "underlay", MTU: 9000, Address: "10.77.0.11/24", Subnets: []string{"10.77.0.0/24"}},
		VNIs:     []api.VNISpec{{VNI: net.VNI, Owner: alice, MTU: 8950}},
		Routers: []api.RouterSpec{{Owner: alice, Networks: []api.RouterNetwork{{
			VNI: net.VNI, Gateway: net.Gateway + "/24", MAC: networks.GatewayMAC(net.VNI)}}}},
		Ports: []api.PortSpec{{MAC: a.MAC, Instance: a.BelongsTo, Owner: alice, VNI: net.VNI, MTU: 8950, Primary: true, Firewall: true,
			Addresses: []api.PortAddress{{Address: a.Addresses[0].IP + "/24", Gateway: net.Gateway}}}},
	}
	if d := cmp.Diff(want, *spec); d != "" {
		t.Errorf("spec (-want +got):\n%s", d)
	}

	// The map follows the NIC, and nobody follows what is not his.
	st, maps, err := one.maps(mapFollow{VNI: net.VNI})
	if err != nil || st != http.StatusOK || len(maps) != 1 || !maps[0].Full || len(maps[0].Entries) != 1 || maps[0].Entries[0].Underlay != "10.77.0.11" {
		t.Fatalf("map: %d %+v %v", st, maps, err)
	}
	if _, _, err := two.maps(mapFollow{VNI: net.VNI}); codeOf(err) != api.CodeForbidden {
		t.Errorf("another server's map: %v", err)
	}
	if _, _, err := one.maps(mapFollow{VNI: other.VNI}); codeOf(err) != api.CodeForbidden {
		t.Errorf("another account's map: %v", err)
	}
	if _, _, err := one.maps(mapFollow{VNI: net.VNI}, mapFollow{VNI: net.VNI}, mapFollow{VNI: net.VNI}); codeOf(err) != api.CodeInvalid {
		t.Errorf("the same map three times: %v", err)
	}
	seen := mapFollow{VNI: net.VNI, Epoch: maps[0].Epoch, Since: maps[0].Version}
	if st, _, err := one.maps(seen); st != http.StatusNoContent || err != nil {
		t.Errorf("nothing new: %d %v", st, err)
	}
	b := nic(alice, net.UUID, one)
	moved := make(chan []api.FabricMap, 1)
	go func() {
		for {
			st, maps, err := one.maps(seen)
			if st == http.StatusNoContent {
				continue
			}
			if err != nil {
				t.Error(err)
			}
			if len(maps) == 1 && maps[0].Entries[len(maps[0].Entries)-1].Underlay == "10.77.0.12" {
				moved <- maps
				return
			}
			if len(maps) == 1 {
				seen.Epoch, seen.Since = maps[0].Epoch, maps[0].Version
			}
		}
	}()
	if _, err := h.client.NICs().Update(ctx, b.MAC, api.NICUpdate{Server: &two.uuid}, ""); err != nil {
		t.Fatal(err)
	}
	if m := <-moved; m[0].Full || m[0].Entries[0].IP != b.Addresses[0].IP {
		t.Errorf("the move as a delta: %+v", m)
	}
	if st, maps, err := two.maps(mapFollow{VNI: net.VNI}); err != nil || st != http.StatusOK || len(maps[0].Entries) != 2 {
		t.Errorf("the other server's map: %d %+v %v", st, maps, err)
	}

	// A rule reaches the servers of its account's NICs, and no others.
	two.mustDrain()
	if got := two.rules(alice); len(got) != 0 {
		t.Errorf("rules before there are any: %+v", got)
	}
	rule := must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Rule: "from subnet 10.0.0.0/8 to all vms allow tcp port 22", Enabled: true, Owner: alice}))
	two.mustSync()
	if got := two.rules(alice); len(got) != 1 || got[0].UUID != rule.UUID || two.peers(got[0].FromPeers) != "10.0.0.0/8" || got[0].Action != "allow" {
		t.Errorf("rules: %+v", got)
	}

	// What is in use stays; a server with others' NICs is not forgotten.
	wantCode(t, "delete a network in use", h.client.Networks().Delete(ctx, net.UUID), api.CodeInUse)
	wantCode(t, "delete a VLAN in use", h.client.FabricVLANs(alice).Delete(ctx, "2"), api.CodeInUse)
	wantCode(t, "forget a server in use", h.client.ForgetServer(ctx, two.uuid), api.CodeInUse)
	if err := h.client.NICs().Delete(agreeing, b.MAC); err != nil {
		t.Fatal(err)
	}
	if m := must[api.FabricMap](t)(h.client.FabricMap(ctx, net.VNI, "", 0)); len(m.Entries) != 1 {
		t.Errorf("map after the NIC is gone: %+v", m)
	}
	if n := two.network(); len(n.Ports)+len(n.VNIs)+len(n.Routers) != 0 {
		t.Errorf("spec after the NIC is gone: %+v", n)
	}
	if err := h.client.ForgetServer(ctx, two.uuid); err != nil {
		t.Error(err)
	}
	if found := must[[]api.IPAddress](t)(h.client.SearchIPs(ctx, "10.77.0.12")); len(found) != 0 && !found[0].Free {
		t.Errorf("underlay address of a forgotten server: %+v", found)
	}
}

// Addresses that fabrics share are not found by others' names, and changes that
// come too late are refused.
func TestNetworkRevisions(t *testing.T) {
	h, _ := fabricRack(t, 1)
	ctx := context.Background()
	tag := must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	mtu := 9000
	changed := must[api.NICTag](t)(h.client.NICTags().Update(ctx, "external", api.NICTagUpdate{MTU: &mtu}, tag.Revision))
	_, err := h.client.NICTags().Update(ctx, "external", api.NICTagUpdate{MTU: &mtu}, tag.Revision)
	wantCode(t, "stale change", err, api.CodeStale)
	if changed.MTU != 9000 {
		t.Errorf("tag: %+v", changed)
	}
	_, err = h.client.Networks().Create(ctx, api.Network{Name: "x", NICTag: "external", Subnet: "10.1.2.3/24"})
	wantCode(t, "host bits", err, api.CodeInvalid)
	_, err = h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: alice, BelongsToType: api.BelongsToOther, Addresses: []api.NICAddress{{Network: "nowhere"}}})
	wantCode(t, "NIC on no network", err, api.CodeNotFound)
	var names []string
	for n, err := range h.client.NICTags().All(ctx, nil) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n.Name)
	}
	if d := cmp.Diff([]string{"admin", "external", "underlay"}, names); d != "" {
		t.Errorf("NIC tags (-want +got):\n%s", d)
	}
}

// What networks are made of is told to watchers by the path to read again; what was
// refused is not.
func TestNetworkEvents(t *testing.T) {
	h := startHead(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	es := must[*api.EventStream](t)(h.client.Events(ctx, api.EventQuery{}))
	defer es.Close()
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external", MTU: 1500}))
	_, err := h.client.NICTags().Create(ctx, api.NICTag{Name: "external"})
	wantCode(t, "twice", err, api.CodeConflict)
	mtu := 9000
	must[api.NICTag](t)(h.client.NICTags().Update(ctx, "external", api.NICTagUpdate{MTU: &mtu}, ""))
	must[api.FabricSettings](t)(h.client.SetFabricSettings(ctx, api.FabricSettings{}))
	vlan := must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	if vlan.VLAN != 2 {
		t.Fatalf("%+v", vlan)
	}
	if err := h.client.NICTags().Delete(ctx, "external"); err != nil {
		t.Fatal(err)
	}
	want := []api.Event{
		{Kind: "nic_tag", Path: "/v1/nic-tags", Name: "external"},
		{Kind: "nic_tag", Path: "/v1/nic-tags/external", Name: "external"},
		{Kind: "fabric_settings", Path: "/v1/fabric-settings"},
		{Kind: "fabric_vlan", Path: "/v1/accounts/" + alice + "/fabric/vlans", Name: "2", Owner: alice},
		{Kind: "nic_tag", Path: "/v1/nic-tags/external", Name: "external"},
	}
	var got []api.Event
	for ev, err := range es.All() {
		if err != nil {
			t.Fatalf("%v, after %+v", err, got)
		}
		if ev.ID == "" || ev.Time.IsZero() {
			t.Errorf("%+v has no id or no time", ev)
		}
		ev.ID, ev.Time = "", time.Time{}
		if got = append(got, ev); len(got) == len(want) {
			break
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
