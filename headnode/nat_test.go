package headnode

import (
	"context"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// natRack is four servers, of which the first three provide the external NIC tag, and
// a network of alice's with internet_nat.
func natRack(t *testing.T) (*head, []*machine, api.Network) {
	t.Helper()
	h, ms := fabricRack(t, 4)
	ctx := context.Background()
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", VLAN: 7, Subnet: "203.0.113.0/24", Gateway: "203.0.113.1"}))
	settings := must[api.FabricSettings](t)(h.client.FabricSettings(ctx))
	settings.NATNetwork = "external"
	must[api.FabricSettings](t)(h.client.SetFabricSettings(ctx, settings))
	for _, m := range ms[:3] {
		if err := h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: m.nics[1], NICTags: []string{"external", "underlay"}}); err != nil {
			t.Fatal(err)
		}
	}
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	return h, ms, must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web", InternetNAT: true}))
}

// A server that provides the external NIC tag does NAT itself; another is given
// two that do, over the account's transit VNI.
func TestNAT(t *testing.T) {
	h, ms, net := natRack(t)
	ctx := context.Background()
	nic := func(on *machine) api.NetworkNIC {
		t.Helper()
		return must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: on.uuid,
			BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: net.UUID}}}))
	}
	router := func(m *machine) *api.NATSpec {
		t.Helper()
		spec := m.network()
		if spec == nil || len(spec.Routers) == 0 {
			return nil
		}
		return spec.Routers[0].NAT
	}

	// On a server with the tag: itself, and nothing else is needed.
	nic(ms[0])
	first := router(ms[0])
	if first == nil || first.Tag != "external" || first.VLAN != 7 || first.Gateway != "203.0.113.1" || first.Address == "" || first.VNI != 0 {
		t.Fatalf("NAT where the tag is: %+v", first)
	}

	// On one without: two of the three, and they know.
	away := nic(ms[3])
	far := router(ms[3])
	if far == nil || far.Tag != "" || len(far.Via) != 2 || far.VNI == 0 || far.Transit == "" {
		t.Fatalf("NAT where the tag is not: %+v", far)
	}
	var vias []string
	for _, m := range ms[:3] {
		if n := router(m); n != nil && n.Transit != "" {
			if n.VNI != far.VNI || n.Tag != "external" || n.Address == "" {
				t.Errorf("gateway %+v", n)
			}
			vias = append(vias, n.Transit[:len(n.Transit)-len("/10")])
		}
	}
	slices.Sort(vias)
	if got := slices.Sorted(slices.Values(far.Via)); !slices.Equal(got, vias) {
		t.Errorf("gateways %v, routers with transit addresses %v", got, vias)
	}
	if m := must[api.FabricMap](t)(h.client.FabricMap(ctx, far.VNI, "", 0)); len(m.Entries) != 3 {
		t.Errorf("transit map: %+v", m)
	}
	if st, maps, err := ms[3].maps(mapFollow{VNI: far.VNI}); err != nil || len(maps) != 1 {
		t.Errorf("transit map followed: %d %+v %v", st, maps, err)
	}

	// A trace says which of them is in use.
	use := api.Usage{Network: &api.NetworkReport{Gateways: []api.GatewayReport{{Owner: alice, Used: far.Via[1], Down: far.Via[:1]}}}}
	if _, _, err := ms[3].syncWith(api.SyncRequest{InventoryDigest: "d1", Report: ms[3].rep, Usage: use}); err != nil {
		t.Fatal(err)
	}
	trace := must[api.Trace](t)(h.client.TraceNetwork(ctx, api.TraceRequest{Src: away.MAC, Dst: "198.51.100.7", Protocol: "tcp", Port: 443}))
	hops := trace.Hops[len(trace.Hops)-2:]
	last := hops[0].Detail
	if first, second := strings.Index(last, " (does not answer)"), strings.Index(last, " (in use)"); !trace.Arrives || first < 0 || second < first {
		t.Errorf("trace: %s", last)
	}
	// It goes there on the underlay.
	there := ""
	for e := range slices.Values(must[api.FabricMap](t)(h.client.FabricMap(ctx, far.VNI, "", 0)).Entries) {
		if e.IP == far.Via[1] {
			there = e.Underlay
		}
	}
	if hops[1].What != "underlay" || there == "" || !strings.HasSuffix(hops[1].Detail, " to "+there) {
		t.Errorf("trace: %+v, want it to go to %q", hops[1], there)
	}

	// When the last NIC without the tag is gone, so are the gateways.
	if err := h.client.NICs().Delete(ctx, away.MAC); err != nil {
		t.Fatal(err)
	}
	if n := router(ms[0]); n == nil || n.Transit != "" {
		t.Errorf("after: %+v", n)
	}
	for _, m := range ms[1:] {
		if n := router(m); n != nil {
			t.Errorf("router left over: %+v", n)
		}
	}
}

