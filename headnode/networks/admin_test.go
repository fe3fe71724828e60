package networks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// adminNet is an admin network with everything that its addresses can be.
func adminNet() (api.Network, []Held) {
	return api.Network{Subnet: "10.99.99.0/24", ProvisionStart: "10.99.99.1", ProvisionEnd: "10.99.99.20",
			Gateway: "10.99.99.1", Resolvers: []string{"10.99.99.2", "192.0.2.1"}},
		[]Held{{Address: addr("10.99.99.7"), Use: UseHeadNode}, {Address: addr("10.99.99.3"), Use: UseTimeServer},
			{Address: addr("10.99.99.4"), Use: UseLease, MAC: "00:16:3e:00:00:04", Server: server1},
			{Address: addr("10.99.99.200"), Use: UseLease, MAC: "00:16:3e:00:00:c8"}}
}

// takeOver makes the admin network and gives the clashes and what is told.
func (w *world) takeOver() (clashes []Held, told []string) {
	w.Helper()
	n, held := adminNet()
	w.must(func(tx store.Tx) (err error) {
		clashes, told, err = TakeOverAdmin(tx, w.now, n, held)
		return err
	})
	return clashes, told
}

func (w *world) admin() Admin {
	w.Helper()
	a, found := Admin{}, false
	w.must(func(tx store.Tx) (err error) { a, found, err = GetAdmin(tx); return err })
	if !found {
		w.Fatal("there is no admin network")
	}
	return a
}

// TestAdminGivesOutNothingTwice: what the gateway, a name server, a time server, the
// head node and leases have is given to no NIC, asked for or not.
func TestAdminGivesOutNothingTwice(t *testing.T) {
	w := newWorld(t)
	if clashes, told := w.takeOver(); len(clashes)+len(told) > 0 {
		t.Fatalf("clashes %v, told %q", clashes, told)
	}
	for ip, words := range map[string]string{
		"10.99.99.7": "10.99.99.7 of network admin is the address of the head node", "10.99.99.3": "time server",
		"10.99.99.4": "leased to 00:16:3e:00:00:04 of server " + server1, "10.99.99.200": "leased to 00:16:3e:00:00:c8",
	} {
		w.refused(api.CodeInUse, words, w.create(on("admin="+ip)))
		w.refused(api.CodeInUse, words, func(tx store.Tx) error {
			_, err := UpdateIP(tx, w.now, AdminName, ip, api.IPUpdate{Reserved: ptr(true)})
			return err
		})
	}
	w.refused(api.CodeConflict, "is the gateway", w.create(on("admin=10.99.99.1")))
	var got []string
	for range 15 {
		got = append(got, strings.TrimPrefix(ips(w.nic(on("admin"))), "10.99.99."))
	}
	if want := "5 6 8 9 10 11 12 13 14 15 16 17 18 19 20"; strings.Join(got, " ") != want {
		t.Errorf("NICs got %v, want %s", got, want)
	}
	w.refused(api.CodeConflict, "no free address|nereid network update admin --start FIRST --end LAST", w.create(on("admin")))
	for ip, want := range map[string]api.IPAddress{
		"10.99.99.7": {BelongsToType: "head node"},
		"10.99.99.4": {BelongsToType: "server", BelongsTo: server1, MAC: "00:16:3e:00:00:04"},
	} {
		shown := do(w, func(tx store.Tx) (api.IPAddress, error) { return GetIP(tx, AdminName, ip) })
		want.IP, want.Network = ip, w.admin().Network().UUID
		if shown != want {
			t.Errorf("%s is shown as %+v, want %+v", ip, shown, want)
		}
	}
}

