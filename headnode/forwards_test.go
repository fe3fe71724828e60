package headnode

import (
	"context"
	"strings"
	"testing"

	"nereid/api"
)

// A port forward gives an account gateway servers, which know it; a port belongs to
// one account; what a forward goes to stays.
func TestForwards(t *testing.T) {
	h, ms := fabricRack(t, 3)
	ctx := context.Background()
	fw := h.client.FabricForwards(alice)
	_, err := fw.Create(ctx, api.FabricForward{Protocol: "tcp", IP: "10.0.1.5"})
	wantCode(t, "without a NAT network", err, api.CodeConflict)

	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", Subnet: "203.0.113.0/24", Gateway: "203.0.113.1"}))
	settings := must[api.FabricSettings](t)(h.client.FabricSettings(ctx))
	settings.NATNetwork = "external"
	must[api.FabricSettings](t)(h.client.SetFabricSettings(ctx, settings))
	for _, m := range ms {
		if err := h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: m.nics[1], NICTags: []string{"external", "underlay"}}); err != nil {
			t.Fatal(err)
		}
	}
	var nics []api.NetworkNIC
	for i, owner := range []string{alice, alice, bob} {
		vlan := 2 + i
		must[api.FabricVLAN](t)(h.client.FabricVLANs(owner).Create(ctx, api.FabricVLAN{VLAN: vlan, Name: "web" + string(rune('0'+i))}))
		net := must[api.Network](t)(h.client.FabricNetworks(owner, vlan).Create(ctx, api.Network{Name: "net" + string(rune('0'+i)), InternetNAT: i != 1}))
		nics = append(nics, must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: owner, BelongsToType: api.BelongsToOther, Server: ms[i].uuid,
			BelongsTo: "00000000-0000-4000-9000-00000000000" + string(rune('1'+i)), Addresses: []api.NICAddress{{Network: net.UUID}}})))
	}
	ip := nics[0].Addresses[0].IP

	for what, f := range map[string]api.FabricForward{
		"protocol":       {Protocol: "icmp", IP: ip},
		"high port":      {Protocol: "tcp", IP: ip, Port: 40000},
		"no address":     {Protocol: "tcp", IP: "web"},
		"nobody":         {Protocol: "tcp", IP: "10.255.1.1"},
		"other family":   {Protocol: "tcp", IP: "fd00::5"},
		"no NAT":         {Protocol: "tcp", IP: nics[1].Addresses[0].IP},
		"of the account": {Protocol: "tcp", IP: strings.Repeat("x", 2000)},
	} {
		if got, err := fw.Create(ctx, f); err == nil {
			t.Errorf("%s: %+v was made", what, got)
		}
	}
	f := must[api.FabricForward](t)(fw.Create(ctx, api.FabricForward{Protocol: "tcp", IP: ip, ToPort: 443}))
	if f.Port != firstChosenPort || f.ToPort != 443 || f.MAC != nics[0].MAC || len(f.Addresses) != 2 {
		t.Errorf("made %+v", f)
	}
	_, err = h.client.FabricForwards(bob).Create(ctx, api.FabricForward{Protocol: "tcp", Port: f.Port, IP: nics[2].Addresses[0].IP})
	wantCode(t, "a port that is taken", err, api.CodeConflict)
	must[api.FabricForward](t)(h.client.FabricForwards(bob).Create(ctx, api.FabricForward{Protocol: "udp", Port: f.Port, IP: nics[2].Addresses[0].IP}))

	// The two gateways have it, each at its own address; every server of the account
	// can send answers back to them.
	specs := func() (at []string, transit int) {
		t.Helper()
		for _, m := range ms {
			for _, r := range m.network().Routers {
				if r.Owner != alice || r.NAT == nil {
					continue
				}
				if r.NAT.Transit != "" {
					transit++
				}
				for _, p := range r.NAT.Forwards {
					if p.Internal != ip+":443" && p.Internal != ip+":8443" {
						t.Errorf("forward %+v", p)
					}
					at = append(at, strings.TrimSuffix(p.External, ":10000"))
				}
			}
		}
		return at, transit
	}
	at, transit := specs()
	if len(at) != 2 || at[0] == at[1] || transit < 2 {
		t.Errorf("forwarded at %v, %d servers with a transit address", at, transit)
	}
	for _, a := range at {
		if a != f.Addresses[0] && a != f.Addresses[1] {
			t.Errorf("forwarded at %s, and shown are %v", a, f.Addresses)
		}
	}
	port := uint16(8443)
	if g := must[api.FabricForward](t)(fw.Update(ctx, f.UUID, api.FabricForwardUpdate{ToPort: &port}, f.Revision)); g.ToPort != 8443 || g.Port != f.Port {
		t.Errorf("changed to %+v", g)
	}
	_, err = fw.Update(ctx, f.UUID, api.FabricForwardUpdate{}, f.Revision)
	wantCode(t, "an old revision", err, api.CodeStale)
	err = h.client.NICs().Delete(ctx, nics[0].MAC)
	wantCode(t, "delete what it goes to", err, api.CodeInUse)
	if err == nil || !strings.Contains(err.Error(), f.UUID) {
		t.Errorf("deleting the NIC: %v", err)
	}
	_, err = h.client.FabricForwards(bob).Get(ctx, f.UUID)
	wantCode(t, "another account's", err, api.CodeNotFound)

	if err := fw.Delete(ctx, f.UUID); err != nil {
		t.Fatal(err)
	}
	if at, transit := specs(); len(at) > 0 || transit > 0 {
		t.Errorf("after its end: forwarded at %v, %d transit addresses", at, transit)
	}
	if err := h.client.NICs().Delete(ctx, nics[0].MAC); err != nil {
		t.Errorf("delete the NIC: %v", err)
	}
}
