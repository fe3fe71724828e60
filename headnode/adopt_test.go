package headnode

import (
	"context"
	"strings"
	"testing"

	"nereid/api"
)

// TestAdopt: what an instance has that a server was not told of is given to nobody else;
// what a server says takes nothing from others; the instance is taken back as it is, under
// its name or another one; of one that is gone all is free.
func TestAdopt(t *testing.T) {
	h, zs := zoneRack(t, 2)
	ctx := context.Background()
	in := web("web0")
	in.Server = zs[0].uuid
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	const other, mac = "0000abcd-0000-4000-8000-000000000001", "02:4e:52:aa:bb:cc"
	zs[0].report(nil)
	spec := zs[0].specs[made.UUID]
	spec.UUID, spec.Made = other, true
	theirs := spec.NICs[0].Addresses[0].Address
	nic := spec.NICs[0]
	nic.MAC, nic.Interface = mac, "net3"
	nic.Addresses = []api.PortAddress{{Address: "10.9.0.77/24", Gateway: "10.9.0.1"}}
	spec.NICs = []api.InstanceNIC{nic}
	twice := spec
	twice.UUID = "0000abcd-0000-4000-8000-000000000002"
	nic.MAC, nic.Addresses = "02:4e:52:aa:bb:cd", []api.PortAddress{{Address: theirs}}
	twice.NICs = []api.InstanceNIC{nic}
	say := func(now string) {
		zs[0].says(now, []api.InstanceStatus{{UUID: other, State: "running", Made: true, Spec: &spec}, {UUID: twice.UUID, State: "running", Made: true, Spec: &twice}})
	}
	say("r1")
	say("r2")

	named := func(mac, ip string) error {
		_, err := h.client.NICs().Create(ctx, api.NetworkNIC{MAC: mac, Owner: alice, BelongsToType: api.BelongsToOther, Server: zs[1].uuid,
			BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: "ext", IP: ip}}})
		return err
	}
	err := named("", "10.9.0.77")
	wantCode(t, "an address that is held", err, api.CodeInUse)
	if !strings.Contains(err.Error(), mac) {
		t.Errorf("it does not say whose it is: %v", err)
	}
	wantCode(t, "a MAC that is held", named(mac, ""), api.CodeConflict)
	if a := must[api.IPAddress](t)(h.client.IPs("ext").Get(ctx, strings.TrimSuffix(theirs, "/24"))); a.MAC != made.NICs[0].MAC {
		t.Errorf("a server's word took %s from its NIC: %+v", theirs, a)
	}
	if text := strings.Join(h.server(zs[0].uuid).Alerts, "\n"); !strings.Contains(text, "nereid instance adopt "+other) {
		t.Errorf("alerts: %s", text)
	}

	_, err = h.client.AdoptInstance(ctx, other, api.InstanceAdopt{})
	wantCode(t, "a name that another one has", err, api.CodeConflict)
	wantCode(t, "the address after a refusal", named("", "10.9.0.77"), api.CodeInUse)
	_, err = h.client.AdoptInstance(ctx, twice.UUID, api.InstanceAdopt{Name: "web2"})
	wantCode(t, "an address that another one has", err, api.CodeInUse)
	_, err = h.client.AdoptInstance(ctx, "nobody", api.InstanceAdopt{})
	wantCode(t, "one that there is not", err, api.CodeNotFound)
	back := must[api.Instance](t)(h.client.AdoptInstance(ctx, other, api.InstanceAdopt{Name: "web1"}))
	if back.Name != "web1" || back.UUID != other || back.Owner != alice || back.State != "running" || back.Server != zs[0].uuid ||
		len(back.NICs) != 1 || back.NICs[0].MAC != mac || back.NICs[0].Interface != "net3" || back.NICs[0].Addresses[0].Address != "10.9.0.77/24" {
		t.Errorf("adopted: %+v", back)
	}
	zs[0].report(nil)
	if s := zs[0].specs[other]; !s.Made || s.Wanted != spec.Wanted || s.Image != spec.Image || s.MemoryMiB != spec.MemoryMiB || s.NICs[0].MAC != mac {
		t.Errorf("its server is told %+v", s)
	}
	if all := must[[]api.UnexpectedInstance](t)(h.client.UnexpectedInstances(ctx, "")); len(all) != 1 || all[0].Instance.UUID != twice.UUID {
		t.Errorf("unexpected: %+v", all)
	}
	_, err = h.client.AdoptInstance(ctx, other, api.InstanceAdopt{})
	wantCode(t, "one that is known", err, api.CodeNotFound)
	zs[0].says("r3", []api.InstanceStatus{{UUID: other, State: "stopped", Made: true}}, twice.UUID)
	if i := h.instance("web1"); i.State != "stopped" {
		t.Errorf("%+v", i)
	}
	if err := named("02:4e:52:aa:bb:cd", ""); err != nil {
		t.Errorf("a MAC of one that is gone: %v", err)
	}
}
