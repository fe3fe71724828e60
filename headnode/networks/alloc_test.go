package networks

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// TestAllocationOrder: gaps from below first; what was given back rests for an
// hour unless nothing else is left, and then the longest free goes first.
func TestAllocationOrder(t *testing.T) {
	w := rack(t)
	w.must(w.update(external, api.NetworkUpdate{ProvisionEnd: ptr("10.0.0.6")})) // .2 to .6
	macs := map[string]string{}
	get := func(want string) {
		t.Helper()
		n := w.nic(on(external))
		if ips(n) != "10.0.0."+want {
			t.Fatalf("got %s, want .%s", ips(n), want)
		}
		macs[want] = n.MAC
	}
	give := func(ip string) { t.Helper(); w.drop(macs[ip]); w.now = w.now.Add(time.Second) }
	get("2")
	get("3")
	get("4")
	give("3")
	give("2")
	if a := do(w, func(tx store.Tx) (api.IPAddress, error) { return GetIP(tx, external, "10.0.0.3") }); !a.Free || !a.FreedAt.Equal(t0) {
		t.Errorf("got %+v", a)
	}
	get("5") // .3 and .2 rest
	get("6")
	get("3") // nothing else is left: the one that was given back first
	give("3")
	get("2")
	get("3")
	w.refused(api.CodeConflict, "network external has no free address left", w.create(on(external)))
	give("5")
	give("2")
	w.now = w.now.Add(Rest)
	get("2") // both have rested, and the lower one is the first gap
	get("5")
	w.refused(api.CodeConflict, "no free address", w.create(on(external)))
}

// TestSmallAndLargeSubnets: the whole of small ones can be given out, and large ones
// count in 128 bits.
func TestSmallAndLargeSubnets(t *testing.T) {
	w := rack(t)
	for i, c := range []struct{ subnet, start, gateway, want string }{
		{"10.1.0.0/31", "", "10.1.0.0", "10.1.0.1"},
		{"10.1.0.0/31", "", "", "10.1.0.0 10.1.0.1"},
		{"10.1.0.7/32", "", "", "10.1.0.7"},
		{"10.1.0.8/30", "", "10.1.0.9", "10.1.0.10"},
		{"255.0.0.0/31", "", "", ""},
		{"fd01::/127", "", "fd01::", "fd01::1"},
		{"fd01::5/128", "", "", "fd01::5"},
		{"fd01::/126", "", "", "fd01::1 fd01::2 fd01::3"},
		{"fd01::/64", "fd01::ffff:ffff:ffff:fffe", "", "fd01::ffff:ffff:ffff:fffe fd01::ffff:ffff:ffff:ffff"},
		{"fd01::/48", "fd01:0:0:1:ffff:ffff:ffff:ffff", "fd01:0:0:2::", "fd01::1:ffff:ffff:ffff:ffff fd01:0:0:2::1"},
	} {
		n := api.Network{Name: fmt.Sprint("n", i), NICTag: external, VLAN: 100 + i, Subnet: c.subnet, ProvisionStart: c.start, Gateway: c.gateway}
		if c.want == "" {
			w.refused(api.CodeInvalid, "not for hosts", func(tx store.Tx) error { _, err := CreateNetwork(tx, n); return err })
			continue
		}
		w.network(n)
		var got []string
		for range strings.Fields(c.want) {
			got = append(got, ips(w.nic(on(n.Name))))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %s, want %s", c.subnet, got, c.want)
		}
		if c.subnet != "fd01::/48" {
			w.refused(api.CodeConflict, "no free address", w.create(on(n.Name)))
		}
	}
}