// An account's gateways come with its first NIC on a server that needs them, stay with
// each other, and go with the last, whether it is deleted or moves.
func TestNATComesAndGoes(t *testing.T) {
	h, ms, net := natRack(t)
	ctx := context.Background()
	nic := func(on *machine) api.NetworkNIC {
		t.Helper()
		return must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: on.uuid,
			BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: net.UUID}}}))
	}
	via := func() int {
		t.Helper()
		ms[3].seen = ""
		if spec := ms[3].network(); len(spec.Routers) > 0 && spec.Routers[0].NAT != nil {
			return len(spec.Routers[0].NAT.Via)
		}
		return 0
	}
	remove := func(n api.NetworkNIC) {
		t.Helper()
		if err := h.client.NICs().Delete(ctx, n.MAC); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, n int) {
		t.Helper()
		if got := via(); got != n {
			t.Errorf("%s: %d gateways, want %d", what, got, n)
		}
	}
	a, b := nic(ms[3]), nic(ms[3])
	want("two NICs", 2)
	remove(a)
	want("one is left", 2)
	remove(b)
	want("none is left", 0)
	c := nic(ms[3])
	want("one again", 2)
	must[api.NetworkNIC](t)(h.client.NICs().Update(ctx, c.MAC, api.NICUpdate{Server: &ms[0].uuid}, ""))
	want("it moved", 0)
	must[api.NetworkNIC](t)(h.client.NICs().Update(ctx, c.MAC, api.NICUpdate{Server: &ms[3].uuid}, ""))
	want("and back", 2)
}

// A server whose link to the external network is down does no NAT, its own
// instances' neither, until it has the link again; when all have lost it, all stay.
func TestNATWithoutLink(t *testing.T) {
	h, ms, net := natRack(t)
	ctx := context.Background()
	for _, m := range []*machine{ms[0], ms[3]} {
		must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: m.uuid,
			BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: net.UUID}}}))
	}
	// nat is a server's own NAT, and by which address of the transit VNI others reach
	// it when it has one.
	nat := func(m *machine) (tag bool, via []string, own string) {
		t.Helper()
		m.seen = ""
		spec := m.network()
		if spec == nil || len(spec.Routers) == 0 || spec.Routers[0].NAT == nil {
			return false, nil, ""
		}
		n := spec.Routers[0].NAT
		own, _, _ = strings.Cut(n.Transit, "/")
		return n.Tag != "", n.Via, own
	}
	report := func(down []string, of ...*machine) {
		t.Helper()
		for _, m := range of {
			m.rep.NICTagsDown = down
			m.mustSync()
		}
	}

	// Each of the three loses its link in turn.
	for _, m := range ms[:3] {
		nat(m)
		report([]string{"external"}, m)
		tag, via, own := nat(m)
		if tag {
			t.Errorf("%s does NAT without a link", m.uuid)
		}
		_, far, _ := nat(ms[3])
		if len(far) != 2 || own != "" && slices.Contains(far, own) {
			t.Errorf("without the link of %s (%q) gateways are %v", m.uuid, own, far)
		}
		if m == ms[0] && !slices.Equal(via, far) { // it has an instance
			t.Errorf("its own instances leave by %v, others by %v", via, far)
		}
		if sv := must[api.Server](t)(h.client.Server(ctx, m.uuid)); !slices.ContainsFunc(sv.Alerts, func(a string) bool { return strings.HasPrefix(a, "NIC tag external has no link") }) {
			t.Errorf("alerts: %v", sv.Alerts)
		}
		report(nil, m)
	}
	if tag, _, _ := nat(ms[0]); !tag {
		t.Error("with its link again the server does no NAT")
	}

	// Another tag is no matter, and without any link left nothing changes.
	_, before, _ := nat(ms[3])
	report([]string{"admin"}, ms[0])
	report([]string{"external"}, ms[:3]...)
	if _, after, _ := nat(ms[3]); !slices.Equal(before, after) {
		t.Errorf("all links down: gateways %v, before they were %v", after, before)
	}

	// The first that has its link again is the way out for all, be they of an account
	// that needed no gateway before.
	report(nil, ms[:3]...)
	must[api.FabricVLAN](t)(h.client.FabricVLANs(bob).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	bobs := must[api.Network](t)(h.client.FabricNetworks(bob, 2).Create(ctx, api.Network{Name: "web", InternetNAT: true}))
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: bob, BelongsToType: api.BelongsToOther, Server: ms[0].uuid,
		BelongsTo: "00000000-0000-4000-9000-000000000002", Addresses: []api.NICAddress{{Network: bobs.UUID}}}))
	report([]string{"external"}, ms[:3]...)
	report(nil, ms[1])
	ms[0].seen = ""
	for _, r := range ms[0].network().Routers {
		if r.NAT == nil || r.NAT.Tag != "" || len(r.NAT.Via) != 1 {
			t.Errorf("the only link left is another server's: account %s has %+v", r.Owner, r.NAT)
		}
	}
}
