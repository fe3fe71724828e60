package networks

import (
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// TestFabricApartFromNAT: no fabric subnet lies over the network from which the
// fabrics' NAT takes its addresses, whichever of the two comes first.
func TestFabricApartFromNAT(t *testing.T) {
	w := rack(t)
	w.network(api.Network{Name: "far", NICTag: external, VLAN: 9, Subnet: "198.51.100.0/24"})
	nat := func(id string) func(store.Tx) error {
		return func(tx store.Tx) error {
			_, err := UpdateSettings(tx, api.FabricSettings{UnderlayTag: underlay, NATNetwork: id})
			return err
		}
	}
	create := func(n api.Network) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := CreateNetwork(tx, n); return err }
	}
	w.must(nat(external))
	for _, subnet := range []string{"10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/16"} {
		w.refused(api.CodeConflict, "overlaps 10.0.0.0/24 of network external, from which internet_nat", create(fabricNet("f", alice, subnet, 9)))
	}
	w.must(create(fabricNet("beside", alice, "10.0.1.0/24", 9)))

	// The other way round: the NAT network comes last, alone or with a pool.
	w.must(nat("far"))
	w.must(create(fabricNet("over", bob, "10.0.0.0/24", 10)))
	w.refused(api.CodeConflict, "10.0.0.0/24 of network external overlaps 10.0.0.0/24 of fabric network over of account "+bob, nat(external))
	var pool api.NetworkPool
	w.must(func(tx store.Tx) (err error) {
		far, err := FindNetwork(tx, "", "far")
		if err == nil {
			pool, err = CreatePool(tx, api.NetworkPool{Name: "both", Networks: []string{far.UUID}})
		}
		return err
	})
	w.must(nat("both"))
	w.refused(api.CodeConflict, "of fabric network over of account", func(tx store.Tx) error {
		ext, err := FindNetwork(tx, "", external)
		if err != nil {
			return err
		}
		nets := append(pool.Networks, ext.UUID)
		_, err = UpdatePool(tx, pool.UUID, api.NetworkPoolUpdate{Networks: &nets})
		return err
	})
}

// TestAllowedIPsAreNotAnothers: what a NIC may send from beside its own addresses is
// compared with the registry of addresses, when it is made and when it changes.
func TestAllowedIPsAreNotAnothers(t *testing.T) {
	w := rack(t)
	bobs := on("external=10.0.0.9")
	bobs.Owner = bob
	bobs = w.nic(bobs)
	own := w.nic(on("external=10.0.0.20"))
	allow := func(ips ...string) api.SpoofFlags { return api.SpoofFlags{AllowedIPs: ips} }
	update := func(mac string, f api.SpoofFlags) func(store.Tx) error {
		return func(tx store.Tx) error {
			_, err := UpdateNIC(tx, mac, api.NICUpdate{Flags: &f}, nil)
			return err
		}
	}
	mine := w.nic(with(on("external=10.0.0.30"), func(n *api.NetworkNIC) { n.SpoofFlags = allow("10.0.0.20", "10.0.0.40", "10.0.0.30", "192.0.2.0/24") }))
	for words, ips := range map[string][]string{
		"10.0.0.9 of network external is the address of NIC " + bobs.MAC: {"10.0.0.40", "10.0.0.9"},
		"10.0.0.1 is the gateway of network external":                    {"10.0.0.1"},
	} {
		w.refused(api.CodeInUse, words, update(mine.MAC, allow(ips...)))
		w.refused(api.CodeInUse, words, w.create(with(on(external), func(n *api.NetworkNIC) { n.SpoofFlags = allow(ips...) })))
	}
	w.refused(api.CodeInUse, "10.0.0.9 of network external is the address of NIC "+bobs.MAC, update(mine.MAC, allow("10.0.0.8/29")))
	w.must(update(mine.MAC, allow("10.0.0.16/28"))) // the account's own
	w.must(func(tx store.Tx) error {
		yes, owner := true, bob
		_, err := UpdateIP(tx, t0, external, "10.0.0.50", api.IPUpdate{Reserved: &yes, Owner: &owner})
		return err
	})
	w.refused(api.CodeForbidden, "10.0.0.50 of network external is reserved for another account", update(mine.MAC, allow("10.0.0.50")))
	// The other's NIC is given to the account, and to nobody.
	w.must(func(tx store.Tx) error {
		owner := bob
		_, err := UpdateNIC(tx, own.MAC, api.NICUpdate{Owner: &owner}, nil)
		return err
	})
	w.refused(api.CodeInUse, "10.0.0.20 of network external is the address of NIC "+own.MAC, update(mine.MAC, allow("10.0.0.20")))
}