// TestReserved: a reserved address is for those who name it, and keeps its owner.
func TestReserved(t *testing.T) {
	w := rack(t)
	reserve := func(ip string, owner string) {
		t.Helper()
		w.must(func(tx store.Tx) error {
			_, err := UpdateIP(tx, w.now, external, ip, api.IPUpdate{Reserved: ptr(true), Owner: ptr(owner)})
			return err
		})
	}
	get := func(ip string) api.IPAddress {
		return do(w, func(tx store.Tx) (api.IPAddress, error) { return GetIP(tx, external, ip) })
	}
	reserve("10.0.0.2", "")
	reserve("10.0.0.3", bob)
	if n := w.nic(on(external)); ips(n) != "10.0.0.4" {
		t.Fatalf("got %s", ips(n))
	}
	w.refused(api.CodeForbidden, "10.0.0.3 of network external is reserved for another account", w.create(on("external=10.0.0.3")))
	n := w.nic(on("external=10.0.0.2"))
	if a := get("10.0.0.2"); !a.Reserved || a.Owner != alice || a.MAC != n.MAC || a.BelongsTo != instance1 || a.Free {
		t.Errorf("got %+v", a)
	}
	w.drop(n.MAC)
	if a := get("10.0.0.2"); !a.Reserved || a.Owner != alice || a.MAC != "" || a.Free {
		t.Errorf("after its NIC went: %+v", a)
	}
	n = w.nic(on("external=10.0.0.2"))
	w.must(func(tx store.Tx) error {
		_, err := UpdateNIC(tx, n.MAC, api.NICUpdate{Owner: ptr(bob)}, nil)
		return err
	})
	w.drop(n.MAC)
	w.refused(api.CodeForbidden, "reserved", w.create(on("external=10.0.0.2"))) // it went to bob with its NIC
	w.must(func(tx store.Tx) error {
		_, err := UpdateIP(tx, w.now, external, "10.0.0.2", api.IPUpdate{Reserved: ptr(false)})
		return err
	})
	if a := get("10.0.0.2"); a.Reserved || !a.Free || a.Owner != "" {
		t.Errorf("not reserved any more: %+v", a)
	}
	// In use: the reservation is its owner's, and ends without touching the NIC.
	n = w.nic(on("external=10.0.0.20"))
	w.refused(api.CodeInUse, "10.0.0.20 is the address of NIC "+n.MAC, func(tx store.Tx) error {
		_, err := UpdateIP(tx, w.now, external, "10.0.0.20", api.IPUpdate{Reserved: ptr(true), Owner: ptr(bob)})
		return err
	})
	reserve("10.0.0.20", "")
	if a := get("10.0.0.20"); !a.Reserved || a.Owner != alice {
		t.Errorf("got %+v", a)
	}
	w.must(func(tx store.Tx) error {
		_, err := UpdateIP(tx, w.now, external, "10.0.0.20", api.IPUpdate{Reserved: ptr(false)})
		return err
	})
	w.drop(n.MAC)
	if a := get("10.0.0.20"); !a.Free || a.FreedAt.IsZero() {
		t.Errorf("got %+v", a)
	}
	reserve("10.0.0.20", bob) // one that rests
	for ip, c := range map[string]struct {
		code  api.Code
		words string
		u     api.IPUpdate
	}{
		"10.0.0.255": {api.CodeConflict, "broadcast", api.IPUpdate{Reserved: ptr(true)}},
		"10.0.0.1":   {api.CodeConflict, "gateway", api.IPUpdate{Reserved: ptr(true)}},
		"10.0.1.1":   {api.CodeNotFound, "not in 10.0.0.0/24", api.IPUpdate{Reserved: ptr(true)}},
		"10.0.0.9":   {api.CodeInvalid, "nobody's", api.IPUpdate{Owner: ptr(bob)}},
		"10.0.0.8":   {api.CodeInvalid, "not a UUID", api.IPUpdate{Reserved: ptr(true), Owner: ptr("joe")}},
		"ten":        {api.CodeInvalid, "not an IP address", api.IPUpdate{}},
	} {
		w.refused(c.code, c.words, func(tx store.Tx) error { _, err := UpdateIP(tx, w.now, external, ip, c.u); return err })
	}
}

