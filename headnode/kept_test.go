package headnode

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"nereid/api"
)

// inMap are the addresses of a VNI's map, each with the underlay address behind it.
func (h *head) inMap(vni uint32) []string {
	h.t.Helper()
	var out []string
	for _, e := range must[api.FabricMap](h.t)(h.client.FabricMap(context.Background(), vni, "", 0)).Entries {
		out = append(out, e.IP+" "+e.Underlay)
	}
	slices.Sort(out)
	return out
}

func (h *head) wantMap(what string, vni uint32, want ...string) {
	h.t.Helper()
	if got := h.inMap(vni); !slices.Equal(got, want) {
		h.t.Errorf("%s: the map has %q, want %q", what, got, want)
	}
}

// After a restore of an older head node, an instance that it does not know is in its
// fabric's map again as soon as its server reports it, and others' servers hear of it.
func TestKeptAfterRestore(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	one, two := ms[0], ms[1]
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	net := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.0.0/24"}))
	nic := func(on *machine, instance, ip string) api.NetworkNIC {
		t.Helper()
		return must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: on.uuid, BelongsTo: instance,
			Addresses: []api.NICAddress{{Network: net.UUID, IP: ip}}}))
	}
	nic(two, "00000000-0000-4000-9000-000000000002", "10.0.0.2")
	backup := filepath.Join(t.TempDir(), "backup")
	h.stop()
	copyFile(t, filepath.Join(h.dir, storeFile), backup)
	h = startIn(t, h.dir)
	one.h, two.h = h, h
	lost := nic(one, "00000000-0000-4000-9000-000000000001", "10.0.0.1")
	one.mustDrain()
	two.mustDrain()
	_, maps, err := two.maps(mapFollow{VNI: net.VNI})
	if err != nil || len(maps) != 1 || len(maps[0].Entries) != 2 {
		t.Fatalf("before: %+v %v", maps, err)
	}
	seen := mapFollow{VNI: net.VNI, Epoch: maps[0].Epoch, Since: maps[0].Version}
	h.stop()
	copyFile(t, backup, filepath.Join(h.dir, storeFile))
	h = startIn(t, h.dir)
	one.h, two.h = h, h
	h.wantMap("restored", net.VNI, "10.0.0.2 10.77.0.12")
	if _, _, err := one.maps(mapFollow{VNI: net.VNI}); codeOf(err) != api.CodeForbidden {
		t.Errorf("a map of which a server has nothing: %v", err)
	}
	one.rep.UnexpectedNICs = []api.UnexpectedNIC{{MAC: lost.MAC, Instance: lost.BelongsTo, Owner: alice, VNI: net.VNI, Addresses: []string{"10.0.0.1/24"}}}
	one.mustDrain()
	h.wantMap("reported", net.VNI, "10.0.0.1 10.77.0.11", "10.0.0.2 10.77.0.12")
	_, maps, err = two.maps(seen)
	if err != nil || len(maps) != 1 || !maps[0].Full || len(maps[0].Entries) != 2 {
		t.Errorf("the other server hears %+v %v", maps, err)
	}
	// Its own server has the VNI and its map too, and hears where others are.
	one.seen = ""
	if n := one.network(); len(n.VNIs) != 1 || n.VNIs[0].VNI != net.VNI || len(n.Ports) != 0 {
		t.Errorf("spec of the NIC's server: %+v", n)
	}
	if _, maps, err := one.maps(mapFollow{VNI: net.VNI}); err != nil || len(maps) != 1 || len(maps[0].Entries) != 2 {
		t.Errorf("its map: %+v %v", maps, err)
	}
	// Once it is known, it is where the head node has it.
	h.wantMap("before adoption", net.VNI, "10.0.0.1 10.77.0.11", "10.0.0.2 10.77.0.12")
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{MAC: lost.MAC, Owner: alice, BelongsToType: api.BelongsToOther, Server: one.uuid, BelongsTo: lost.BelongsTo,
		Addresses: []api.NICAddress{{Network: net.UUID, IP: "10.0.0.1"}}}))
	one.rep.UnexpectedNICs = nil
	one.mustDrain()
	h.wantMap("adopted", net.VNI, "10.0.0.1 10.77.0.11", "10.0.0.2 10.77.0.12")
}

