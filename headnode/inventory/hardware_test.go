package inventory

import (
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// TestHardwareApart: what a release before stored in one value is two afterwards, and a
// report neither reads nor writes the hardware.
func TestHardwareApart(t *testing.T) {
	st := newStore(t)
	info := api.Sysinfo{UUID: uuidA, MemoryBytes: 1 << 30, NICs: []api.NIC{{MAC: macA}}, Disks: []api.Disk{}}
	enrol(t, st, uuidA, "b1", "k", macA)
	update(t, st, func(tx store.Tx) error {
		if err := tx.Delete(hardwarePrefix + uuidA); err != nil {
			return err
		}
		return store.Put(tx, observedPrefix+uuidA, Observed{Report: &api.Report{BootID: "b1", Hostname: "cn"}, Sysinfo: &info, Digest: "d1"})
	})
	for range 2 {
		update(t, st, Migrate)
	}
	var o Observed
	read := func() (raw Observed, hardware bool) {
		update(t, st, func(tx store.Tx) (err error) {
			if o, err = GetObserved(tx, uuidA); err != nil {
				return err
			}
			if raw, _, err = store.Lookup[Observed](tx, observedPrefix+uuidA); err != nil {
				return err
			}
			hardware, err = store.Has(tx, hardwarePrefix+uuidA)
			return err
		})
		return raw, hardware
	}
	raw, hardware := read()
	if raw.Sysinfo != nil || !hardware || o.Report == nil || o.Report.Hostname != "cn" || o.Digest != "d1" || !equalJSON(*o.Sysinfo, info) {
		t.Fatalf("after Migrate: report's value %+v, hardware apart %t, together %+v", raw, hardware, o)
	}

	// Without the hardware's key, whoever reads or writes it would show.
	update(t, st, func(tx store.Tx) error { return store.Put(tx, hardwarePrefix+uuidA, "no hardware") })
	update(t, st, func(tx store.Tx) error {
		s := Sync{Request: api.SyncRequest{InventoryDigest: "d1", Report: api.Report{BootID: "b1", Hostname: "other"}}, Key: "k"}
		r, err := Get(tx, uuidA)
		if err != nil {
			return err
		}
		news, need, err := Look(tx, r, &s)
		if err != nil || !news {
			t.Errorf("another report is news: %t %v", news, err)
		}
		if need {
			t.Error("the inventory is needed")
		}
		seen, err := Observe(tx, uuidA, s)
		if seen.NeedInventory {
			t.Error("the inventory is asked for")
		}
		return err
	})
	update(t, st, func(tx store.Tx) error {
		text, err := store.Get[string](tx, hardwarePrefix+uuidA)
		if err != nil || text != "no hardware" {
			t.Errorf("a report wrote the hardware: %q %v", text, err)
		}
		if o, err = getReport(tx, uuidA); err != nil || o.Report.Hostname != "other" {
			t.Errorf("report %+v %v", o, err)
		}
		return nil
	})
	update(t, st, func(tx store.Tx) error {
		if err := putHardware(tx, uuidA, &info); err != nil {
			return err
		}
		r, err := Get(tx, uuidA)
		if err == nil {
			_, err = Forget(tx, r)
		}
		return err
	})
	if _, hardware := read(); hardware {
		t.Error("the hardware outlives the server's record")
	}
}
