package networks

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/store"

	"github.com/google/go-cmp/cmp"
)

// with is a NIC with a change.
func with(n api.NetworkNIC, change func(*api.NetworkNIC)) api.NetworkNIC {
	change(&n)
	return n
}

func TestNICRules(t *testing.T) {
	w := rack(t)
	w.network(api.Network{Name: "other", NICTag: external, VLAN: 8, Subnet: "10.1.0.0/24"})
	w.network(api.Network{Name: "six", NICTag: external, VLAN: 7, Subnet: "fd00:1::/64", MTU: 1280})
	w.network(api.Network{Name: "bobs", NICTag: external, Subnet: "10.2.0.0/24", Owners: []string{bob}})
	w.network(fabricNet("f", bob, "10.5.0.0/24", 9))
	f := do(w, func(tx store.Tx) (api.Network, error) { return FindNetwork(tx, bob, "f") })
	w.network(fabricNet("mine", alice, "10.5.0.0/24", 10))
	w.must(func(tx store.Tx) error {
		_, err := SetNICTagUse(tx, server1, api.NICTagUse{MAC: "52:54:00:00:00:01", NICTags: []string{AdminTag}}, nil, false)
		return err
	})
	taken := w.nic(on("external=10.0.0.9"))
	many := on(slices.Repeat([]string{external}, 17)...)
	for _, c := range []struct {
		code  api.Code
		words string
		n     api.NetworkNIC
	}{
		{api.CodeInvalid, "0 addresses", on()},
		{api.CodeInvalid, "17 addresses", many},
		{api.CodeInvalid, "owner", with(on(external), func(n *api.NetworkNIC) { n.Owner = "" })},
		{api.CodeInvalid, "belongs_to", with(on(external), func(n *api.NetworkNIC) { n.BelongsTo = "vm1" })},
		{api.CodeInvalid, "want zone, server or other", with(on(external), func(n *api.NetworkNIC) { n.BelongsToType = "vm" })},
		{api.CodeInvalid, "state", with(on(external), func(n *api.NetworkNIC) { n.State = "lost" })},
		{api.CodeInvalid, "multicast", with(on(external), func(n *api.NetworkNIC) { n.MAC = "01:00:5e:00:00:01" })},
		{api.CodeInvalid, "nobody's", with(on(external), func(n *api.NetworkNIC) { n.MAC = "00:00:00:00:00:00" })},
		{api.CodeInvalid, "not an Ethernet", with(on(external), func(n *api.NetworkNIC) { n.MAC = "02:00" })},
		{api.CodeConflict, "there is a NIC " + taken.MAC, with(on(external), func(n *api.NetworkNIC) { n.MAC = strings.ToUpper(taken.MAC) })},
		{api.CodeConflict, "physical NIC of server " + server1, with(on(external), func(n *api.NetworkNIC) { n.MAC = "52:54:00:00:00:01" })},
		{api.CodeNotFound, "no network or pool", on("nowhere")},
		{api.CodeNotFound, "no network or pool", on(id(99))},
		{api.CodeInvalid, "not an IP address", on("external=ten")},
		{api.CodeInvalid, "10.0.0.5 is there twice", on("external=10.0.0.5", "external=10.0.0.5")},
		{api.CodeConflict, "not in 10.0.0.0/24", on("external=10.1.0.5")},
		{api.CodeConflict, "gateway of network external", on("external=10.0.0.1")},
		{api.CodeConflict, "broadcast", on("external=10.0.0.255")},
		{api.CodeConflict, "broadcast", on("external=10.0.0.0")},
		{api.CodeInUse, "10.0.0.9 of network external is the address of NIC " + taken.MAC, on("external=10.0.0.9")},
		{api.CodeForbidden, "network bobs is not for account", on("bobs")},
		{api.CodeForbidden, "network f is not for account", on(f.UUID)},
		{api.CodeNotFound, "no network or pool", on("f")}, // bob's names are not alice's
		{api.CodeConflict, "one layer-2 segment|NIC tag external VLAN 7|NIC tag external VLAN 8", on(external, "other")},
		{api.CodeConflict, "one layer-2 segment|VNI 10", on(external, "mine")},
		{api.CodeInvalid, "underlay NIC belongs to a server", with(on(external), func(n *api.NetworkNIC) { n.Underlay = true })},
		{api.CodeInvalid, "is on server", with(on(external), func(n *api.NetworkNIC) { n.BelongsToType, n.Server = api.BelongsToServer, server1 })},
		{api.CodeConflict, "no underlay address", with(on("mine"), func(n *api.NetworkNIC) { n.Server = id(0x99) })},
		{api.CodeInvalid, "65 allowed_ips", with(on(external), func(n *api.NetworkNIC) { n.AllowedIPs = make([]string, 65) })},
		{api.CodeInvalid, "host bits", with(on(external), func(n *api.NetworkNIC) { n.AllowedIPs = []string{"10.0.0.1/24"} })},
		{api.CodeInvalid, "not an IP", with(on(external), func(n *api.NetworkNIC) { n.AllowedIPs = []string{"x"} })},
	} {
		w.refused(c.code, c.words, w.create(c.n))
	}
	w.refused(api.CodeConflict, "network external needs NIC tag external, which the server does not provide", w.create(on(external), AdminTag))
	w.refused(api.CodeConflict, "needs NIC tag underlay", w.create(on("mine"), AdminTag))

	// Two families on one segment; a gateway for a router; the least MTU.
	got := w.nic(with(on(external, "six", "external=10.0.0.200"), func(n *api.NetworkNIC) {
		n.BelongsToType, n.MAC, n.AllowedIPs, n.AllowIPSpoofing = api.BelongsToOther, "06-00-00-00-00-0A", []string{"FD00::1", "10.7.0.0/16", "fd00::1"}, true
	}), external)
	want := api.NetworkNIC{MAC: "06:00:00:00:00:0a", Owner: alice, BelongsTo: instance1, BelongsToType: api.BelongsToOther, NICTag: external, VLAN: 7, MTU: 1280,
		Created: t0, Revision: got.Revision, SpoofFlags: api.SpoofFlags{AllowIPSpoofing: true, AllowedIPs: []string{"fd00::1", "10.7.0.0/16"}}}
	for i, ip := range []string{"10.0.0.2", "fd00:1::1", "10.0.0.200"} {
		want.Addresses = append(want.Addresses, api.NICAddress{Network: got.Addresses[i].Network, IP: ip})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if again := do(w, func(tx store.Tx) (api.NetworkNIC, error) { return GetNIC(tx, "06:00:00:00:00:0A") }); !cmp.Equal(got, again) {
		t.Error(cmp.Diff(got, again))
	}
	w.nic(with(on("external=10.0.0.1"), func(n *api.NetworkNIC) { n.BelongsToType = api.BelongsToOther }))
}

// TestMACs: prefixes are obeyed, and a MAC that something has is drawn again.
func TestMACs(t *testing.T) {
	w := rack(t)
	a := w.nic(on(external))
	if !strings.HasPrefix(a.MAC, DefaultMACPrefix+":") {
		t.Errorf("MAC %s", a.MAC)
	}
	settings := func(prefix string) func(store.Tx) error {
		return func(tx store.Tx) error {
			s, err := GetSettings(tx)
			if err == nil {
				s.MACPrefix = prefix
				_, err = UpdateSettings(tx, s)
			}
			return err
		}
	}
	for _, bad := range []string{"02:6e", "03:00:00", "00:00:00", "02:6e:72:01", "x"} {
		w.refused(api.CodeInvalid, "MAC prefix", settings(bad))
	}
	w.must(settings("90-B8-D0"))
	w.nic(with(on(external), func(n *api.NetworkNIC) { n.MAC = "90:b8:d0:00:00:01" }))
	w.must(func(tx store.Tx) error { return store.Put(tx, physMACPrefix+"90:b8:d0:00:00:02", server1) })
	draw := func(n uint32) func() uint32 { return func() uint32 { n++; return n - 1 } }
	third := func(mac string) (bool, error) { return mac == "90:b8:d0:00:00:03", nil }
	w.must(func(tx store.Tx) error {
		mac, err := NewMAC(tx, draw(1), third)
		if mac != "90:b8:d0:00:00:04" {
			t.Errorf("MAC %s, want the first that nothing has", mac)
		}
		return err
	})
	w.must(func(tx store.Tx) error { return tx.Delete(physMACPrefix + "90:b8:d0:00:00:02") })
	w.refused(api.CodeConflict, "no free MAC with the prefix 90:b8:d0", func(tx store.Tx) error {
		_, err := NewMAC(tx, func() uint32 { return 1 }, nil)
		return err
	})
	for range 1000 {
		if n := DrawMAC(); n >= 1<<24 {
			t.Fatalf("drew %#x, which is more than 24 bits", n)
		}
	}
}

// TestUpdateNIC: a move, a change of owner, and who is primary.
func TestUpdateNIC(t *testing.T) {
	w := rack(t)
	w.network(fabricNet("f", alice, "10.5.0.0/24", 9))
	n := w.nic(with(on("f"), func(n *api.NetworkNIC) { n.Server, n.Primary = server1, true }))
	update := func(mac string, u api.NICUpdate, provided ...string) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := UpdateNIC(tx, mac, u, provided); return err }
	}
	servers := func() string {
		return strings.Join(do(w, func(tx store.Tx) ([]string, error) { return ServersOfVNI(tx, 9) }), " ")
	}
	if servers() != server1 {
		t.Errorf("servers of the VNI: %s", servers())
	}
	w.refused(api.CodeConflict, "needs NIC tag underlay", update(n.MAC, api.NICUpdate{Server: ptr(server2)}, AdminTag))
	w.refused(api.CodeConflict, "no underlay address", update(n.MAC, api.NICUpdate{Server: ptr(id(0x99))}))
	w.must(func(tx store.Tx) error {
		c, err := UpdateNIC(tx, n.MAC, api.NICUpdate{Server: ptr(server2), State: ptr("running")}, []string{underlay})
		if err == nil && (c.Before.Server != server1 || c.After.Server != server2 || ips(*c.Before) != ips(*c.After) || c.After.Revision == n.Revision || c.After.MTU != 8950) {
			err = fmt.Errorf("change is %+v", c)
		}
		return err
	})
	if servers() != server2 {
		t.Errorf("servers of the VNI after the move: %s", servers())
	}
	w.refused(api.CodeForbidden, "not for account", update(n.MAC, api.NICUpdate{Owner: ptr(bob)}))
	w.refused(api.CodeInvalid, "state", update(n.MAC, api.NICUpdate{State: ptr("x")}))
	w.must(update(n.MAC, api.NICUpdate{Flags: &api.SpoofFlags{AllowMACSpoofing: true}}))
	b := w.nic(with(on("f"), func(n *api.NetworkNIC) { n.Server, n.Primary = server1, true }))
	get := func(mac string) api.NetworkNIC {
		return do(w, func(tx store.Tx) (api.NetworkNIC, error) { return GetNIC(tx, mac) })
	}
	if a := get(n.MAC); a.Primary || !a.AllowMACSpoofing || a.State != "running" {
		t.Errorf("got %+v", a)
	}
	w.must(update(n.MAC, api.NICUpdate{Primary: ptr(true)}))
	if !get(n.MAC).Primary || get(b.MAC).Primary {
		t.Error("two NICs, or none, are primary")
	}
	if servers() != server1+" "+server2 {
		t.Errorf("servers of the VNI: %s", servers())
	}
	if ns := do(w, func(tx store.Tx) ([]api.NetworkNIC, error) { return NICsOfVNI(tx, 9) }); len(ns) != 2 || ns[0].MAC != b.MAC {
		t.Errorf("NICs of the VNI: %+v", ns)
	}
	f := do(w, func(tx store.Tx) (api.Network, error) { return FindNetwork(tx, alice, "f") })
	if s := do(w, func(tx store.Tx) ([]string, error) { return ServersOfNetwork(tx, f.UUID) }); len(s) != 2 {
		t.Errorf("servers of the network: %q", s)
	}
	// Firewall tags are the instance's: a NIC gets them, and changes them, for all.
	w.must(update(n.MAC, api.NICUpdate{Tags: ptr(map[string]string{"role": "web"}), NoFirewall: ptr(true)}))
	c := do(w, func(tx store.Tx) (Change, error) {
		return CreateNIC(tx, w.now, with(on("f"), func(n *api.NetworkNIC) { n.Primary = true }), nil)
	})
	if c.After.Tags["role"] != "web" || c.After.NoFirewall || get(b.MAC).Tags["role"] != "web" || !get(n.MAC).NoFirewall {
		t.Errorf("tags of the new NIC %+v, of the others %+v and %+v", c.After, get(b.MAC), get(n.MAC))
	}
	if len(c.Others) != 1 || !cmp.Equal(c.Others[0], get(n.MAC)) || c.Others[0].Primary {
		t.Errorf("others: %+v", c.Others)
	}
	c = do(w, func(tx store.Tx) (Change, error) {
		return UpdateNIC(tx, b.MAC, api.NICUpdate{Tags: ptr(map[string]string{})}, nil)
	})
	if len(c.Others) != 2 || len(c.After.Tags)+len(get(n.MAC).Tags) != 0 || c.Before.Tags["role"] != "web" {
		t.Errorf("change: %+v", c)
	}
	if c := do(w, func(tx store.Tx) (Change, error) {
		return UpdateNIC(tx, b.MAC, api.NICUpdate{State: ptr("stopped")}, nil)
	}); len(c.Others) != 0 {
		t.Errorf("change: %+v", c)
	}
	for _, tags := range []map[string]string{{"": "x"}, {"a": strings.Repeat("x", 256)}, {"a\n": ""}, {"a": "\xff"}} {
		w.refused(api.CodeInvalid, "firewall tag", update(n.MAC, api.NICUpdate{Tags: &tags}))
	}
	w.drop(b.MAC)
	w.must(update(n.MAC, api.NICUpdate{Server: ptr("")}))
	if servers() != "" {
		t.Errorf("servers of the VNI at the end: %s", servers())
	}
	w.refused(api.CodeNotFound, "no NIC "+b.MAC, update(b.MAC, api.NICUpdate{}))
}

