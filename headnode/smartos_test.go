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
