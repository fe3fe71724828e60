package headnode

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// goneNICs are the tombstones in the set of a server's ports, as one hears them that
// knows nothing yet.
func (m *machine) goneNICs() []string {
	m.h.t.Helper()
	kept := m.follow.Kept
	m.follow, m.ports, m.gone = api.Follow{}, nil, nil
	m.mustSync()
	m.follow.Kept = kept
	return slices.Sorted(maps.Keys(m.gone))
}

// A server is told that a NIC is gone until it has said that a restart of it would know.
func TestGoneNICs(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	one, two := ms[0], ms[1]
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", Subnet: "203.0.113.0/24", ProvisionStart: "203.0.113.10"}))
	for _, m := range ms {
		if err := h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: m.nics[0], NICTags: []string{"admin", "external"}}); err != nil {
			t.Fatal(err)
		}
	}
	nic := func(on *machine) api.NetworkNIC {
		t.Helper()
		return must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: on.uuid,
			BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: "external"}}}))
	}
	a, b := nic(one), nic(one)
	if g := one.goneNICs(); len(g) > 0 {
		t.Errorf("before any is gone: %v", g)
	}
	if err := h.client.NICs().Delete(ctx, a.MAC); err != nil {
		t.Fatal(err)
	}
	if g := one.goneNICs(); !slices.Equal(g, []string{api.PortKey(a.MAC, a.BelongsTo)}) {
		t.Fatalf("deleted: %v", g)
	}
	one.follow.Kept = one.follow.Since - 1
	one.mustSync()
	if g := one.goneNICs(); len(g) != 1 {
		t.Errorf("it keeps what was before, and is told %v", g)
	}
	one.follow.Kept = one.follow.Since
	one.mustSync()
	if g := one.goneNICs(); len(g) > 0 {
		t.Errorf("it keeps that, and is still told %v", g)
	}

	// One that moves is gone where it was, and back again is gone where it went.
	move := func(to *machine) {
		t.Helper()
		must[api.NetworkNIC](t)(h.client.NICs().Update(ctx, b.MAC, api.NICUpdate{Server: &to.uuid}, ""))
	}
	key := api.PortKey(b.MAC, b.BelongsTo)
	move(two)
	if g, other := one.goneNICs(), two.goneNICs(); !slices.Equal(g, []string{key}) || len(other) > 0 || two.ports[key].MAC != b.MAC {
		t.Errorf("moved: %v and %v", g, other)
	}
	move(one)
	if g, other := one.goneNICs(), two.goneNICs(); len(g) > 0 || !slices.Equal(other, []string{key}) || one.ports[key].MAC != b.MAC {
		t.Errorf("moved back: %v and %v", g, other)
	}

	// One that is another instance's now is gone as the first's.
	other := "00000000-0000-4000-9000-000000000002"
	must[api.NetworkNIC](t)(h.client.NICs().Update(ctx, b.MAC, api.NICUpdate{BelongsTo: &other}, ""))
	if g := one.goneNICs(); !slices.Equal(g, []string{key}) || one.ports[api.PortKey(b.MAC, other)].Instance != other {
		t.Errorf("another instance's: %v, ports %v", g, one.ports)
	}
}

// What a server has and was not told of is an alert, with a command that makes it known.
func TestUnexpectedNICs(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	one, two := ms[0], ms[1]
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	net := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.0.0/24"}))
	const instance = "00000000-0000-4000-9000-000000000001"
	u := api.UnexpectedNIC{MAC: "02:4e:52:00:00:77", Instance: instance, Owner: alice, VNI: net.VNI, Addresses: []string{"10.0.0.77/24"}}
	elsewhere := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: two.uuid,
		BelongsTo: instance, Addresses: []api.NICAddress{{Network: net.UUID}}}))
	one.rep.UnexpectedNICs = []api.UnexpectedNIC{u, {MAC: elsewhere.MAC, Instance: instance}, {MAC: "02:4e:52:00:00:78", Instance: instance, Closed: true},
		{MAC: "nonsense"}, {MAC: "02:4e:52:00:00:79", Instance: "$(reboot)", Owner: "`reboot`", Addresses: []string{"; reboot"}}}
	one.mustSync()
	s := h.server(one.uuid)
	all := strings.Join(s.Alerts, "\n")
	command := "nereid nic create --mac " + u.MAC + " --on " + s.Hostname + " --belongs-to " + instance + " --belongs-to-type other --owner " + alice + " --network " + net.UUID + "=10.0.0.77"
	for _, want := range []string{command, "nereid nic move " + elsewhere.MAC + " " + s.Hostname, "02:4e:52:00:00:78 of instance " + instance + " is here", "lets nothing through"} {
		if !strings.Contains(all, want) {
			t.Errorf("the alerts lack %q:\n%s", want, all)
		}
	}
	if strings.Contains(all, "delete") || strings.Contains(all, "reboot") {
		t.Errorf("an alert names what destroys:\n%s", all)
	}

	// What the command does makes it known: the spec has it as it was.
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{MAC: u.MAC, Server: one.uuid, Owner: alice, BelongsTo: instance, BelongsToType: api.BelongsToOther,
		Addresses: []api.NICAddress{{Network: net.UUID, IP: "10.0.0.77"}}}))
	one.seen = ""
	spec := one.network()
	if len(spec.Ports) != 1 || spec.Ports[0].MAC != u.MAC || spec.Ports[0].Instance != instance || spec.Ports[0].Addresses[0].Address != "10.0.0.77/24" || len(spec.Gone) > 0 {
		t.Errorf("spec %+v", spec)
	}
	if all := strings.Join(h.server(one.uuid).Alerts, "\n"); strings.Contains(all, u.MAC) {
		t.Errorf("known, and still an alert:\n%s", all)
	}
}
