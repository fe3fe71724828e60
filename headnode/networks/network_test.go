package networks

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/store"

	"github.com/google/go-cmp/cmp"
)

func TestHosts(t *testing.T) {
	for _, c := range []struct{ subnet, first, last string }{
		{"10.0.0.0/8", "10.0.0.1", "10.255.255.254"},
		{"10.0.0.128/25", "10.0.0.129", "10.0.0.254"},
		{"10.0.0.4/30", "10.0.0.5", "10.0.0.6"},
		{"10.0.0.4/31", "10.0.0.4", "10.0.0.5"},
		{"10.0.0.4/32", "10.0.0.4", "10.0.0.4"},
		{"fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"},
		{"fd00::/47", "fd00::1", "fd00:0:1:ffff:ffff:ffff:ffff:ffff"},
		{"fd00::2/127", "fd00::2", "fd00::3"},
		{"fd00::2/128", "fd00::2", "fd00::2"},
	} {
		first, last := hosts(netip.MustParsePrefix(c.subnet))
		if first.String() != c.first || last.String() != c.last {
			t.Errorf("%s: hosts are %s-%s, want %s-%s", c.subnet, first, last, c.first, c.last)
		}
	}
}

// TestNetworkRules: what a network can be by itself and with what is there.
func TestNetworkRules(t *testing.T) {
	w := rack(t)
	n4 := func(change func(*api.Network)) api.Network {
		n := api.Network{Name: "n", NICTag: external, Subnet: "10.1.0.0/24"}
		change(&n)
		return n
	}
	n6 := func(change func(*api.Network)) api.Network {
		return n4(func(n *api.Network) { n.Subnet = "fd00:1::/64"; change(n) })
	}
	for _, c := range []struct {
		n     api.Network
		words string
	}{
		{n4(func(n *api.Network) { n.Name = "" }), "network name"},
		{n4(func(n *api.Network) { n.Name = id(1) }), "not the form of a UUID"},
		{n4(func(n *api.Network) { n.Name = "-n" }), "network name"},
		{n4(func(n *api.Network) { n.UUID = "x" }), "not a UUID"},
		{n4(func(n *api.Network) { n.Description = fmt.Sprintf("%2000d", 1) }), "description"},
		{n4(func(n *api.Network) { n.Owners = []string{"joe"} }), "not a UUID"},
		{n4(func(n *api.Network) { n.Owners = []string{alice, alice} }), "twice"},
		{n4(func(n *api.Network) { n.NICTag = "" }), "no NIC tag"},
		{n4(func(n *api.Network) { n.VLAN = 1 }), "VLAN 1"},
		{n4(func(n *api.Network) { n.VLAN = 4095 }), "VLAN 4095"},
		{n4(func(n *api.Network) { n.VLAN = -1 }), "VLAN -1"},
		{n4(func(n *api.Network) { n.Subnet = "10.1.0.1/24" }), "host bits set; the subnet is 10.1.0.0/24"},
		{n4(func(n *api.Network) { n.Subnet = "10.1.0.0" }), "not a subnet"},
		{n4(func(n *api.Network) { n.Subnet = "10.0.0.0/7" }), "shorter than /8"},
		{n4(func(n *api.Network) { n.Subnet = "224.1.0.0/24" }), "not for hosts"},
		{n4(func(n *api.Network) { n.Subnet = "127.0.0.0/24" }), "not for hosts"},
		{n6(func(n *api.Network) { n.Subnet = "fe80::/64" }), "not for hosts"},
		{n6(func(n *api.Network) { n.Subnet = "::ffff:10.0.0.0/120" }), "IPv4 subnet"},
		{n4(func(n *api.Network) { n.ProvisionStart = "10.2.0.5" }), "not in 10.1.0.0/24"},
		{n4(func(n *api.Network) { n.ProvisionStart = "10.1.0.0" }), "network's or the broadcast"},
		{n4(func(n *api.Network) { n.ProvisionEnd = "10.1.0.255" }), "network's or the broadcast"},
		{n4(func(n *api.Network) { n.ProvisionStart, n.ProvisionEnd = "10.1.0.9", "10.1.0.8" }), "wrong way round"},
		{n4(func(n *api.Network) { n.ProvisionEnd = "fd00::1" }), "not in"},
		{n6(func(n *api.Network) { n.ProvisionStart = "fd00:1::" }), "network's or the broadcast"},
		{n4(func(n *api.Network) { n.Gateway = "10.1.0.255" }), "gateway 10.1.0.255"},
		{n4(func(n *api.Network) { n.Gateway = "10.1.1.1" }), "gateway 10.1.1.1"},
		{n4(func(n *api.Network) { n.Gateway = "gw" }), "not an IP address"},
		{n4(func(n *api.Network) { n.Resolvers = []string{"0.0.0.0"} }), "no host's address"},
		{n4(func(n *api.Network) { n.Resolvers = []string{"10.1.0.255"} }), "no host's address"},
		{n4(func(n *api.Network) { n.Resolvers = []string{"fe80::1%eth0"} }), "zone"},
		{n4(func(n *api.Network) { n.Resolvers = []string{"8.8.8.8", "8.8.8.8"} }), "twice"},
		{n4(func(n *api.Network) { n.Resolvers = make([]string, 9) }), "9 resolvers"},
		{n4(func(n *api.Network) { n.Routes = map[string]string{"10.9.0.0/24": "10.2.0.1"} }), "next hop|not in"},
		{n4(func(n *api.Network) { n.Routes = map[string]string{"10.9.0.0/24": "10.1.0.255"} }), "next hop"},
		{n4(func(n *api.Network) { n.Routes = map[string]string{"10.9.0.1/24": "10.1.0.2"} }), "host bits"},
		{n4(func(n *api.Network) { n.Routes = map[string]string{"fd00::/64": "10.1.0.2"} }), "another family"},
		{n4(func(n *api.Network) { n.Routes = map[string]string{"10.1.0.0/24": "10.1.0.2"} }), "network itself"},
		{n4(func(n *api.Network) { n.Gateway, n.Routes = "10.1.0.1", map[string]string{"0.0.0.0/0": "10.1.0.2"} }), "a gateway and a route"},
		{n4(func(n *api.Network) { n.MTU = 575 }), "MTU 575"},
		{n4(func(n *api.Network) { n.MTU = 1501 }), "NIC tag external has 1500"},
		{n6(func(n *api.Network) { n.MTU = 1279 }), "MTU 1279"},
		{n4(func(n *api.Network) { n.InternetNAT = true }), "internet_nat"},
		{n4(func(n *api.Network) { n.VNI = 5 }), "VNI"},
		{fabricNet("f", "", "10.1.0.0/24", 5), "not a UUID"},
		{fabricNet("f", alice, "10.1.0.0/24", 0), "VNI 0"},
		{fabricNet("f", alice, "10.1.0.0/24", 1<<24), "VNI 16777216"},
		{fabricNet("f", alice, "172.32.0.0/24", 5), "RFC 1918"},
		{fabricNet("f", alice, "2001:db8::/64", 5), "RFC 4193"},
		{fabricNet("f", alice, "192.0.0.0/8", 5), "RFC 1918"},
		{api.Network{Name: "f", Subnet: "10.1.0.0/24", VNI: 5, Fabric: true}, "0 owners"},
		{api.Network{Name: "f", Subnet: "10.1.0.0/24", VNI: 5, Fabric: true, Owners: []string{alice, bob}}, "2 owners"},
		{api.Network{Name: "f", Subnet: "10.1.0.0/24", VNI: 5, Fabric: true, Owners: []string{alice}, NICTag: external}, "has a NIC tag"},
		{api.Network{Name: "f", Subnet: "10.1.0.0/24", VNI: 5, Fabric: true, Owners: []string{alice}, InternetNAT: true}, "no gateway"},
		{api.Network{Name: "f", Subnet: "10.1.0.0/24", VNI: 5, Fabric: true, Owners: []string{alice}, MTU: 8951}, "the overlay has 8950"},
	} {
		w.refused(api.CodeInvalid, c.words, func(tx store.Tx) error { _, err := CreateNetwork(tx, c.n); return err })
	}
	w.refused(api.CodeNotFound, "NIC tag \"nowhere\"", func(tx store.Tx) error {
		_, err := CreateNetwork(tx, n4(func(n *api.Network) { n.NICTag = "nowhere" }))
		return err
	})
	got := w.network(api.Network{Name: "full", NICTag: external, Subnet: "FD00:1::/64", Gateway: "fd00:1:0::1", Resolvers: []string{"10.0.0.53", "fd00:1::35"},
		Routes: map[string]string{"fd00:2::/48": "fd00:1::2"}, Owners: []string{"00000000-0000-4000-8000-00000000000A"}})
	want := api.Network{UUID: got.UUID, Revision: got.Revision, Name: "full", Family: "ipv6", NICTag: external, Subnet: "fd00:1::/64", ProvisionStart: "fd00:1::1",
		ProvisionEnd: "fd00:1::ffff:ffff:ffff:ffff", Gateway: "fd00:1::1", Resolvers: []string{"10.0.0.53", "fd00:1::35"},
		Routes: map[string]string{"fd00:2::/48": "fd00:1::2"}, Owners: []string{alice}, MTU: 1500}
	if d := cmp.Diff(want, got); d != "" || got.Revision == "" {
		t.Error(d)
	}
	// Gateway, next hop and resolver are for those who name them.
	if n := w.nic(on("full")); ips(n) != "fd00:1::3" || n.MTU != 1500 || n.NICTag != external {
		t.Errorf("got %+v", n)
	}
	if n := w.nic(on("full=fd00:1::35")); ips(n) != "fd00:1::35" {
		t.Errorf("got %+v", n)
	}
}