// What a server reports takes nothing from anybody, and is gone from the map with it.
func TestKeptTakesNothing(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	one, two := ms[0], ms[1]
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	must[api.FabricVLAN](t)(h.client.FabricVLANs(bob).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	net := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.0.0/24", Gateway: "10.0.0.1"}))
	other := must[api.Network](t)(h.client.FabricNetworks(bob, 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.0.0/24"}))
	const instance = "00000000-0000-4000-9000-000000000001"
	known := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: two.uuid, BelongsTo: instance,
		Addresses: []api.NICAddress{{Network: net.UUID, IP: "10.0.0.2"}}}))
	gone := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: one.uuid, BelongsTo: instance,
		Addresses: []api.NICAddress{{Network: net.UUID, IP: "10.0.0.3"}}}))
	one.mustDrain()
	if err := h.client.NICs().Delete(ctx, gone.MAC); err != nil {
		t.Fatal(err)
	}
	nic := func(mac string, owner string, vni uint32, addresses ...string) api.UnexpectedNIC {
		return api.UnexpectedNIC{MAC: mac, Instance: instance, Owner: owner, VNI: vni, Addresses: addresses}
	}
	one.rep.UnexpectedNICs = []api.UnexpectedNIC{
		nic("02:4e:52:00:00:71", alice, net.VNI, "10.0.0.1/24"),      // the gateway's
		nic("02:4e:52:00:00:72", alice, net.VNI, "10.0.0.2/24"),      // another NIC's
		nic(known.MAC, alice, net.VNI, "10.0.0.72/24"),               // known to be elsewhere
		nic(gone.MAC, alice, net.VNI, "10.0.0.3/24"),                 // it was told to remove it
		nic("02:4e:52:00:00:73", alice, other.VNI, "10.0.0.73/24"),   // another account's VNI
		nic("02:4e:52:00:00:74", alice, 77, "10.0.0.74/24"),          // no VNI
		nic("02:4e:52:00:00:75", alice, net.VNI, "10.0.0.255/24"),    // no host's
		nic("02:4e:52:00:00:76", "; reboot", net.VNI, "10.0.0.6/24"), // nonsense
		nic("nonsense", alice, net.VNI, "10.0.0.7/24", "nonsense"),
		nic("02:4e:52:00:00:78", alice, net.VNI, "10.0.0.78/24", "10.0.0.2/24", "nonsense"),
		nic("02:4e:52:00:00:79", alice, net.VNI, "10.0.0.79/24"),
	}
	one.mustDrain()
	h.wantMap("reported", net.VNI, "10.0.0.2 10.77.0.12", "10.0.0.78 10.77.0.11", "10.0.0.79 10.77.0.11")
	h.wantMap("another account's", other.VNI)

	// A NIC that is given the address has it, whatever the server goes on to report.
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: two.uuid, BelongsTo: instance,
		Addresses: []api.NICAddress{{Network: net.UUID, IP: "10.0.0.79"}}}))
	h.wantMap("given to another", net.VNI, "10.0.0.2 10.77.0.12", "10.0.0.78 10.77.0.11", "10.0.0.79 10.77.0.12")
	one.rep.UnexpectedNICs = one.rep.UnexpectedNICs[9:]
	one.mustDrain()
	h.wantMap("reported again", net.VNI, "10.0.0.2 10.77.0.12", "10.0.0.78 10.77.0.11", "10.0.0.79 10.77.0.12")
	one.rep.UnexpectedNICs = nil
	one.mustDrain()
	h.wantMap("not reported any more", net.VNI, "10.0.0.2 10.77.0.12", "10.0.0.79 10.77.0.12")
	one.seen = ""
	if n := one.network(); len(n.VNIs) != 0 {
		t.Errorf("spec afterwards: %+v", n)
	}
}

// After a restore of an older head node, an account of which it knows no NIC has its
// gateways again as soon as a server reports one of its NICs, and until none does.
func TestKeptNICHasItsWayOut(t *testing.T) {
	h, ms, net := natRack(t)
	ctx := context.Background()
	backup := filepath.Join(t.TempDir(), "backup")
	restart := func(restore bool) {
		h.stop()
		from, to := filepath.Join(h.dir, storeFile), backup
		if restore {
			from, to = to, from
		}
		copyFile(t, from, to)
		h = startIn(t, h.dir)
		for _, m := range ms {
			m.h = h
		}
	}
	// gateways are the servers with a router for others, and away the NAT of the last server.
	ways := func() (gateways int, away *api.NATSpec) {
		t.Helper()
		for i, m := range ms {
			m.seen = ""
			n := m.network()
			if len(n.Routers) == 0 || n.Routers[0].NAT == nil {
				continue
			}
			if i == len(ms)-1 {
				away = n.Routers[0].NAT
			} else if n.Routers[0].NAT.Transit != "" {
				gateways++
			}
		}
		return gateways, away
	}
	restart(false)
	on := ms[3]
	lost := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: on.uuid,
		BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: net.UUID}}}))
	if n, away := ways(); n != 2 || away == nil || len(away.Via) != 2 {
		t.Fatalf("before: %d gateways, %+v", n, away)
	}
	restart(true)
	if n, away := ways(); n != 0 || away != nil {
		t.Errorf("restored: %d gateways, %+v", n, away)
	}
	on.rep.UnexpectedNICs = []api.UnexpectedNIC{{MAC: lost.MAC, Instance: lost.BelongsTo, Owner: alice, VNI: net.VNI, Addresses: []string{lost.Addresses[0].IP + "/24"}}}
	on.mustDrain()
	if n, away := ways(); n != 2 || away == nil || len(away.Via) != 2 {
		t.Errorf("reported: %d gateways, %+v", n, away)
	}
	on.rep.UnexpectedNICs = nil
	on.mustDrain()
	if n, away := ways(); n != 0 || away != nil {
		t.Errorf("not reported any more: %d gateways, %+v", n, away)
	}
}