func TestListNICs(t *testing.T) {
	w := rack(t)
	w.network(fabricNet("f", bob, "10.5.0.0/24", 9))
	for i := range 6 {
		w.nic(with(on(external), func(n *api.NetworkNIC) { n.BelongsTo, n.Server = id(100+i%2), []string{"", server1}[i%2] }))
	}
	w.nic(with(on("f"), func(n *api.NetworkNIC) { n.Owner, n.Server = bob, server2 }))
	ext := do(w, func(tx store.Tx) (api.Network, error) { return GetNetwork(tx, external) })
	for _, c := range []struct {
		f    NICFilter
		want int
	}{{NICFilter{}, 9}, {NICFilter{Owner: alice}, 6}, {NICFilter{Owner: bob}, 1}, {NICFilter{BelongsTo: id(100)}, 3}, {NICFilter{Server: server1}, 4},
		{NICFilter{Server: server1, Network: ext.UUID}, 3}, {NICFilter{Network: ext.UUID}, 6}, {NICFilter{Network: ext.UUID, Owner: bob}, 0},
		{NICFilter{BelongsTo: id(101), Server: server1, Owner: strings.ToUpper(alice)}, 3}} {
		for _, limit := range []int{0, 1, 2, 100} {
			macs := map[string]bool{}
			w.must(func(tx store.Tx) error {
				clear(macs)
				for after := ""; ; {
					ns, next, err := ListNICs(tx, c.f, after, limit)
					if err != nil {
						return err
					}
					for _, n := range ns {
						macs[n.MAC] = true
					}
					if limit > 0 && len(ns) > limit {
						t.Errorf("page of %d", len(ns))
					}
					if after = next; next == "" {
						return nil
					}
				}
			})
			if len(macs) != c.want {
				t.Errorf("%+v limit %d: %d NICs, want %d", c.f, limit, len(macs), c.want)
			}
		}
	}
	w.must(func(tx store.Tx) error {
		all, err := SearchNICs(tx, DefaultMACPrefix)
		if err != nil || len(all) != 9 {
			t.Errorf("%d NICs found, %v", len(all), err)
		}
		one, err := SearchNICs(tx, strings.ToUpper(strings.ReplaceAll(all[3].MAC, ":", "-")))
		if err != nil || len(one) != 1 || !cmp.Equal(one[0], all[3]) {
			t.Errorf("got %+v %v", one, err)
		}
		on1, err := NICsOfServer(tx, server1)
		if err != nil || len(on1) != 4 {
			t.Errorf("%d NICs on server 1, %v", len(on1), err)
		}
		return nil
	})
	w.refused(api.CodeInvalid, "no part of a MAC", func(tx store.Tx) error { _, err := SearchNICs(tx, "vm1"); return err })
}

