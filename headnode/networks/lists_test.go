package networks

import (
	"fmt"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

// TestListsReadTogether: a list of hundreds asks the store a few times, not once or
// more for each thing in it.
func TestListsReadTogether(t *testing.T) {
	const many, atMost = 300, 7
	w := &world{t, openBolt(t), t0}
	w.tag(external, 0)
	w.tag(underlay, 0)
	w.must(func(tx store.Tx) error {
		s, err := GetSettings(tx)
		if err != nil {
			return err
		}
		s.UnderlayTag = underlay
		_, err = UpdateSettings(tx, s)
		return err
	})
	w.network(api.Network{Name: "n", NICTag: external, Subnet: "10.9.0.0/16"})
	w.network(api.Network{Name: "under", NICTag: underlay, Subnet: "10.8.0.0/16"})
	w.must(func(tx store.Tx) error {
		for i := range many {
			server := id(0x1000 + i)
			for _, n := range []api.NetworkNIC{
				with(on("n"), func(n *api.NetworkNIC) { n.Server = server1 }),
				{BelongsTo: server, BelongsToType: api.BelongsToServer, Server: server, Underlay: true, Addresses: []api.NICAddress{{Network: "under"}}},
			} {
				if _, err := CreateNIC(tx, t0, n, nil); err != nil {
					return err
				}
			}
			sub := fmt.Sprintf("10.%d.%d.0/24", 64+i/256, i%256)
			for _, n := range []api.Network{
				{Name: fmt.Sprint("small-", i), NICTag: external, VLAN: 7, Subnet: sub},
				{Name: fmt.Sprint("fabric-", i), Fabric: true, Owners: []string{alice}, VLAN: 2, VNI: 300, Subnet: sub},
			} {
				if _, err := CreateNetwork(tx, n); err != nil {
					return err
				}
			}
			if i%10 > 0 {
				continue
			}
			p := api.NetworkPool{Name: fmt.Sprint("pool-", i), Networks: []string{"n", fmt.Sprint("small-", i)}}
			if _, err := CreatePool(tx, p); err != nil {
				return err
			}
		}
		return nil
	})
	for name, list := range map[string]func(store.Tx) (int, error){
		"NICs": func(tx store.Tx) (int, error) {
			l, _, err := ListNICs(tx, NICFilter{}, "", 0)
			return len(l) - many, err
		},
		"NICs of a server": func(tx store.Tx) (int, error) { l, err := NICsOfServer(tx, server1); return len(l), err },
		"found NICs":       func(tx store.Tx) (int, error) { l, err := SearchNICs(tx, "0"); return len(l) - many, err },
		"addresses":        func(tx store.Tx) (int, error) { l, _, err := ListIPs(tx, "n", "", 0); return len(l), err },
		"underlay":         func(tx store.Tx) (int, error) { l, err := Underlays(tx); return len(l), err },
		"fabric networks":  func(tx store.Tx) (int, error) { l, err := FabricNetworks(tx, alice); return len(l), err },
		"networks on a tag": func(tx store.Tx) (n int, err error) {
			err = eachOnTag(tx, external, func(network) bool { n++; return true })
			return n - 1, err
		},
		"pools": func(tx store.Tx) (int, error) { l, _, err := ListPools(tx, "", 0); return 10 * len(l), err },
	} {
		n := 0
		trips := storetest.Trips(t, w.s, func(tx store.Tx) (err error) { n, err = list(tx); return err })
		if n != many || trips > atMost {
			t.Errorf("%s: %d of them with %d requests, want %d with at most %d", name, n, trips, many, atMost)
		}
	}
}