func TestOverlaps(t *testing.T) {
	w := rack(t)
	create := func(n api.Network) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := CreateNetwork(tx, n); return err }
	}
	ext := func(name, subnet string, vlan int) api.Network {
		return api.Network{Name: name, NICTag: external, Subnet: subnet, VLAN: vlan}
	}
	w.refused(api.CodeConflict, "overlaps 10.0.0.0/24 of network external", create(ext("a", "10.0.0.128/25", 7)))
	w.refused(api.CodeConflict, "overlaps 10.0.0.0/24 of network external", create(ext("a", "10.0.0.0/16", 7)))
	w.must(create(ext("a", "10.0.0.0/16", 8))) // another VLAN
	w.refused(api.CodeConflict, "the name a is that of", create(ext("a", "10.9.0.0/16", 8)))
	w.must(create(fabricNet("one", alice, "10.0.0.0/24", 100)))
	w.must(create(fabricNet("one", bob, "10.0.0.0/24", 200))) // another account
	w.refused(api.CodeConflict, "overlaps 10.0.0.0/24 of network one", create(fabricNet("two", alice, "10.0.0.0/24", 100)))
	w.refused(api.CodeConflict, "overlaps 10.0.0.0/24 of network one", create(fabricNet("two", alice, "10.0.0.64/26", 101)))
	w.refused(api.CodeConflict, "the name one is that of fabric network", create(fabricNet("one", alice, "10.0.9.0/24", 101)))
	w.refused(api.CodeConflict, "VNI 200 is that of VLAN 2 of "+bob, create(fabricNet("two", alice, "10.0.1.0/24", 200)))
	w.must(create(fabricNet("two", alice, "10.0.1.0/24", 100)))
	w.must(create(fabricNet("six", alice, "fd00:5::/64", 100)))
	nets := do(w, func(tx store.Tx) ([]api.Network, error) { return NetworksOfVNI(tx, 100) })
	if len(nets) != 3 {
		t.Errorf("networks of VNI 100: %+v", nets)
	}
	if nets := do(w, func(tx store.Tx) ([]api.Network, error) { return FabricNetworks(tx, bob) }); len(nets) != 1 || nets[0].VNI != 200 {
		t.Errorf("networks of bob: %+v", nets)
	}
}

