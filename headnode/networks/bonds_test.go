package networks

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/store"

	"github.com/google/go-cmp/cmp"
)

func hw(n int) string { return fmt.Sprintf("52:54:00:00:00:%02x", n) }

func TestTags(t *testing.T) {
	w := newWorld(t)
	list := func(limit int) string {
		var out []string
		w.must(func(tx store.Tx) error {
			out = nil
			for after := ""; ; {
				ts, next, err := ListNICTags(tx, after, limit)
				if err != nil {
					return err
				}
				for _, x := range ts {
					out = append(out, fmt.Sprint(x.Name, x.MTU))
				}
				if after = next; next == "" {
					return nil
				}
			}
		})
		return strings.Join(out, " ")
	}
	if got := list(0); got != "admin1500" {
		t.Errorf("tags at first: %s", got)
	}
	w.tag("Zone", 0)
	w.tag("z_9", 9000)
	w.tag("aa", 0)
	for _, limit := range []int{0, 1, 2, 3, 4, 5} {
		if got := list(limit); got != "Zone1500 aa1500 admin1500 z_99000" {
			t.Errorf("tags, %d at a time: %s", limit, got)
		}
	}
	create := func(name string, mtu int) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := CreateNICTag(tx, api.NICTag{Name: name, MTU: mtu}); return err }
	}
	for _, name := range []string{"", "a-b", "a b", strings.Repeat("a", 32), "a/b"} {
		w.refused(api.CodeInvalid, "NIC tag name", create(name, 0))
	}
	w.refused(api.CodeInvalid, "MTU 1499", create("t", 1499))
	w.refused(api.CodeInvalid, "MTU 9001", create("t", 9001))
	w.refused(api.CodeConflict, "exists", create("aa", 0))
	w.refused(api.CodeConflict, "exists", create(AdminTag, 0))
	update := func(name string, u api.NICTagUpdate) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := UpdateNICTag(tx, name, u); return err }
	}
	w.refused(api.CodeInvalid, "always 1500", update(AdminTag, api.NICTagUpdate{MTU: ptr(9000)}))
	w.must(update(AdminTag, api.NICTagUpdate{Description: ptr("boot")}))
	for _, limit := range []int{0, 1, 2} {
		if got := list(limit); got != "Zone1500 aa1500 admin1500 z_99000" {
			t.Errorf("tags with admin stored, %d at a time: %s", limit, got)
		}
	}
	w.network(api.Network{Name: "n", NICTag: "z_9", Subnet: "10.0.0.0/24", MTU: 8000})
	w.refused(api.CodeInUse, "cannot have MTU 7999|network n", update("z_9", api.NICTagUpdate{MTU: ptr(7999)}))
	w.must(update("z_9", api.NICTagUpdate{MTU: ptr(8000)}))
	del := func(name string) func(store.Tx) error {
		return func(tx store.Tx) error { return DeleteNICTag(tx, name) }
	}
	w.refused(api.CodeConflict, "admin stays", del(AdminTag))
	w.refused(api.CodeInUse, "network n", del("z_9"))
	w.refused(api.CodeNotFound, "no NIC tag", del("none"))
	w.must(func(tx store.Tx) error {
		_, err := SetNICTagUse(tx, server1, api.NICTagUse{MAC: hw(1), NICTags: []string{"aa"}}, nil, false)
		return err
	})
	w.refused(api.CodeInUse, "server "+server1+" provides it by NIC "+hw(1), del("aa"))
	w.must(del("Zone"))
}