// TestAdminLeases: DHCP gets what no NIC has, NICs get what DHCP gave back, after it
// has rested.
func TestAdminLeases(t *testing.T) {
	w := newWorld(t)
	w.takeOver()
	a := w.admin()
	nic := w.nic(on("admin")) // .5
	none := func(netip.Addr) bool { return false }
	next := func() string {
		ip := do(w, func(tx store.Tx) (netip.Addr, error) { ip, _, _, err := a.Next(tx, none); return ip, err })
		return ip.String()
	}
	if got := next(); got != "10.99.99.6" {
		t.Errorf("next address %s, want 10.99.99.6", got)
	}
	for ip, want := range map[string]bool{"10.99.99.1": false, "10.99.99.4": false, "10.99.99.5": false, "10.99.99.6": true, "10.99.99.21": false} {
		if got := do(w, func(tx store.Tx) (bool, error) { return a.Free(tx, addr(ip)) }); got != want {
			t.Errorf("%s free: %v, want %v", ip, got, want)
		}
	}
	w.must(func(tx store.Tx) error { return a.Take(tx, addr("10.99.99.6"), "00:16:3e:00:00:06", "") })
	if got := next(); got != "10.99.99.8" {
		t.Errorf("next address %s, want 10.99.99.8", got)
	}
	w.must(func(tx store.Tx) error { return a.Give(tx, addr("10.99.99.6"), w.now) })
	w.must(func(tx store.Tx) error { return a.Give(tx, addr("10.99.99.5"), w.now) }) // a NIC's: nothing happens
	if got := ips(w.nic(on("admin"))); got != "10.99.99.8" {
		t.Errorf("a NIC got %s while 10.99.99.6 rests, want 10.99.99.8", got)
	}
	w.now = w.now.Add(Rest)
	if got := ips(w.nic(on("admin"))); got != "10.99.99.6" {
		t.Errorf("a NIC got %s, want 10.99.99.6, which has rested", got)
	}
	if n := do(w, func(tx store.Tx) (int, error) { return a.Others(tx) }); n != 3 {
		t.Errorf("NICs have %d addresses of the range, want 3", n) // 5, 6, 8
	}
	w.drop(nic.MAC)
	// Nor does DHCP get what a NIC may send from, whether it was given back or not.
	allows := on("admin=10.99.99.100")
	allows.AllowedIPs = []string{"10.99.99.5", "10.99.99.8/29"}
	allows = w.nic(allows)
	if got := next(); got != "10.99.99.16" {
		t.Errorf("next address %s, want 10.99.99.16", got)
	}
	for ip, want := range map[string]bool{"10.99.99.5": false, "10.99.99.9": false, "10.99.99.16": true} {
		if got := do(w, func(tx store.Tx) (bool, error) { return a.Free(tx, addr(ip)) }); got != want {
			t.Errorf("%s free: %v, want %v", ip, got, want)
		}
	}
	w.drop(allows.MAC)
	if got := next(); got != "10.99.99.9" {
		t.Errorf("next address %s, want 10.99.99.9", got)
	}
}

// TestAdminStays: nothing but its range, gateway and the like changes.
func TestAdminStays(t *testing.T) {
	w := newWorld(t)
	w.tag(external, 0)
	w.takeOver()
	again := w.admin()
	w.takeOver()
	if w.admin().Network().Revision != again.Network().Revision {
		t.Error("the second start changed the network")
	}
	w.refused(api.CodeConflict, "keeps its name", w.update(AdminName, api.NetworkUpdate{Name: ptr("boot")}))
	w.refused(api.CodeConflict, "stays", func(tx store.Tx) error { _, err := DeleteNetwork(tx, AdminName); return err })
	for words, u := range map[string]api.NetworkUpdate{
		"10.99.99.4 cannot be the gateway|00:16:3e:00:00:04":  {Gateway: ptr("10.99.99.4")},
		"10.99.99.4 cannot be a resolver|00:16:3e:00:00:04":   {Resolvers: &[]string{"10.99.99.4"}},
		"10.99.99.200 cannot be a resolver|00:16:3e:00:00:c8": {Routes: &map[string]string{"192.0.2.0/24": "10.99.99.200"}},
	} {
		w.refused(api.CodeInUse, words, w.update(AdminName, u))
	}
	w.must(func(tx store.Tx) error {
		_, err := UpdateIP(tx, w.now, AdminName, "10.99.99.9", api.IPUpdate{Reserved: ptr(true), Owner: ptr(alice)})
		return err
	})
	w.refused(api.CodeInUse, "10.99.99.9 cannot be the gateway|reserved for account "+alice, w.update(AdminName, api.NetworkUpdate{Gateway: ptr("10.99.99.9")}))
	for _, n := range []api.Network{
		{Name: "twin", NICTag: AdminTag, Subnet: "10.99.99.0/25"},
		{Name: "twin", NICTag: external, VLAN: 5, Subnet: "10.99.0.0/16"},
	} {
		w.refused(api.CodeConflict, "overlaps 10.99.99.0/24 of network admin", func(tx store.Tx) error { _, err := CreateNetwork(tx, n); return err })
	}
	w.must(w.update(AdminName, api.NetworkUpdate{ProvisionStart: ptr("10.99.99.50"), ProvisionEnd: ptr("10.99.99.60")}))
	if got := ips(w.nic(on("admin"))); got != "10.99.99.50" {
		t.Errorf("after the range changed a NIC got %s", got)
	}
}

