package headnode

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/store"
)

// TestSVPOff: a head node that does not answer SmartOS nodes forgets those it knew, and
// a change of a map keeps nothing for them.
func TestSVPOff(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	net := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web"}))
	nic := func(m *machine) {
		t.Helper()
		must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: m.uuid,
			BelongsTo: "00000000-0000-4000-9000-000000000001", Addresses: []api.NICAddress{{Network: net.UUID}}}))
	}
	nic(ms[0])
	err := h.Server.store.Update(ctx, func(tx store.Tx) error {
		under, err := underlay(tx, ms[0].uuid)
		if err != nil {
			return err
		}
		return fabric.SVPSeen(tx, under, h.now())
	})
	if err != nil {
		t.Fatal(err)
	}
	kept := func() (n int) {
		for k := range keysOf(t, h.Server.store) {
			if strings.Contains(k, "svp") {
				n++
			}
		}
		return n
	}
	if kept() == 0 {
		t.Fatal("nothing is kept for a SmartOS node that was heard")
	}
	for range 2 {
		if err := h.ForgetSVP(ctx); err != nil {
			t.Fatal(err)
		}
	}
	nic(ms[1])
	if n := kept(); n != 0 {
		t.Errorf("%d keys are kept for SmartOS nodes that nobody answers", n)
	}
}

// TestSVPTurnedAway: an operator hears at info whom SVP turned away, once a minute, and
// how many they were.
func TestSVPTurnedAway(t *testing.T) {
	var log bytes.Buffer
	s, err := Open(t.Context(), Config{Dir: initDir(t, 250), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.heardBySVP(t.Context(), netip.MustParseAddr("127.77.0.200")) {
		t.Error("an address of the admin network is turned away")
	}
	log.Reset()
	for range 3 {
		if s.heardBySVP(t.Context(), netip.MustParseAddr("192.0.2.9")) {
			t.Error("a stranger is heard")
		}
	}
	if text := log.String(); strings.Count(text, "turned away") != 1 || !strings.Contains(text, "level=INFO") || !strings.Contains(text, "192.0.2.9") {
		t.Errorf("the log says %q", text)
	}
	if a := s.shed.alerts(s.now()); len(a) != 1 || !strings.HasPrefix(a[0], "3 SVP connections") {
		t.Errorf("alerts %q", a)
	}
}

// TestSVPGateways: a SmartOS node finds the gateway of a fabric's network behind the
// account's first gateway server, by address and by MAC, and is told when that is another
// one. An account without gateway servers has none for it.
func TestSVPGateways(t *testing.T) {
	h, ms, net := natRack(t)
	ctx := t.Context()
	gateway := netip.MustParseAddr(net.Gateway)
	ask := func() (found bool, under string) {
		t.Helper()
		l := svpLookup{h.Server}
		mac, at, found, err := l.VL3(ctx, net.VNI, gateway)
		if err != nil || !found {
			if err != nil {
				t.Fatal(err)
			}
			return false, ""
		}
		again, there, err := l.VL2(ctx, net.VNI, mac)
		if err != nil || !there || again != at {
			t.Errorf("by MAC %x it is at %v (%v, %v), by address at %v", mac, again, there, err, at)
		}
		return true, at.Addr().String()
	}
	if found, under := ask(); found {
		t.Errorf("without gateway servers: %s", under)
	}
	o := &natOps{t, h.Server, ms, net}
	if err := o.nic(ms[3], 1); err != nil { // as on a SmartOS node
		t.Fatal(err)
	}
	first := func() (server *machine, under netip.Addr) {
		t.Helper()
		err := h.store.View(ctx, func(tx store.Tx) error {
			g, err := gatewaysOf(tx, alice)
			if err != nil {
				return err
			}
			for _, m := range ms {
				if m.uuid == g.Gateways[0].Server {
					server = m
				}
			}
			under, err = underlay(tx, server.uuid)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return server, under
	}
	server, want := first()
	if found, under := ask(); !found || under != want.String() {
		t.Errorf("found %v at %s, want %s", found, under, want)
	}
	if _, _, found, err := (svpLookup{h.Server}).VL3(ctx, net.VNI, gateway.Next().Next().Next()); found || err != nil {
		t.Errorf("an address that nobody has is found: %v", err)
	}
	hints := func() (n int) {
		t.Helper()
		node := netip.MustParseAddr("10.77.0.14")
		recs, err := (svpLookup{h.Server}).Log(ctx, node, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if r.VNI == net.VNI && r.MAC[0] == 0x06 {
				n++
			}
		}
		return n
	}
	if n := hints(); n != 0 {
		t.Errorf("%d hints about the gateway before anything changed", n)
	}
	if err := o.link(server, "external"); err != nil {
		t.Fatal(err)
	}
	if other, moved := first(); other == server {
		t.Errorf("the gateway server without a link is still the first")
	} else if _, under := ask(); under != moved.String() {
		t.Errorf("then at %s, want %s", under, moved)
	}
	if n := hints(); n != 1 {
		t.Errorf("%d hints about the gateway, want 1", n)
	}
}