// TestChangeNetwork: each change that is refused, and what the others do.
func TestChangeNetwork(t *testing.T) {
	w := rack(t)
	nic := w.nic(on("external=10.0.0.9"))
	w.refused(api.CodeInUse, "10.0.0.9 cannot be the gateway|"+nic.MAC, w.update(external, api.NetworkUpdate{Gateway: ptr("10.0.0.9")}))
	router := on("external=10.0.0.10")
	router.BelongsToType = api.BelongsToOther
	w.nic(router)
	w.must(w.update(external, api.NetworkUpdate{Gateway: ptr("10.0.0.10")}))
	w.must(w.update(external, api.NetworkUpdate{Gateway: ptr("")}))
	w.must(w.update(external, api.NetworkUpdate{Gateway: ptr("10.0.0.1")}))
	w.refused(api.CodeInvalid, "MTU 1501", w.update(external, api.NetworkUpdate{MTU: ptr(1501)}))
	w.must(w.update(external, api.NetworkUpdate{MTU: ptr(1400)}))
	if n := do(w, func(tx store.Tx) (api.NetworkNIC, error) { return GetNIC(tx, nic.MAC) }); n.MTU != 1400 {
		t.Errorf("NIC has MTU %d", n.MTU)
	}
	// The range moves away from addresses in use: they stay.
	w.must(w.update(external, api.NetworkUpdate{ProvisionStart: ptr("10.0.0.100"), ProvisionEnd: ptr("10.0.0.101")}))
	if a, b := w.nic(on(external)), w.nic(on(external)); ips(a)+ips(b) != "10.0.0.10010.0.0.101" {
		t.Errorf("got %s and %s", ips(a), ips(b))
	}
	w.refused(api.CodeConflict, "no free address left between 10.0.0.100 and 10.0.0.101", w.create(on(external)))
	if n := do(w, func(tx store.Tx) (api.NetworkNIC, error) { return GetNIC(tx, nic.MAC) }); ips(n) != "10.0.0.9" {
		t.Errorf("NIC has %s", ips(n))
	}
	w.must(w.update(external, api.NetworkUpdate{ProvisionStart: ptr(""), Resolvers: ptr([]string{"10.0.0.2", "10.0.0.3"})}))
	if n := w.nic(on(external)); ips(n) != "10.0.0.4" {
		t.Errorf("got %s", ips(n))
	}
	w.must(w.update(external, api.NetworkUpdate{Resolvers: ptr([]string{"10.0.0.3"}), Name: ptr("outside")}))
	w.now = w.now.Add(Rest)
	if n := w.nic(on("outside")); ips(n) != "10.0.0.2" {
		t.Errorf("got %s", ips(n))
	}
	w.refused(api.CodeNotFound, `no network or pool "external"`, w.create(on(external)))
	w.refused(api.CodeConflict, "the name under is that of", w.update("outside", api.NetworkUpdate{Name: ptr("under")}))
	n := do(w, func(tx store.Tx) (api.Network, error) { return GetNetwork(tx, "outside") })
	w.must(func(tx store.Tx) error {
		before, after, err := UpdateNetwork(tx, w.now, n.UUID, api.NetworkUpdate{Description: ptr("x")})
		if err == nil && (before.Revision != n.Revision || after.Revision == n.Revision || after.Description != "x") {
			err = fmt.Errorf("before %+v after %+v", before, after)
		}
		return err
	})
	w.must(func(tx store.Tx) error {
		_, err := CreateNetwork(tx, fabricNet("f", alice, "10.5.0.0/24", 9))
		return err
	})
	f := do(w, func(tx store.Tx) (api.Network, error) { return FindNetwork(tx, alice, "f") })
	w.refused(api.CodeConflict, "stays there", w.update(f.UUID, api.NetworkUpdate{Owners: ptr([]string{bob})}))
	w.refused(api.CodeInvalid, "internet_nat and no gateway", w.update(f.UUID, api.NetworkUpdate{InternetNAT: ptr(true)}))
	w.must(w.update(f.UUID, api.NetworkUpdate{InternetNAT: ptr(true), Gateway: ptr("10.5.0.1")}))
	w.refused(api.CodeInvalid, "internet_nat and no gateway", w.update(f.UUID, api.NetworkUpdate{Gateway: ptr("")}))
}

