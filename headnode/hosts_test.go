package headnode

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/placement"
	"nereid/headnode/store"
)

// What placement has in memory follows each change of a server, although it reads again
// only as much as changed.
func TestHostsFollow(t *testing.T) {
	h := startHead(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var kept hosts
	kept.follow(ctx, h.store)
	uuid := func(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }
	record := func(n int) inventory.Record {
		return inventory.Record{UUID: uuid(n), Hostname: fmt.Sprint("cn", n), MACs: []string{fmt.Sprintf("52:54:00:00:00:%02x", n)}, Approved: true, SetUp: true}
	}
	observed := func(health string, memory int64) inventory.Observed {
		return inventory.Observed{Sysinfo: &api.Sysinfo{MemoryBytes: memory}, Report: &api.Report{Platform: "P", Pools: []api.Pool{{Name: "zones", Health: health, SizeBytes: 1 << 40, System: true}}}}
	}
	for _, c := range []struct {
		what  string
		count int
		do    func(tx store.Tx) error
	}{
		{"nothing", 0, func(store.Tx) error { return nil }},
		{"a server", 1, func(tx store.Tx) error { return inventory.Put(tx, record(1)) }},
		{"it reports", 1, func(tx store.Tx) error { return inventory.PutObserved(tx, uuid(1), observed("ONLINE", 1<<30)) }},
		{"two more", 3, func(tx store.Tx) error {
			if err := inventory.Put(tx, record(2)); err != nil {
				return err
			}
			return inventory.Put(tx, record(3))
		}},
		{"a NIC tag", 3, func(tx store.Tx) error {
			_, err := networks.CreateNICTag(tx, api.NICTag{Name: "external"})
			if err == nil {
				_, err = networks.SetNICTagUse(tx, uuid(1), api.NICTagUse{MAC: record(1).MACs[0], NICTags: []string{"external"}}, nil, true)
			}
			return err
		}},
		{"an instance", 3, func(tx store.Tx) error {
			_, err := instances.Create(tx, h.clock(), instances.New{Image: api.ImageSpec{UUID: debian.UUID}, Instance: api.Instance{UUID: uuid(9), Image: debian.UUID, Owner: alice, Name: "a", Server: uuid(1), Limits: api.Limits{MemoryMiB: 64}}})
			return err
		}},
		{"it is reserved, and asked for a reboot", 3, func(tx store.Tx) error {
			r := record(1)
			r.Reserved, r.Power = true, &api.PowerSpec{Action: "reboot"}
			return inventory.Put(tx, r)
		}},
		{"neither any more, and its pool fails", 3, func(tx store.Tx) error {
			if err := inventory.Put(tx, record(1)); err != nil {
				return err
			}
			return inventory.PutObserved(tx, uuid(1), observed("FAULTED", 2<<30))
		}},
		{"one is forgotten", 2, func(tx store.Tx) error { _, err := inventory.Forget(tx, record(1)); return err }},
		{"it is back", 3, func(tx store.Tx) error { return inventory.Put(tx, record(1)) }},
	} {
		if err := h.store.Update(ctx, c.do); err != nil {
			t.Fatal(c.what, err)
		}
		var fresh hosts
		var all [2][]placement.Server
		for i, hs := range []*hosts{&kept, &fresh} {
			var err error
			if all[i], err = hs.all(ctx, h.store); err != nil {
				t.Fatal(c.what, err)
			}
			slices.SortFunc(all[i], func(a, b placement.Server) int { return cmp.Compare(a.UUID, b.UUID) })
		}
		if len(all[1]) != c.count || !reflect.DeepEqual(all[0], all[1]) && c.count > 0 {
			t.Errorf("%s: in memory\n%+v, stored\n%+v", c.what, all[0], all[1])
		}
	}
}
