package headnode

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"nereid/api"
)

// A trace says what is in the way, and when nothing is, which way it goes.
func TestTrace(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 3, Name: "db"}))
	web := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web"}))
	db := must[api.Network](t)(h.client.FabricNetworks(alice, 3).Create(ctx, api.Network{Name: "db"}))
	nic := func(network string, on *machine, instance string) api.NetworkNIC {
		t.Helper()
		return must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: on.uuid,
			BelongsTo: "00000000-0000-4000-9000-00000000000" + instance, Addresses: []api.NICAddress{{Network: network}}}))
	}
	a, b, c := nic(web.UUID, ms[0], "1"), nic(web.UUID, ms[1], "2"), nic(db.UUID, ms[1], "3")
	trace := func(src, dst string, port uint16) (api.Trace, string) {
		t.Helper()
		out := must[api.Trace](t)(h.client.TraceNetwork(ctx, api.TraceRequest{Src: src, Dst: dst, Protocol: "tcp", Port: port}))
		var what []string
		for _, hop := range out.Hops {
			what = append(what, hop.What)
		}
		return out, strings.Join(what, " ")
	}
	got, way := trace(a.Addresses[0].IP, b.Addresses[0].IP, 22)
	if got.Arrives || way != "nic firewall map underlay nic firewall" || !got.Hops[5].Blocked || !strings.Contains(got.Why, "the default") {
		t.Errorf("without rules: %s, %+v", way, got)
	}
	rule := must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Rule: "FROM any TO all vms ALLOW tcp PORT 22", Enabled: true, Owner: alice}))
	got, way = trace(a.MAC, b.MAC, 22)
	if !got.Arrives || got.MTU != 8950 || !strings.Contains(got.Hops[5].Detail, rule.UUID) {
		t.Errorf("with a rule: %s, %+v", way, got)
	}
	if got, _ = trace(a.MAC, b.MAC, 23); got.Arrives {
		t.Errorf("another port: %+v", got)
	}
	got, way = trace(a.MAC, c.Addresses[0].IP, 22)
	if !got.Arrives || way != "nic firewall router map underlay nic firewall" {
		t.Errorf("routed: %s, %+v", way, got)
	}
	if got, way = trace(a.MAC, "198.51.100.7", 443); got.Arrives || way != "nic firewall router" || !strings.Contains(got.Why, "internet_nat") {
		t.Errorf("outside: %s, %+v", way, got)
	}
	if got, way = trace(a.MAC, strings.TrimSuffix(web.Subnet, ".0/24")+".200", 22); got.Arrives || !strings.Contains(got.Why, "no NIC has") {
		t.Errorf("nobody: %s, %+v", way, got)
	}
	_, err := h.client.TraceNetwork(ctx, api.TraceRequest{Src: "10.1.1.1", Dst: a.MAC})
	wantCode(t, "unknown source", err, api.CodeNotFound)
}

// A trace that measures asks the source's server, and believes what it says.
func TestTraceMeasures(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	web := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web"}))
	must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Rule: "FROM any TO all vms ALLOW icmp TYPE ALL", Enabled: true, Owner: alice}))
	var macs []string
	for i, m := range ms {
		n := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: m.uuid,
			BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", i), Addresses: []api.NICAddress{{Network: web.UUID}}}))
		macs = append(macs, n.MAC)
	}
	ms[0].mustSync()
	sync := func(m *machine, results ...api.ProbeResult) api.SyncResponse {
		t.Helper()
		_, resp, err := m.syncWith(api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Report: m.rep, Probes: results})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, c := range []struct {
		say     api.ProbeResult
		arrives bool
		carried int
		why     string
	}{
		{api.ProbeResult{Bytes: 9000}, true, 8950, "nothing"},
		{api.ProbeResult{Bytes: 1500}, false, 1450, "MTU black hole"},
		{api.ProbeResult{}, false, 0, "do not reach each other"},
		{api.ProbeResult{Error: "no route"}, true, 0, "nothing"},
	} {
		done := make(chan api.Trace)
		go func() {
			defer close(done)
			out, err := h.client.TraceNetwork(ctx, api.TraceRequest{Src: macs[0], Dst: macs[1], Measure: true})
			if err != nil {
				t.Error(err)
			}
			done <- out
		}()
		var asked []api.Probe
		for len(asked) == 0 {
			asked = sync(ms[0]).Probes
		}
		if p := asked[0]; len(asked) != 1 || p.Bytes != 9000 || p.From == p.To || p.From == "" {
			t.Errorf("asked for %+v", asked)
		}
		// Another server's answer is not taken.
		forged := c.say
		forged.ID, forged.Bytes = asked[0].ID, 77
		sync(ms[1], forged)
		c.say.ID = asked[0].ID
		if again := sync(ms[0], api.ProbeResult{ID: "unknown"}, c.say).Probes; len(again) > 0 {
			t.Errorf("after the answer: asked for %+v", again)
		}
		got := <-done
		if got.Arrives != c.arrives || got.Carried != c.carried || !strings.Contains(got.Why, c.why) {
			t.Errorf("%+v: got %+v", c.say, got)
		}
	}
}