// TestOverlay: what VXLAN leaves is checked from the tag to the fabric network.
func TestOverlay(t *testing.T) {
	if OverlayMTU(1500, "ipv4") != 1450 || OverlayMTU(9000, "ipv6") != 8930 {
		t.Error("overlay MTU is wrong")
	}
	w := newWorld(t)
	settings := func(s api.FabricSettings) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := UpdateSettings(tx, s); return err }
	}
	w.refused(api.CodeConflict, "no underlay yet", func(tx store.Tx) error {
		_, err := CreateNetwork(tx, fabricNet("f", alice, "10.0.0.0/24", 5))
		return err
	})
	w.refused(api.CodeNotFound, "no NIC tag", settings(api.FabricSettings{UnderlayTag: underlay}))
	w.tag(underlay, 1600)
	w.tag("second", 9000)
	w.refused(api.CodeConflict, "the overlay's MTU is 1551, and the underlay would carry 1550", settings(api.FabricSettings{UnderlayTag: underlay, OverlayMTU: 1551}))
	w.refused(api.CodeInvalid, "overlay MTU 500", settings(api.FabricSettings{UnderlayTag: underlay, OverlayMTU: 500}))
	w.refused(api.CodeStale, "changed", func(tx store.Tx) error { _, err := UpdateSettings(tx, api.FabricSettings{Revision: "7"}); return err })
	w.must(settings(api.FabricSettings{UnderlayTag: underlay, OverlayMTU: 1500}))
	f := w.network(fabricNet("f", alice, "10.0.0.0/24", 5))
	if f.MTU != 1500 || f.VNI != 5 {
		t.Errorf("fabric network is %+v", f)
	}
	w.refused(api.CodeInvalid, "the overlay has 1500", w.update(f.UUID, api.NetworkUpdate{MTU: ptr(1501)}))
	w.refused(api.CodeInUse, "fabric network f", settings(api.FabricSettings{UnderlayTag: underlay, OverlayMTU: 1499}))
	w.refused(api.CodeInUse, "NIC tag underlay is in use|fabric network f", settings(api.FabricSettings{UnderlayTag: "second"}))
	w.refused(api.CodeInUse, "underlay of the fabrics", func(tx store.Tx) error { return DeleteNICTag(tx, underlay) })
	mtu := func(mtu int) func(store.Tx) error {
		return func(tx store.Tx) error {
			_, err := UpdateNICTag(tx, underlay, api.NICTagUpdate{MTU: &mtu})
			return err
		}
	}
	w.refused(api.CodeConflict, "underlay would carry 1490", mtu(1540))
	w.must(mtu(1550))
	w.must(settings(api.FabricSettings{UnderlayTag: underlay}))
	w.refused(api.CodeInUse, "fabric network f", mtu(1549))
	// An underlay network with less than its tag counts, once it has an address.
	w.must(mtu(1600))
	w.network(api.Network{Name: "under", NICTag: underlay, Subnet: "172.30.0.0/24", MTU: 1540})
	nic := api.NetworkNIC{BelongsTo: server1, Server: server1, BelongsToType: api.BelongsToServer, Underlay: true, Addresses: []api.NICAddress{{Network: "under"}}}
	w.refused(api.CodeInUse, "cannot go over under|fabric network f", w.create(nic))
	w.must(w.update("under", api.NetworkUpdate{MTU: ptr(1550)}))
	w.nic(nic)
	w.refused(api.CodeInUse, "network under cannot have MTU 1549|fabric network f", w.update("under", api.NetworkUpdate{MTU: ptr(1549)}))
	w.refused(api.CodeInUse, "underlay NIC", settings(api.FabricSettings{}))
}