// TestAdminTakeOver: a store in which an operator had made a network over the admin
// network, and used its name for another.
func TestAdminTakeOver(t *testing.T) {
	w := newWorld(t)
	w.tag(external, 0)
	w.network(api.Network{Name: "admin", NICTag: external, Subnet: "10.0.0.0/24"})
	w.network(api.Network{Name: "boot", NICTag: AdminTag, Subnet: "10.99.99.0/24"})
	w.network(api.Network{Name: "wide", NICTag: external, VLAN: 9, Subnet: "10.99.0.0/16"})
	cgn := w.network(api.Network{Name: "cgn", NICTag: external, VLAN: 10, Subnet: "192.0.2.0/24"})
	w.must(func(tx store.Tx) error { // as it was possible before
		n, err := normal(cgn)
		if err == nil {
			err = unplaceNetwork(tx, n)
		}
		n.subnet, n.Subnet = netip.MustParsePrefix("100.64.1.0/24"), "100.64.1.0/24"
		n.first, n.last = hosts(n.subnet)
		n.ProvisionStart, n.ProvisionEnd = n.first.String(), n.last.String()
		if err == nil {
			err = placeNetwork(tx, n)
		}
		if err == nil {
			err = store.Put(tx, netPrefix+n.UUID, n.Network)
		}
		for s, serr := range tx.Scan(freePrefix+n.UUID+"/", "") {
			if err == nil && serr == nil {
				err = tx.Delete(s.Key)
			}
		}
		if err == nil {
			err = addFree(tx, n, n.first, n.last)
		}
		return err
	})
	var nics []api.NetworkNIC
	for range 8 { // .1 to .8: the gateway's address, and the head node's
		nics = append(nics, w.nic(on("boot")))
	}
	clashes, told := w.takeOver()
	var got []string
	for _, c := range clashes {
		got = append(got, c.Address.String())
	}
	slices.Sort(got)
	if want := []string{"10.99.99.3", "10.99.99.4", "10.99.99.7"}; !slices.Equal(got, want) {
		t.Errorf("clashes %v, want %v", got, want)
	}
	all := strings.Join(told, "\n")
	over := do(w, func(tx store.Tx) ([]string, error) { return Overlapping(tx) })
	if len(over) != 2 || !strings.Contains(over[0]+over[1], "Network wide (10.99.0.0/16) overlaps 10.99.99.0/24 of network admin") ||
		!strings.Contains(over[0]+over[1], "Network cgn (100.64.1.0/24) overlaps 100.64.0.0/10") {
		t.Errorf("overlapping: %q", over)
	}
	for _, want := range []string{"network boot was made over the admin network", "named admin-1 now", "10.99.99.7 is the address of the head node, and is the address of NIC " + nics[6].MAC} {
		if !strings.Contains(all, want) {
			t.Errorf("told %q, want %q in it", all, want)
		}
	}
	a := w.admin().Network()
	if a.Name != AdminName || a.ProvisionEnd != "10.99.99.20" || a.Gateway != "10.99.99.1" || a.UUID != nics[0].Addresses[0].Network {
		t.Errorf("admin network %+v", a)
	}
	if got := ips(w.nic(on("admin"))); got != "10.99.99.9" {
		t.Errorf("a NIC got %s", got)
	}
	if n := do(w, func(tx store.Tx) (api.Network, error) { return GetNetwork(tx, "admin-1") }); n.Subnet != "10.0.0.0/24" {
		t.Errorf("the network that was named admin: %+v", n)
	}
}