func TestDeleteNetwork(t *testing.T) {
	w := rack(t)
	del := func(id string) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := DeleteNetwork(tx, id); return err }
	}
	var macs []string
	for range 30 {
		macs = append(macs, w.nic(on(external)).MAC)
	}
	p := w.refused(api.CodeInUse, "network external is in use|and 10 more", del(external))
	if len(p.Errors) != 21 {
		t.Errorf("%d uses told: %q", len(p.Errors), p.Errors)
	}
	for _, m := range macs {
		w.drop(m)
	}
	w.must(func(tx store.Tx) error {
		if _, err := CreatePool(tx, api.NetworkPool{Name: "pool", Networks: []string{external}}); err != nil {
			return err
		}
		s, err := GetSettings(tx)
		if err == nil {
			s.NATNetwork = external
			_, err = UpdateSettings(tx, s)
		}
		if err == nil {
			_, err = UpdateIP(tx, w.now, external, "10.0.0.77", api.IPUpdate{Reserved: ptr(true), Owner: ptr(bob)})
		}
		return err
	})
	p = w.refused(api.CodeInUse, "pool pool|internet_nat|10.0.0.77 is reserved for "+bob, del(external))
	if len(p.Errors) != 3 {
		t.Errorf("uses: %q", p.Errors)
	}
	w.must(func(tx store.Tx) error {
		s, err := GetSettings(tx)
		if err == nil {
			s.NATNetwork = ""
			_, err = UpdateSettings(tx, s)
		}
		if err == nil {
			err = DeletePool(tx, "pool")
		}
		if err == nil {
			_, err = UpdateIP(tx, w.now, external, "10.0.0.77", api.IPUpdate{Reserved: ptr(false)})
		}
		return err
	})
	w.must(del(external))
	w.refused(api.CodeNotFound, "no network or pool", del(external))
	w.must(func(tx store.Tx) error {
		for it, err := range tx.Scan(Prefix, "") {
			if err != nil {
				return err
			}
			for _, p := range []string{ipPrefix, freePrefix, freedPrefix, subnetPrefix, segmentPrefix, namePrefix, netPrefix, poolOfPrefix} {
				if len(it.Key) > len(p) && it.Key[:len(p)] == p && !isUnder(tx, it.Key) {
					t.Errorf("left over: %s", it.Key)
				}
			}
		}
		return nil
	})
	w.network(api.Network{Name: external, NICTag: external, VLAN: 7, Subnet: "10.0.0.0/24"})
}