func TestBonds(t *testing.T) {
	w := newWorld(t)
	w.tag(external, 0)
	w.tag("storage", 9000)
	w.network(api.Network{Name: "n", NICTag: external, Subnet: "10.0.0.0/24"})
	bond := func(name string, macs ...int) api.Bond {
		b := api.Bond{Server: server1, Name: name, Mode: "active-backup"}
		for _, m := range macs {
			b.MACs = append(b.MACs, hw(m))
		}
		return b
	}
	change := func(b api.Bond, fn func(*api.Bond)) api.Bond { fn(&b); return b }
	create := func(b api.Bond) func(store.Tx) error {
		return func(tx store.Tx) error {
			_, err := CreateBond(tx, b, []string{hw(1), hw(2), hw(3), hw(4)}, false)
			return err
		}
	}
	use := func(mac int, move bool, tags ...string) func(store.Tx) error {
		return func(tx store.Tx) error {
			_, err := SetNICTagUse(tx, server1, api.NICTagUse{MAC: hw(mac), NICTags: tags}, nil, move)
			return err
		}
	}
	provided := func() string {
		return strings.Join(do(w, func(tx store.Tx) ([]string, error) { return ProvidedTags(tx, server1) }), " ")
	}
	vm := w.nic(on("n"))
	for _, c := range []struct {
		code  api.Code
		words string
		b     api.Bond
	}{
		{api.CodeInvalid, "not a UUID", change(bond("bond0", 1), func(b *api.Bond) { b.Server = "s1" })},
		{api.CodeInvalid, "bond name", bond("", 1)},
		{api.CodeInvalid, "bond name", bond("bond-0", 1)},
		{api.CodeInvalid, "bond name", bond("lo", 1)},
		{api.CodeInvalid, "bond name", bond(strings.Repeat("a", 16), 1)},
		{api.CodeInvalid, "0 NICs", bond("bond0")},
		{api.CodeInvalid, "17 NICs", bond("bond0", make([]int, 17)...)},
		{api.CodeInvalid, "in bond bond0 twice", bond("bond0", 1, 1)},
		{api.CodeInvalid, "want active-backup or 802.3ad", change(bond("bond0", 1), func(b *api.Bond) { b.Mode = "balance-rr" })},
		{api.CodeInvalid, "no LACP rate", change(bond("bond0", 1), func(b *api.Bond) { b.LACPRate = "fast" })},
		{api.CodeInvalid, "LACP rate", change(bond("bond0", 1), func(b *api.Bond) { b.Mode, b.LACPRate = "802.3ad", "1" })},
		{api.CodeConflict, "has no physical NIC " + hw(9), bond("bond0", 9)},
		{api.CodeInvalid, "multicast", change(bond("bond0"), func(b *api.Bond) { b.MACs = []string{"01:00:00:00:00:01"} })},
		{api.CodeNotFound, "no NIC tag", change(bond("bond0", 1), func(b *api.Bond) { b.NICTags = []string{"none"} })},
		{api.CodeInvalid, "twice", change(bond("bond0", 1), func(b *api.Bond) { b.NICTags = []string{external, external} })},
	} {
		w.refused(c.code, c.words, create(c.b))
	}
	w.refused(api.CodeConflict, "is no physical NIC: it belongs to zone "+instance1, func(tx store.Tx) error {
		_, err := CreateBond(tx, api.Bond{Server: server1, Name: "bond0", Mode: "802.3ad", MACs: []string{vm.MAC}}, nil, false)
		return err
	})
	w.must(use(1, false, AdminTag))
	w.must(use(2, false, external))
	w.refused(api.CodeConflict, "NIC tag external of server "+server1+" is provided by NIC "+hw(2), use(3, false, external))
	w.must(use(3, true, external))
	w.must(use(2, true, external))
	if got := do(w, func(tx store.Tx) ([]api.NICTagUse, error) { return NICTagUses(tx, server1) }); !cmp.Equal(got, []api.NICTagUse{{MAC: hw(1), NICTags: []string{AdminTag}}, {MAC: hw(2), NICTags: []string{external}}}) {
		t.Errorf("uses %+v", got)
	}
	w.refused(api.CodeConflict, "one of server "+server1, func(tx store.Tx) error {
		_, err := SetNICTagUse(tx, server2, api.NICTagUse{MAC: hw(1), NICTags: []string{external}}, nil, false)
		return err
	})
	w.refused(api.CodeInUse, "boots from it", use(1, false))
	// NICs with tags become members in one step, if the bond takes the tags.
	w.refused(api.CodeConflict, "NIC "+hw(1)+" provides NIC tag admin, which bond bond0 would not", create(bond("bond0", 1, 2)))
	b := do(w, func(tx store.Tx) (api.Bond, error) {
		return CreateBond(tx, change(bond("bond0", 1, 2), func(b *api.Bond) { b.Mode, b.NICTags = "802.3ad", []string{external, AdminTag} }), nil, false)
	})
	if b.LACPRate != "slow" || strings.Join(b.NICTags, " ") != "admin external" || provided() != "admin external" {
		t.Errorf("bond %+v, provided %s", b, provided())
	}
	w.refused(api.CodeConflict, "has a bond bond0", create(bond("bond0", 3)))
	w.refused(api.CodeConflict, hw(2)+" is a member of bond bond0 already", create(bond("bond1", 3, 2)))
	w.refused(api.CodeConflict, "is a member of bond bond0", use(2, true, "storage"))
	w.refused(api.CodeConflict, "one of server "+server1, func(tx store.Tx) error {
		_, err := CreateBond(tx, api.Bond{Server: server2, Name: "bond0", Mode: "802.3ad", MACs: []string{hw(2)}}, nil, false)
		return err
	})
	w.must(create(change(bond("bond1", 3), func(b *api.Bond) { b.NICTags = []string{"storage"} })))
	w.refused(api.CodeConflict, "is provided by bond bond0 already", use(4, false, external))
	// A tag comes from outside the bond only when it is to move.
	take := func(move bool, name string, nic int, tags ...string) func(store.Tx) error {
		return func(tx store.Tx) error {
			_, err := UpdateBond(tx, change(bond(name, nic), func(b *api.Bond) { b.NICTags = tags }), nil, move)
			return err
		}
	}
	w.refused(api.CodeConflict, "is provided by bond bond0 already", take(false, "bond1", 3, "storage", external))
	w.must(take(true, "bond1", 3, "storage", external))
	if b := do(w, func(tx store.Tx) (api.Bond, error) { return GetBond(tx, server1, "bond0") }); !slices.Equal(b.NICTags, []string{AdminTag}) || provided() != "admin external storage" {
		t.Errorf("bond %+v, provided %s", b, provided())
	}
	b.Revision = "" // whatever it is by now
	b = do(w, func(tx store.Tx) (api.Bond, error) { return UpdateBond(tx, b, nil, true) })
	if b1 := do(w, func(tx store.Tx) (api.Bond, error) { return GetBond(tx, server1, "bond1") }); !slices.Equal(b1.NICTags, []string{"storage"}) {
		t.Errorf("bond %+v", b1)
	}
	// What NICs use is not dropped.
	w.must(func(tx store.Tx) error {
		_, err := UpdateNIC(tx, vm.MAC, api.NICUpdate{Server: ptr(server1)}, []string{external})
		return err
	})
	update := func(b api.Bond) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := UpdateBond(tx, b, nil, false); return err }
	}
	w.refused(api.CodeStale, "changed", update(change(b, func(b *api.Bond) { b.Revision = "1" })))
	w.refused(api.CodeInUse, "needs NIC tag external|NIC "+vm.MAC, update(change(b, func(b *api.Bond) { b.NICTags = []string{AdminTag} })))
	del := func(name string) func(store.Tx) error {
		return func(tx store.Tx) error { return DeleteBond(tx, server1, name) }
	}
	w.refused(api.CodeInUse, "server "+server1+" needs NIC tag", del("bond0"))
	// Out of the bond again: one member leaves, takes the tags, the bond goes.
	w.must(update(change(b, func(b *api.Bond) { b.MACs = b.MACs[:1] })))
	w.must(use(2, true, AdminTag, external))
	w.must(del("bond0"))
	w.refused(api.CodeNotFound, "no bond", del("bond0"))
	if provided() != "admin external storage" {
		t.Errorf("provided %s", provided())
	}
	if u := do(w, func(tx store.Tx) (api.NICTagUse, error) { return GetNICTagUse(tx, server1, hw(2)) }); !slices.Equal(u.NICTags, []string{AdminTag, external}) {
		t.Errorf("NIC 2 provides %+v", u)
	}
	if s := do(w, func(tx store.Tx) ([]string, error) { return ServersProviding(tx, external) }); !slices.Equal(s, []string{server1}) {
		t.Errorf("servers with external: %q", s)
	}
	bs := do(w, func(tx store.Tx) ([]api.Bond, error) { bs, _, err := ListBonds(tx, "", "", 0); return bs, err })
	if len(bs) != 1 || bs[0].Name != "bond1" {
		t.Errorf("bonds %+v", bs)
	}
	w.must(func(tx store.Tx) error {
		_, err := UpdateNIC(tx, vm.MAC, api.NICUpdate{Server: ptr("")}, nil)
		return err
	})
	w.must(func(tx store.Tx) error { _, err := ForgetServer(tx, w.now, server1); return err })
	w.must(func(tx store.Tx) error {
		for _, p := range []string{bondPrefix, physPrefix, physMACPrefix, providerPrefix} {
			if has, err := store.HasBelow(tx, p); err != nil || has {
				return fmt.Errorf("left over below %s: %w", p, err)
			}
		}
		return nil
	})
}