func TestTransitIsTaken(t *testing.T) {
	w := rack(t)
	for _, subnet := range []string{"100.64.0.0/10", "100.100.1.0/24", "100.0.0.0/8"} {
		w.refused(api.CodeConflict, "overlaps 100.64.0.0/10|routers", func(tx store.Tx) error {
			_, err := CreateNetwork(tx, api.Network{Name: "cgn", NICTag: external, Subnet: subnet})
			return err
		})
	}
	w.network(api.Network{Name: "next", NICTag: external, Subnet: "100.128.0.0/24"})
}

// TestOldGatewayRests: neither it nor a former resolver or next hop is the next
// address given out.
func TestOldGatewayRests(t *testing.T) {
	w := rack(t)
	w.must(w.update(external, api.NetworkUpdate{Resolvers: &[]string{"10.0.0.2"}, Routes: &map[string]string{"192.0.2.0/24": "10.0.0.3"}}))
	w.must(w.update(external, api.NetworkUpdate{Gateway: ptr("10.0.0.254"), Resolvers: &[]string{}, Routes: &map[string]string{}}))
	if got := ips(w.nic(on(external))); got != "10.0.0.4" {
		t.Errorf("after the gateway moved a NIC got %s, want 10.0.0.4", got)
	}
	w.now = w.now.Add(Rest + time.Second)
	for _, want := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.5"} {
		if got := ips(w.nic(on(external))); got != want {
			t.Errorf("after the rest a NIC got %s, want %s", got, want)
		}
	}
	// The range grows over a former gateway in the same change.
	w.must(w.update(external, api.NetworkUpdate{ProvisionStart: ptr("10.0.0.6"), ProvisionEnd: ptr("10.0.0.20"), Gateway: ptr("10.0.0.30")}))
	w.must(w.update(external, api.NetworkUpdate{ProvisionStart: ptr("10.0.0.30"), ProvisionEnd: ptr("10.0.0.40"), Gateway: ptr("10.0.0.254")}))
	if got := ips(w.nic(on(external))); got != "10.0.0.31" {
		t.Errorf("a NIC got %s, want 10.0.0.31", got)
	}
}

// TestAdminCost: what DHCP asks does not grow with what is there.
func TestAdminCost(t *testing.T) {
	w := newWorld(t)
	w.must(func(tx store.Tx) error {
		_, _, err := TakeOverAdmin(tx, w.now, api.Network{Subnet: "10.0.0.0/16"}, nil)
		return err
	})
	a := w.admin()
	w.must(func(tx store.Tx) error {
		for i := range 3000 {
			ip, _, _, err := a.Next(tx, func(netip.Addr) bool { return false })
			if err == nil {
				err = a.Take(tx, ip, fmt.Sprintf("00:16:3e:00:%02x:%02x", i>>8, i&255), "")
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.must(func(tx store.Tx) error {
		c := &countingTx{Tx: tx}
		f := storetest.FailingTx(c, 2) // the third write fails
		ip, _, _, err := a.Next(f, func(netip.Addr) bool { return false })
		if err == nil {
			err = a.Take(f, ip, "00:16:3e:01:00:00", "")
		}
		if c.reads > 6 {
			t.Errorf("a lease takes %d reads, want at most 6", c.reads)
		}
		return err
	})
}
