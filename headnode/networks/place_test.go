package networks

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// TestOverlapping: what overlaps is found as by a look at all, also where subnets of a
// place overlap each other, which was possible once.
func TestOverlapping(t *testing.T) {
	w := newWorld(t)
	var r *rand.Rand
	subnet := func() netip.Prefix {
		if r.IntN(2) == 0 {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), byte(r.IntN(256))}), 20+r.IntN(13)).Masked()
		}
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x0a, 0, byte(r.IntN(2)), byte(r.IntN(256))}), 20+r.IntN(13)).Masked()
	}
	if err := w.s.Update(t.Context(), func(tx store.Tx) error {
		r = rand.New(rand.NewPCG(1, 2))
		var all []netip.Prefix
		for i := range 12 {
			p := subnet()
			all = append(all, p)
			if err := tx.Put(placeKey("here/", p)+fmt.Sprint(i), nil); err != nil {
				return err
			}
			if err := tx.Put(placeKey("heretoo/", subnet())+"elsewhere", nil); err != nil {
				return err
			}
		}
		hits := 0
		for range 2000 {
			p := subnet()
			uuid, err := overlapping(tx, "here/", p)
			if err != nil {
				return err
			}
			want := false
			for i, o := range all {
				want = want || o.Overlaps(p)
				if uuid == fmt.Sprint(i) && !o.Overlaps(p) {
					t.Fatalf("%s does not overlap %s", o, p)
				}
			}
			if (uuid != "") != want {
				t.Fatalf("%s overlaps %q of %v", p, uuid, all)
			}
			if want {
				hits++
			}
		}
		if hits < 100 || hits > 1900 {
			t.Errorf("%d of 2000 overlap: the test is one-sided", hits)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestCreateNetworkReadsLittle: to make a network costs the same whatever the account
// and the segment have.
func TestCreateNetworkReadsLittle(t *testing.T) {
	w := rack(t)
	reads := func(n api.Network) (count int) {
		w.must(func(tx store.Tx) error {
			c := &countingTx{Tx: tx}
			_, err := CreateNetwork(c, n)
			count = c.reads
			return err
		})
		return count
	}
	for _, kind := range []struct {
		name string
		nth  func(i int) api.Network
	}{
		{"one VNI of an account", func(i int) api.Network {
			return fabricNet(fmt.Sprintf("v%d", i), alice, fmt.Sprintf("10.1.%d.0/24", i), 5)
		}},
		{"VNIs of an account", func(i int) api.Network {
			n := fabricNet(fmt.Sprintf("f%d", i), bob, fmt.Sprintf("10.2.%d.0/24", i), uint32(100+i))
			n.VLAN = 2 + i
			return n
		}},
		{"a NIC tag", func(i int) api.Network {
			return api.Network{Name: fmt.Sprintf("t%d", i), NICTag: external, VLAN: 8, Subnet: fmt.Sprintf("10.3.%d.0/24", i)}
		}},
	} {
		few, many := 0, 0
		for i := range 60 {
			if many = reads(kind.nth(i)); i == 2 {
				few = many
			}
		}
		if many > few {
			t.Errorf("%s: the 3rd network reads %d keys, the 60th %d", kind.name, few, many)
		}
	}
}
