package headnode

import (
	"context"
	"strings"
	"testing"

	"nereid/api"
)

// TestMACRegistry: a MAC that a server, a machine that only booted, or a router has is
// nobody else's, in whatever an operator names it.
func TestMACRegistry(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	one, two := ms[0], ms[1]
	stranger := h.machine(77)
	stranger.dhcp("")
	nic := func(mac string) error {
		n := adminNIC("")
		n.MAC = mac
		_, err := h.client.NICs().Create(ctx, n)
		return err
	}
	for mac, words := range map[string]string{
		one.mac:             "is a NIC of server 52-54-00-00-00-01",
		one.nics[1]:         one.uuid,
		stranger.mac:        "machine that leases " + stranger.addr.String(),
		"06:6e:72:00:00:01": "gateway of a fabric VLAN",
		"02:00:64:40:00:01": "account's router",
	} {
		for _, form := range []string{mac, strings.ToUpper(mac), strings.ReplaceAll(mac, ":", "-")} {
			if err := nic(form); codeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), words) {
				t.Errorf("a NIC with MAC %s: %v, want %q in it", form, err, words)
			}
		}
	}
	if err := nic("02:00:64:3f:ff:ff"); err != nil { // below 100.64.0.0/10
		t.Errorf("a MAC of nobody: %v", err)
	}
	for mac, words := range map[string]string{one.nics[1]: "is a NIC of server 52-54-00-00-00-01", stranger.mac: "machine that leases"} {
		err := h.client.ProvideNICTags(ctx, two.uuid, api.NICTagUse{MAC: mac, NICTags: []string{"underlay"}})
		if codeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), words) {
			t.Errorf("server two provides a tag by %s: %v", mac, err)
		}
		_, err = h.client.Bonds(two.uuid).Create(ctx, api.Bond{Name: "bond0", MACs: []string{mac}, Mode: "active-backup"})
		if codeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), words) {
			t.Errorf("server two has a bond of %s: %v", mac, err)
		}
	}
	// A server's own NIC may have a MAC of the server.
	own := api.NetworkNIC{MAC: two.nics[1], Server: two.uuid, BelongsTo: two.uuid, BelongsToType: api.BelongsToServer, Addresses: []api.NICAddress{{Network: "underlay"}}}
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, own))
	if _, err := h.client.SetFabricSettings(ctx, api.FabricSettings{UnderlayTag: "underlay", MACPrefix: "06:6e:72"}); codeOf(err) != api.CodeInvalid {
		t.Errorf("the gateways' MAC prefix for NICs: %v", err)
	}
}

// TestMadeMACIsNoMachines: a MAC is made from a prefix that a machine's NICs have too,
// as those of a Nereid within another.
func TestMadeMACIsNoMachines(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	draws := []uint32{0x010203, 0x010203, 0x040506}
	h.drawMAC = func() uint32 { n := draws[0]; draws = draws[1:]; return n }
	first := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC("")))
	if err := h.client.NICs().Delete(ctx, first.MAC); err != nil {
		t.Fatal(err)
	}
	m := h.machine(1)
	m.mac = first.MAC
	m.dhcp("")
	second := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC("")))
	if !strings.HasSuffix(first.MAC, ":01:02:03") || !strings.HasSuffix(second.MAC, ":04:05:06") {
		t.Errorf("NICs have the MACs %s and %s; a machine has %s", first.MAC, second.MAC, m.mac)
	}
}
