package headnode

import (
	"context"
	"fmt"
	"testing"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// BenchmarkUplink is a server's external link that goes down and comes back, in a
// datacenter of 100 servers, ten of them with the external NIC tag, and 1,000 accounts
// with NICs on two servers each.
func BenchmarkUplink(b *testing.B) {
	s := benchServer(b)
	ctx := context.Background()
	update := func(f func(tx store.Tx) error) {
		b.Helper()
		if err := s.store.Update(ctx, f); err != nil {
			b.Fatal(err)
		}
	}
	uuid := func(kind string, n int) string { return fmt.Sprintf("%s-0000-4000-8000-%012d", kind, n) }
	server := func(n int) string { return uuid("00000000", n) }
	mac := func(n, nic int) string { return fmt.Sprintf("52:54:00:%02x:%02x:%02x", nic, n>>8, n&255) }
	nic := func(tx store.Tx, n api.NetworkNIC) error {
		provided, err := provides(tx, n.Server)
		if err != nil {
			return err
		}
		c, err := networks.CreateNIC(tx, s.now(), n, provided)
		_, err = s.nicChanged(tx, c, err)
		return err
	}
	const external, servers, accounts = 10, 100, 1000
	update(func(tx store.Tx) error {
		for _, t := range []api.NICTag{{Name: "underlay", MTU: 9000}, {Name: "external"}} {
			if _, err := networks.CreateNICTag(tx, t); err != nil {
				return err
			}
		}
		for _, n := range []api.Network{{Name: "underlay", NICTag: "underlay", Subnet: "10.77.0.0/16"}, {Name: "external", NICTag: "external", Subnet: "203.0.113.0/24", Gateway: "203.0.113.1"}} {
			if _, err := networks.CreateNetwork(tx, n); err != nil {
				return err
			}
		}
		_, err := networks.UpdateSettings(tx, api.FabricSettings{UnderlayTag: "underlay", NATNetwork: "external"})
		return err
	})
	for n := range servers {
		update(func(tx store.Tx) error {
			macs := []string{mac(n, 0), mac(n, 1), mac(n, 2)}
			_, err := inventory.Enrol(tx, s.now(), inventory.Enrolment{BootMAC: macs[0], Key: macs[0], Sysinfo: api.Sysinfo{UUID: server(n), NICs: []api.NIC{{MAC: macs[0]}}}})
			if err == nil {
				_, err = networks.SetNICTagUse(tx, server(n), api.NICTagUse{MAC: macs[1], NICTags: []string{"underlay"}}, macs, true)
			}
			if err == nil && n < external {
				_, err = networks.SetNICTagUse(tx, server(n), api.NICTagUse{MAC: macs[2], NICTags: []string{"external"}}, macs, true)
			}
			if err != nil {
				return err
			}
			return nic(tx, api.NetworkNIC{Underlay: true, Server: server(n), BelongsTo: server(n), BelongsToType: api.BelongsToServer, Owner: alice, Addresses: []api.NICAddress{{Network: "underlay"}}})
		})
	}
	for n := range accounts {
		update(func(tx store.Tx) error {
			owner := uuid("acc00000", n)
			v, err := fabric.CreateVLAN(tx, api.FabricVLAN{Owner: owner, VLAN: 2, Name: "web"}, s.now())
			if err != nil {
				return err
			}
			net, err := s.createFabricNetwork(tx, args{"owner": owner, "vlan": fmt.Sprint(v.VLAN)}, api.Network{Name: "web", InternetNAT: true})
			if err != nil {
				return err
			}
			for k := range 2 {
				err := nic(tx, api.NetworkNIC{Owner: owner, BelongsToType: api.BelongsToZone, BelongsTo: uuid("10000000", 2*n+k), Server: server((3*n + 50*k) % servers),
					Addresses: []api.NICAddress{{Network: net.UUID}}})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	down := []string{"external"}
	for b.Loop() {
		for _, tags := range [][]string{down, nil} {
			update(func(tx store.Tx) error { return s.noteLinks(tx, server(3), tags) })
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N)/2, "ms/change")
}
