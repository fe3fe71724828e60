package headnode

import (
	"context"
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
		return must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToZone, Server: on.uuid,
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