// isUnder says whether a key is of the network under.
func isUnder(tx store.Tx, key string) bool {
	n, err := GetNetwork(tx, "under")
	return err == nil && (strings.Contains(key, n.UUID) || key == namePrefix+"under")
}

func TestListNetworks(t *testing.T) {
	w := rack(t)
	w.network(fabricNet("f", alice, "10.5.0.0/24", 9))
	w.network(api.Network{Name: "bobs", NICTag: external, Subnet: "10.8.0.0/24", Owners: []string{bob}})
	names := func(f NetworkFilter, limit int) (out []string) {
		w.must(func(tx store.Tx) error {
			out = nil
			for after := ""; ; {
				ns, next, err := ListNetworks(tx, f, after, limit)
				if err != nil {
					return err
				}
				for _, n := range ns {
					out = append(out, n.Name)
				}
				if after = next; next == "" {
					return nil
				}
			}
		})
		return out
	}
	for _, c := range []struct {
		f    NetworkFilter
		want int
	}{{NetworkFilter{}, 4}, {NetworkFilter{Owner: alice}, 3}, {NetworkFilter{Owner: bob}, 3}, {NetworkFilter{NICTag: external}, 2},
		{NetworkFilter{Fabric: ptr(true)}, 1}, {NetworkFilter{Fabric: ptr(false), Owner: alice}, 2}, {NetworkFilter{VNI: 9}, 1}, {NetworkFilter{Family: "ipv6"}, 0}} {
		all := names(c.f, 0)
		if len(all) != c.want {
			t.Errorf("%+v: %q", c.f, all)
		}
		if d := cmp.Diff(all, names(c.f, 1)); d != "" {
			t.Error(d)
		}
	}
}

func TestNextSubnet(t *testing.T) {
	w := rack(t)
	next := func(family string) netip.Prefix {
		return do(w, func(tx store.Tx) (netip.Prefix, error) { return NextSubnet(tx, alice, family) })
	}
	take := func(subnet string) {
		w.network(fabricNet("n"+hexOf(netip.MustParsePrefix(subnet).Addr())[:8]+fmt.Sprint(netip.MustParsePrefix(subnet).Bits()), alice, subnet, 9))
	}
	want := func(p netip.Prefix, s string) {
		t.Helper()
		if p.String() != s {
			t.Errorf("next subnet is %s, want %s", p, s)
		}
	}
	want(next("ipv4"), "192.168.128.0/24")
	take("192.168.128.0/24")
	take("192.168.129.64/26")
	take("192.168.130.0/23")
	want(next("ipv4"), "192.168.132.0/24")
	take("192.168.132.0/22")
	take("192.168.136.0/21")
	take("192.168.144.0/20")
	take("192.168.160.0/19")
	want(next("ipv4"), "192.168.192.0/24")
	take("192.168.192.0/18")
	want(next("ipv4"), "10.0.0.0/24")
	take("10.0.0.0/8")
	want(next("ipv4"), "172.16.0.0/24")
	take("172.16.0.0/12")
	w.refused(api.CodeConflict, "overlaps one", func(tx store.Tx) error { _, err := NextSubnet(tx, alice, "ipv4"); return err })
	six := next("ipv6")
	if six.Bits() != 64 || six.Addr().AsSlice()[0] != 0xfd {
		t.Errorf("got %s", six)
	}
	take(six.String())
	after := next("ipv6")
	want(after, netip.PrefixFrom(lastOf(six).Next(), 64).String())
	if bobs := do(w, func(tx store.Tx) (netip.Prefix, error) { return NextSubnet(tx, bob, "ipv6") }); bobs.Overlaps(netip.PrefixFrom(six.Addr(), 48)) {
		t.Errorf("%s is alice's", bobs)
	}
}