// TestListAndSearchIPs pages through a network, and finds an address in all.
func TestListAndSearchIPs(t *testing.T) {
	w := rack(t)
	for i, owner := range []string{alice, bob} {
		w.network(fabricNet("f", owner, "10.0.0.0/24", uint32(9+i)))
	}
	f := do(w, func(tx store.Tx) (api.Network, error) { return FindNetwork(tx, alice, "f") })
	w.nic(on(f.UUID + "=10.0.0.3"))
	for range 5 {
		w.nic(on(external))
	}
	w.must(func(tx store.Tx) error {
		var got []string
		for after := ""; ; {
			page, next, err := ListIPs(tx, external, after, 2)
			if err != nil {
				return err
			}
			for _, a := range page {
				got = append(got, a.IP)
			}
			if after = next; next == "" {
				break
			}
		}
		if s := strings.Join(got, " "); s != "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6" {
			t.Errorf("got %s", s)
		}
		found, err := SearchIPs(tx, "10.0.0.3")
		if err != nil || len(found) != 2 || found[0].Network == found[1].Network || found[0].MAC == "" || found[1].MAC == "" {
			t.Errorf("got %+v %v", found, err)
		}
		found, err = SearchIPs(tx, "10.0.0.200") // unused: in the datacenter's network only
		if err != nil || len(found) != 1 || !found[0].Free {
			t.Errorf("got %+v %v", found, err)
		}
		found, err = SearchIPs(tx, "fd00::1")
		if err != nil || len(found) != 0 {
			t.Errorf("got %+v %v", found, err)
		}
		return nil
	})
}

// TestRandom: any order of operations leaves the free spans, the queue and the
// indexes as the NICs and reservations say, and never gives an address to two.
func TestRandom(t *testing.T) {
	for _, c := range []struct{ name, subnet, base string }{
		{"IPv4", "10.9.0.0/27", "10.9.0.0"},
		{"IPv6", "fd09::/64", "fd09::ffff:ffff:ffff:ffe0"},
		{"IPv4Small", "10.9.0.0/29", "10.9.0.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(3) {
				randomOperations(t, c.subnet, c.base, seed)
			}
		})
	}
}

func randomOperations(t *testing.T, subnet, base string, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	w := &world{t, openBolt(t), t0} // one run of each is enough: this is about states
	w.must(func(tx store.Tx) error { _, err := CreateNICTag(tx, api.NICTag{Name: external}); return err })
	n := w.network(api.Network{Name: "n", NICTag: external, Subnet: subnet})
	prefix := netip.MustParsePrefix(subnet)
	addrs := []string{}
	for a := netip.MustParseAddr(base); prefix.Contains(a) && len(addrs) < 32; a = a.Next() {
		addrs = append(addrs, a.String())
	}
	some := func() string { return addrs[r.IntN(len(addrs))] }
	var live []string
	done := map[string]int{}
	for step := range 300 {
		op, fn := "", func(store.Tx) error { return nil }
		made := ""
		switch k := r.IntN(20); {
		case k < 7:
			op, fn = "create", func(tx store.Tx) error {
				ch, err := CreateNIC(tx, w.now, on("n"), nil)
				if err == nil {
					made = ch.After.MAC
				}
				return err
			}
		case k < 10:
			nic := on("n="+some(), "n")
			op, fn = "named", func(tx store.Tx) error {
				ch, err := CreateNIC(tx, w.now, nic, nil)
				if err == nil {
					made = ch.After.MAC
				}
				return err
			}
		case k < 14 && len(live) > 0:
			i := r.IntN(len(live))
			mac := live[i]
			live = slices.Delete(live, i, i+1)
			op, fn = "delete", func(tx store.Tx) error { _, err := DeleteNIC(tx, w.now, mac); return err }
		case k < 16:
			u := api.NetworkUpdate{ProvisionStart: ptr(some()), ProvisionEnd: ptr(some())}
			op, fn = "range", w.update(n.UUID, u)
		case k < 17:
			u := api.NetworkUpdate{ProvisionStart: ptr(""), ProvisionEnd: ptr(""), Resolvers: ptr([]string{some()})}
			op, fn = "resolver", w.update(n.UUID, u)
		case k < 18:
			op, fn = "gateway", w.update(n.UUID, api.NetworkUpdate{Gateway: ptr(some())})
		default:
			ip, u := some(), api.IPUpdate{Reserved: ptr(r.IntN(2) == 0)}
			op, fn = "reserve", func(tx store.Tx) error { _, err := UpdateIP(tx, w.now, n.UUID, ip, u); return err }
		}
		err := w.s.Update(t.Context(), fn)
		if p := (*api.Problem)(nil); err != nil && !errors.As(err, &p) {
			t.Fatalf("seed %d step %d: %s: %v", seed, step, op, err)
		}
		if err == nil {
			done[op]++
			if made != "" {
				live = append(live, made)
			}
		}
		if err := w.s.View(t.Context(), Check); err != nil {
			t.Fatalf("seed %d step %d: after %s: %v", seed, step, op, err)
		}
		w.now = w.now.Add(time.Duration(r.IntN(900)) * time.Second)
	}
	for _, op := range []string{"create", "named", "delete", "range", "resolver", "gateway", "reserve"} {
		if done[op] == 0 {
			t.Errorf("seed %d: %s never succeeded", seed, op)
		}
	}
	for _, mac := range live {
		w.drop(mac)
	}
}

