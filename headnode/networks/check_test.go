package networks

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// TestCheckFinds: the check that the other tests rely on sees each kind of damage.
func TestCheckFinds(t *testing.T) {
	w := rack(t)
	n := w.nic(on(external))
	w.drop(w.nic(on(external)).MAC)
	ext := do(w, func(tx store.Tx) (api.Network, error) { return GetNetwork(tx, external) })
	at := netip.MustParseAddr
	undo := errors.New("undo")
	for _, c := range []struct {
		words  string
		damage func(store.Tx) error
	}{
		{"the NICs say", func(tx store.Tx) error { return store.Put(tx, ipKey(ext.UUID, at("10.0.0.50")), ipRecord{MAC: n.MAC}) }},
		{"free span 0 is 10.0.0.4-10.0.0.254; want 10.0.0.2-10.0.0.2", func(tx store.Tx) error { return tx.Delete(ipKey(ext.UUID, at("10.0.0.2"))) }},
		{"empty record", func(tx store.Tx) error { return store.Put(tx, ipKey(ext.UUID, at("10.0.0.50")), ipRecord{}) }},
		{"is the address of NIC", func(tx store.Tx) error {
			twin := n
			twin.MAC = "06:00:00:00:00:01"
			return putNIC(tx, nil, &twin)
		}},
		{"index", func(tx store.Tx) error { return tx.Put(nicByPrefix+"s/"+server1+"/"+n.MAC, nil) }},
		{"is not there", func(tx store.Tx) error { return tx.Delete(nicByPrefix + "o/" + alice + "/" + n.MAC) }},
		{"free span 0", func(tx store.Tx) error { return putSpan(tx, ext.UUID, span{at("10.0.0.2"), at("10.0.0.254")}) }},
		{"free span 1", func(tx store.Tx) error { return putSpan(tx, ext.UUID, span{at("10.1.0.2"), at("10.1.0.254")}) }},
		{"is not there", func(tx store.Tx) error { return tx.Delete(freeKey(ext.UUID, at("10.0.0.254"))) }},
		{"its record says nothing", func(tx store.Tx) error { return tx.Put(freedKey(ext.UUID, 5, at("10.0.0.9")), nil) }},
		{"is not in the queue", func(tx store.Tx) error { return tx.Delete(freedKey(ext.UUID, t0.UnixNano(), at("10.0.0.3"))) }},
	} {
		err := w.s.Update(t.Context(), func(tx store.Tx) error {
			if err := c.damage(tx); err != nil {
				return err
			}
			if err := Check(tx); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, want %q", err, c.words)
			}
			return undo
		})
		if !errors.Is(err, undo) {
			t.Error(err)
		}
	}
}

// TestNames: a name means one thing, or is refused.
func TestNames(t *testing.T) {
	w := rack(t)
	w.network(fabricNet(external, alice, "10.5.0.0/24", 9))
	w.network(fabricNet("mine", alice, "10.6.0.0/24", 9))
	w.refused(api.CodeConflict, "the name external is that of|fabric network", w.create(on(external)))
	if n := w.nic(with(on(external), func(n *api.NetworkNIC) { n.Owner = bob })); n.VNI != 0 {
		t.Errorf("bob got %+v", n)
	}
	if n := w.nic(on("mine")); n.VNI != 9 || n.NICTag != "" || n.VLAN != 2 || n.MTU != 8950 {
		t.Errorf("alice got %+v", n)
	}
	w.refused(api.CodeNotFound, "no network or pool \"mine\"", func(tx store.Tx) error { _, err := GetNetwork(tx, "mine"); return err })
	mine := do(w, func(tx store.Tx) (api.Network, error) { return FindNetwork(tx, alice, "mine") })
	w.must(w.update(mine.UUID, api.NetworkUpdate{Name: ptr("ours")}))
	w.network(fabricNet("mine", alice, "10.7.0.0/24", 9)) // the name is free again
}

// TestRejoinIsBounded: however many addresses have rested, a transaction moves few.
func TestRejoinIsBounded(t *testing.T) {
	w := rack(t)
	var macs []string
	for range 12 {
		macs = append(macs, w.nic(on(external)).MAC)
	}
	for _, m := range macs {
		w.drop(m)
	}
	w.now = w.now.Add(Rest)
	waiting := func() (n int) {
		ext := do(w, func(tx store.Tx) (api.Network, error) { return GetNetwork(tx, external) })
		w.must(func(tx store.Tx) error {
			n = 0
			return freed(tx, ext.UUID, func(freedAddr) (bool, error) { n++; return true, nil })
		})
		return n
	}
	for _, want := range []int{12, 8, 4, 0, 0} {
		if n := waiting(); n != want {
			t.Fatalf("%d wait, want %d", n, want)
		}
		w.nic(on(external))
	}
}