func TestUnderlay(t *testing.T) {
	w := rack(t)
	w.network(api.Network{Name: "under6", NICTag: underlay, Subnet: "fd30::/64"})
	w.network(fabricNet("f", alice, "10.5.0.0/24", 9)) // MTU 8950
	under := func(server string, nets ...string) api.NetworkNIC {
		return with(on(nets...), func(n *api.NetworkNIC) {
			n.Owner, n.BelongsToType, n.BelongsTo, n.Server, n.Underlay = "", api.BelongsToServer, server, server, true
		})
	}
	w.refused(api.CodeConflict, "has an ipv4 underlay address already", w.create(under(server1, "under")))
	w.refused(api.CodeInvalid, "one address of each family", w.create(under(id(0x53), "under", "under")))
	w.refused(api.CodeConflict, "use a network on the underlay", w.create(under(id(0x53), external)))
	w.refused(api.CodeInUse, "more than the 8930 bytes|fabric network f", w.create(under(server1, "under6")))
	f := do(w, func(tx store.Tx) (api.Network, error) { return FindNetwork(tx, alice, "f") })
	w.must(w.update(f.UUID, api.NetworkUpdate{MTU: ptr(8930)}))
	w.must(w.create(under(server1, "under6")))
	w.refused(api.CodeInvalid, "the overlay has 8930", w.update(f.UUID, api.NetworkUpdate{MTU: ptr(8931)}))
	if limit := do(w, OverlayLimit); limit != 8930 {
		t.Errorf("overlay limit %d", limit)
	}
	us := do(w, func(tx store.Tx) ([]Underlay, error) { return UnderlayOf(tx, server1) })
	if len(us) != 2 || us[0].Address.String() != "172.30.0.1/24" || us[1].Address.String() != "fd30::1/64" || us[0].Network.Name != "under" || us[0].Server != server1 {
		t.Errorf("underlay of server 1: %+v", us)
	}
	if all := do(w, Underlays); len(all) != 3 {
		t.Errorf("%d underlay addresses", len(all))
	}
	if nets := do(w, UnderlayNetworks); len(nets) != 2 {
		t.Errorf("underlay networks: %+v", nets)
	}
	del := func(mac string) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := DeleteNIC(tx, w.now, mac); return err }
	}
	nic := w.nic(with(on("f"), func(n *api.NetworkNIC) { n.Server = server1 }))
	w.must(del(us[0].MAC)) // the IPv6 one carries on
	w.refused(api.CodeInUse, "NICs there are on fabrics|"+nic.MAC, del(us[1].MAC))
	w.refused(api.CodeConflict, "does not move", func(tx store.Tx) error {
		_, err := UpdateNIC(tx, us[1].MAC, api.NICUpdate{Server: ptr(server2), BelongsTo: ptr(server2)}, nil)
		return err
	})
	w.refused(api.CodeInUse, "server "+server1+" has NICs", func(tx store.Tx) error { _, err := ForgetServer(tx, w.now, server1); return err })
	w.drop(nic.MAC)
	if cs := do(w, func(tx store.Tx) ([]Change, error) { return ForgetServer(tx, w.now, server1) }); len(cs) != 1 || cs[0].Before.MAC != us[1].MAC || cs[0].After != nil {
		t.Errorf("changes: %+v", cs)
	}
}