// countingTx counts the values that a transaction reads.
type countingTx struct {
	store.Tx
	reads int
}

func (t *countingTx) Get(key string) ([]byte, error) { t.reads++; return t.Tx.Get(key) }

func (t *countingTx) GetAll(keys ...string) ([][]byte, error) {
	t.reads += len(keys)
	return t.Tx.GetAll(keys...)
}

func (t *countingTx) Scan(prefix, after string) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		for it, err := range t.Tx.Scan(prefix, after) {
			t.reads++
			if !yield(it, err) {
				return
			}
		}
	}
}

// TestReadsDoNotGrow: making and deleting a NIC reads as little in a network, and
// of an instance and server, with many NICs as in one with few, gaps or not.
func TestReadsDoNotGrow(t *testing.T) {
	w := &world{t, openBolt(t), t0}
	w.tag(external, 0)
	w.network(api.Network{Name: "n", NICTag: external, Subnet: "10.9.0.0/16"})
	nic := with(on("n"), func(n *api.NetworkNIC) { n.Server = server1 })
	var macs []string
	reads := func() (create, drop int) {
		w.must(func(tx store.Tx) error {
			c := &countingTx{Tx: tx}
			ch, err := CreateNIC(c, w.now, nic, []string{external})
			create = c.reads
			if err == nil {
				c.reads = 0
				_, err = DeleteNIC(c, w.now, ch.After.MAC)
				drop = c.reads
			}
			return err
		})
		return create, drop
	}
	for range 20 {
		macs = append(macs, w.nic(nic).MAC)
	}
	create, drop := reads()
	w.must(func(tx store.Tx) error {
		for range 600 {
			c, err := CreateNIC(tx, w.now, nic, nil)
			if err != nil {
				return err
			}
			macs = append(macs, c.After.MAC)
		}
		return nil
	})
	w.must(func(tx store.Tx) error {
		for i := 0; i < len(macs); i += 2 {
			if _, err := DeleteNIC(tx, w.now, macs[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if c, d := reads(); c > create+2 || d > drop+2 {
		t.Errorf("creation reads %d values among 600 NICs and %d among 20; deletion %d and %d", c, create, d, drop)
	}
	w.now = w.now.Add(2 * Rest)
	// A few given back that have rested may be moved; no more.
	if c, d := reads(); c > create+2+6*rejoined || d > drop+2+6*rejoined {
		t.Errorf("with rested addresses creation reads %d values, deletion %d", c, d)
	}
	t.Logf("creation reads %d values, deletion %d", create, drop)
}
