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
	// The account's other NIC is given to bob.
	owner := bob
	give := func(tx store.Tx) error {
		_, err := UpdateNIC(tx, own.MAC, api.NICUpdate{Owner: &owner}, nil)
		return err
	}
	w.refused(api.CodeInUse, "10.0.0.20 of network external is in 10.0.0.16/28 of the allowed_ips of NIC "+mine.MAC, give)
	w.must(update(mine.MAC, allow("10.0.0.40")))
	w.must(give)
	w.refused(api.CodeInUse, "10.0.0.20 of network external is the address of NIC "+own.MAC, update(mine.MAC, allow("10.0.0.20")))
}

// TestAddressesAreNotAllowedToOthers: who is given an address later than another's NIC
// may send from it is refused, and who names none gets another one.
func TestAddressesAreNotAllowedToOthers(t *testing.T) {
	w := rack(t)
	as := func(owner string, n api.NetworkNIC) api.NetworkNIC { n.Owner = owner; return n }
	allow := func(n api.NetworkNIC, ips ...string) api.NetworkNIC { n.AllowedIPs = ips; return n }
	reserve := func(ip, owner string) func(store.Tx) error {
		return func(tx store.Tx) error {
			yes := true
			_, err := UpdateIP(tx, w.now, external, ip, api.IPUpdate{Reserved: &yes, Owner: &owner})
			return err
		}
	}
	// The range begins at 10.0.0.2.
	mine := w.nic(allow(on("external=10.0.0.100"), "10.0.0.2", "10.0.0.4/30", "10.0.0.50", "10.0.0.64/26"))
	also := w.nic(allow(on("external=10.0.0.101"), "10.0.0.64/26"))
	in := func(ip, prefix string) string {
		return ip + " of network external is in " + prefix + " of the allowed_ips of NIC "
	}
	w.refused(api.CodeInUse, in("10.0.0.50", "10.0.0.50/32")+mine.MAC, w.create(as(bob, on("external=10.0.0.50"))))
	w.refused(api.CodeInUse, in("10.0.0.99", "10.0.0.64/26"), w.create(as(bob, on("external=10.0.0.99"))))
	w.refused(api.CodeInUse, in("10.0.0.50", "10.0.0.50/32")+mine.MAC, reserve("10.0.0.50", bob))
	w.refused(api.CodeInUse, "10.0.0.50 cannot be the gateway of network external: it is in 10.0.0.50/32 of the allowed_ips of NIC "+mine.MAC,
		w.update(external, api.NetworkUpdate{Gateway: ptr("10.0.0.50")}))
	w.must(reserve("10.0.0.50", mine.Owner))
	for _, want := range []string{"10.0.0.3", "10.0.0.8"} {
		if got := ips(w.nic(as(bob, on(external)))); got != want {
			t.Errorf("bob is given %s, want %s", got, want)
		}
	}
	if got := ips(w.nic(on(external))); got != "10.0.0.2" {
		t.Errorf("the account itself is given %s", got)
	}
	// What was given back is passed over too.
	w.must(w.update(external, api.NetworkUpdate{ProvisionStart: ptr("10.0.0.4"), ProvisionEnd: ptr("10.0.0.8")}))
	for _, ip := range []string{"10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"} {
		w.drop(w.nic(on("external=" + ip)).MAC)
	}
	w.refused(api.CodeConflict, "no free address left between 10.0.0.4 and 10.0.0.8, but for 10.0.0.4/30 of the allowed_ips of NIC "+mine.MAC, w.create(as(bob, on(external))))
	if got := ips(w.nic(on(external))); got != "10.0.0.4" {
		t.Errorf("the account itself is given %s", got)
	}
	// Nobody may send from there any more.
	w.drop(mine.MAC)
	if got := ips(w.nic(as(bob, on(external)))); got != "10.0.0.5" {
		t.Errorf("bob is given %s", got)
	}
	w.refused(api.CodeInUse, in("10.0.0.99", "10.0.0.64/26")+also.MAC, w.create(as(bob, on("external=10.0.0.99"))))
	w.must(func(tx store.Tx) error {
		_, err := UpdateNIC(tx, also.MAC, api.NICUpdate{Flags: &api.SpoofFlags{}}, nil)
		return err
	})
	w.nic(as(bob, on("external=10.0.0.99")))
}