// TestPools: order, families, owners, racks, and one segment for the whole NIC.
func TestPools(t *testing.T) {
	w := rack(t)
	for rack := 1; rack <= 2; rack++ {
		tag := fmt.Sprint("rack", rack)
		w.tag(tag, 0)
		w.network(api.Network{Name: tag, NICTag: tag, Subnet: fmt.Sprintf("10.%d.0.0/29", rack), ProvisionEnd: fmt.Sprintf("10.%d.0.2", rack)})
		w.network(api.Network{Name: tag + "six", NICTag: tag, Subnet: fmt.Sprintf("fd00:%d::/64", rack), ProvisionEnd: fmt.Sprintf("fd00:%d::2", rack)})
	}
	w.network(fabricNet("f", alice, "10.5.0.0/24", 9))
	f := do(w, func(tx store.Tx) (api.Network, error) { return FindNetwork(tx, alice, "f") })
	create := func(p api.NetworkPool) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := CreatePool(tx, p); return err }
	}
	for _, c := range []struct {
		code  api.Code
		words string
		p     api.NetworkPool
	}{
		{api.CodeInvalid, "pool name", api.NetworkPool{Name: "a b", Networks: []string{"rack1"}}},
		{api.CodeInvalid, "0 networks", api.NetworkPool{Name: "p"}},
		{api.CodeInvalid, "both families", api.NetworkPool{Name: "p", Networks: []string{"rack1", "rack1six"}}},
		{api.CodeInvalid, "twice", api.NetworkPool{Name: "p", Networks: []string{"rack1", "rack1"}}},
		{api.CodeInvalid, "fabric network", api.NetworkPool{Name: "p", Networks: []string{f.UUID}}},
		{api.CodeInvalid, "not a UUID", api.NetworkPool{Name: "p", Networks: []string{"rack1"}, Owners: []string{"x"}}},
		{api.CodeNotFound, "nowhere", api.NetworkPool{Name: "p", Networks: []string{"nowhere"}}},
		{api.CodeConflict, "the name rack1 is that", api.NetworkPool{Name: "rack1", Networks: []string{"rack1"}}},
	} {
		w.refused(c.code, c.words, create(c.p))
	}
	p := do(w, func(tx store.Tx) (api.NetworkPool, error) {
		return CreatePool(tx, api.NetworkPool{Name: "racks", Networks: []string{"rack2", "rack1"}})
	})
	if p.Family != "ipv4" || strings.Join(p.NICTags, " ") != "rack1 rack2" {
		t.Errorf("pool is %+v", p)
	}
	w.must(create(api.NetworkPool{Name: "sixes", Networks: []string{"rack1six", "rack2six"}}))
	w.refused(api.CodeNotFound, "it is a pool", func(tx store.Tx) error { _, err := GetNetwork(tx, "racks"); return err })
	if got := ips(w.nic(on("racks"), "rack1")); got != "10.1.0.1" {
		t.Errorf("on rack 1: %s", got)
	}
	if got := ips(w.nic(on("racks"))); got != "10.2.0.1" { // the first of the pool
		t.Errorf("anywhere: %s", got)
	}
	w.refused(api.CodeConflict, "no network of pool racks will do|needs NIC tag rack2|needs NIC tag rack1", w.create(on("racks"), AdminTag))
	// Both families: rack 2 first, as the first pool says.
	if got := ips(w.nic(on("racks", "sixes"))); got != "10.2.0.2 fd00:2::1" {
		t.Errorf("both families: %s", got)
	}
	if got := ips(w.nic(on(p.UUID, "rack1six"))); got != "10.1.0.2 fd00:1::1" {
		t.Errorf("both families in rack 1: %s", got)
	}
	p2 := w.refused(api.CodeConflict, "no layer-2 segment with a free address for the whole NIC", w.create(on("racks")))
	if len(p2.Errors) != 2 {
		t.Errorf("reasons: %q", p2.Errors)
	}
	if got := ips(w.nic(on("racks=10.1.0.5"))); got != "10.1.0.5" {
		t.Errorf("named: %s", got)
	}
	w.refused(api.CodeConflict, "no network of pool racks", w.create(on("racks=10.7.0.5")))
	// Two addresses are wanted where one is left: the other segment has both.
	if got := ips(w.nic(on("sixes"), "rack1")); got != "fd00:1::2" {
		t.Errorf("got %s", got)
	}
	w.refused(api.CodeConflict, "no layer-2 segment", w.create(on("sixes", "sixes")))

	update := func(u api.NetworkPoolUpdate) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := UpdatePool(tx, "racks", u); return err }
	}
	w.must(update(api.NetworkPoolUpdate{Networks: ptr([]string{external}), Owners: ptr([]string{bob})}))
	w.refused(api.CodeForbidden, "pool racks is not for account", w.create(on("racks")))
	w.must(func(tx store.Tx) error {
		_, err := DeleteNetwork(tx, "rack2six")
		return expect(err, api.CodeInUse)
	})
	w.must(update(api.NetworkPoolUpdate{Name: ptr("outside"), Owners: ptr([]string{})}))
	if got := ips(w.nic(on("outside"))); got != "10.0.0.2" {
		t.Errorf("got %s", got)
	}
	settings := func(nat string) func(store.Tx) error {
		return func(tx store.Tx) error {
			s, err := GetSettings(tx)
			if err == nil {
				s.NATNetwork = nat
				s, err = UpdateSettings(tx, s)
			}
			if err == nil && nat != "" && s.NATNetwork != p.UUID {
				err = fmt.Errorf("settings %+v", s)
			}
			return err
		}
	}
	w.refused(api.CodeInvalid, "fabric network", settings(f.UUID))
	w.must(settings("outside"))
	w.refused(api.CodeInUse, "internet_nat", func(tx store.Tx) error { return DeletePool(tx, "outside") })
	w.must(settings(""))
	w.must(func(tx store.Tx) error { return DeletePool(tx, "outside") })
	ps := do(w, func(tx store.Tx) ([]api.NetworkPool, error) { ps, _, err := ListPools(tx, "", 0); return ps, err })
	if len(ps) != 1 || ps[0].Name != "sixes" || ps[0].Family != "ipv6" {
		t.Errorf("pools %+v", ps)
	}
}

// expect gives nil for a refusal with the code.
func expect(err error, code api.Code) error {
	p := (*api.Problem)(nil)
	if !errors.As(err, &p) || p.Code != code {
		return fmt.Errorf("got %w, want %s", err, code)
	}
	return nil
}
