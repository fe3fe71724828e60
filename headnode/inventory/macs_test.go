package inventory

import (
	"encoding/json"
	"slices"
	"strconv"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// A NIC on USB, a locally administered MAC and a MAC that two servers list
// identify neither of them, raise no alerts, and take nobody's boots.
func TestMACsThatIdentifyNobody(t *testing.T) {
	const local, dongle, shared = "be:3a:f2:b6:05:9f", "00:e0:4c:68:00:01", "3c:ec:ef:00:00:ff"
	st := newStore(t)
	at := func(uuid, key, boot, own string) Outcome {
		return enrolAs(t, st, Enrolment{BootID: "b-" + key + boot, BootMAC: boot, Started: t0, Key: key, Sysinfo: api.Sysinfo{UUID: uuid, NICs: []api.NIC{
			{MAC: own, Bus: "pci"}, {MAC: local, Bus: "pci"}, {MAC: dongle, Bus: api.BusUSB}, {MAC: shared, Bus: "pci"}}}})
	}
	for _, m := range []struct{ uuid, key, mac string }{{uuidA, "kA", macA}, {uuidB, "kB", macB}} {
		at(m.uuid, m.key, m.mac, m.mac)
		if err := on(t, st, m.uuid, approve("")); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		for _, m := range []struct{ uuid, key, mac string }{{uuidA, "kA", macA}, {uuidB, "kB", macB}} {
			out := at(m.uuid, m.key, m.mac, m.mac)
			if !out.Granted || out.Record.UUID != m.uuid {
				t.Fatalf("%s: %+v", m.key, out)
			}
		}
		for id, mac := range map[string]string{uuidA: macA, uuidB: macB} {
			r := record(t, st, id)
			if got := Alerts(r, Observed{}, nil); len(got) != 0 || !slices.Equal(r.MACs, []string{mac}) {
				t.Errorf("%s has %v, alerts %q", id, r.MACs, got)
			}
		}
	}
	// A machine that boots from one of them, and is neither, is a newcomer.
	for i, boot := range []string{local, dongle, shared} {
		third := "cccccccc-0000-4000-8000-00000000000" + strconv.Itoa(i)
		if out := at(third, "kC"+boot, boot, macC); out.Record.UUID != third || out.Refused != nil || out.Granted {
			t.Errorf("from %s: %+v", boot, out)
		}
	}
	// One dongle that boots each server in turn: the key tells them apart.
	for range 2 {
		for _, m := range []struct{ uuid, key, mac string }{{uuidA, "kA", macA}, {uuidB, "kB", macB}} {
			if out := at(m.uuid, m.key, dongle, m.mac); !out.Granted || out.Record.UUID != m.uuid {
				t.Errorf("%s from the dongle: %+v", m.key, out)
			}
		}
	}
}

// A locally administered MAC identifies its own boot, as every MAC of the lab does.
func TestLocalMACIdentifiesItsOwnBoot(t *testing.T) {
	const local = "52:54:00:00:00:10"
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", local)
	if err := on(t, st, local, approve("")); err != nil {
		t.Fatal(err)
	}
	if out := enrol(t, st, uuidA, "b2", "k2", local); !out.Granted || out.Record.UUID != uuidA {
		t.Errorf("got %+v", out)
	}
	if out := enrol(t, st, uuidA, "b3", "k3", "52:54:00:00:00:11", local); refused(out) != api.CodeUUIDCollision || out.Record.UUID == uuidA {
		t.Errorf("another machine that lists it: %+v", out)
	}
}

// An operator's reboot of a server that is not set up explains another key, once,
// and not that of a boot which began before it.
func TestRebootBeforeSetup(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA)
	if err := on(t, st, uuidA, approve("")); err != nil {
		t.Fatal(err)
	}
	enrol(t, st, uuidA, "b1", "k1", macA)
	reported := func(rep api.Report) {
		update(t, st, func(tx store.Tx) error {
			_, err := Observe(tx, uuidA, Sync{Key: "k1", Request: api.SyncRequest{Report: rep}})
			return err
		})
	}
	reported(api.Report{BootID: "b1"})
	as := func(boot, key string, syncing bool, later int) Outcome {
		return enrolAs(t, st, Enrolment{BootID: boot, BootMAC: macA, Started: t0.AddDate(0, 0, later), Key: key,
			Sysinfo: api.Sysinfo{UUID: uuidA, NICs: []api.NIC{{MAC: macA}}}, Syncing: func(Record) bool { return syncing }})
	}
	if out := as("b0", "thief", true, 0); refused(out) != api.CodeKeyMismatch {
		t.Fatalf("nothing was asked for: %+v", out)
	}
	if err := on(t, st, uuidA, func(tx store.Tx, r *Record) error {
		return AskPower(tx, t0.AddDate(0, 0, 1), r, "reboot", "")
	}); err != nil {
		t.Fatal(err)
	}
	if out := as("b0", "thief", false, 0); refused(out) != api.CodeKeyMismatch {
		t.Errorf("a boot from before the order: %+v", out)
	}
	if out := as("b2", "k2", true, 2); refused(out) != api.CodeKeyMismatch {
		t.Errorf("the key still syncs, and its holder did not say that it reboots: %+v", out)
	}
	reported(api.Report{BootID: "b1", Power: &api.PowerReport{ID: record(t, st, uuidA).Power.ID}})
	if out := as("b2", "k2", true, 2); !out.Granted || out.Record.Power != nil {
		t.Errorf("its holder said that it reboots: %+v", out)
	}
	if out := as("b3", "k3", false, 3); refused(out) != api.CodeKeyMismatch {
		t.Errorf("once more: %+v", out)
	}
}

// Accepting a machine with other hardware keeps what an operator had set of the
// server, and the machine that it was cannot take it back.
func TestAcceptOtherHardware(t *testing.T) {
	k := newRack(t, "pinned")
	out := k.enrol("new", macB, uuidA, macZ)
	if refused(out) != api.CodeUUIDCollision {
		t.Fatalf("got %+v", out)
	}
	old := out.Record.UUID
	if err := on(t, k.st, uuidA, acceptKey(macB, false)); err != nil {
		t.Fatal(err)
	}
	if out = k.enrol("new", macB, uuidA, macZ); !out.Granted || out.Record.UUID != uuidA || out.Record.Hostname != "cn0" {
		t.Errorf("the machine: %+v", out)
	}
	if r := record(t, k.st, uuidA); !slices.Equal(r.MACs, []string{macB, macZ}) || r.SetUp || r.Pin != "" {
		t.Errorf("the record: %+v", r)
	}
	k.syncing = true
	if out = k.enrol("its", macA, uuidA, macX); refused(out) != api.CodeUUIDCollision || out.Record.UUID == uuidA || out.Record.UUID == old {
		t.Errorf("the machine it was: %+v", out)
	}
}

// What an earlier release stored is read, and what it held keeps being held.
func TestMigrate(t *testing.T) {
	const placeholder = "03000200-0400-0500-0006-000700080009"
	st := newStore(t)
	put := func(key, value string) {
		update(t, st, func(tx store.Tx) error { return tx.Put(key, json.RawMessage(value)) })
	}
	put("server/"+uuidA, `{"uuid":"`+uuidA+`","hostname":"cn0","macs":["`+macA+`","`+macA2+`"],"approved":true,"set_up":true,"key":"k1","pin":"k1","setup":{"id":"s","pool":"zones","layout":"mirror"},
		"claim":{"macs":["`+macB+`"],"sysinfo":{"uuid":"`+uuidA+`","nics":[]},"boot_id":"b2"},"refused":["`+macC+`"],
		"moves":[{"mac":"`+macX+`","other":"`+uuidB+`"}],"lost":[{"mac":"`+macY+`","other":"`+uuidB+`","done":true}],
		"mismatch":{"key":"k9","mac":"`+macA+`","boot_id":"b3"},"revision":"r"}`)
	put("server/"+placeholder, `{"uuid":"`+placeholder+`","hostname":"cn1","macs":["`+macZ+`"],"approved":true,"revision":"r"}`)
	put("hostname/cn0", `"`+uuidA+`"`)
	put("hostname/cn1", `"`+placeholder+`"`)
	for mac, owner := range map[string]string{macA: `{"uuid":"` + uuidA + `","role":"owned"}`, macA2: `{"uuid":"` + uuidA + `","role":"owned"}`,
		macB: `{"uuid":"` + uuidA + `","role":"claim"}`, macC: `{"uuid":"` + uuidA + `","role":"refused"}`, macZ: `{"uuid":"` + placeholder + `","role":"owned"}`} {
		put("mac/"+mac, owner)
	}
	var first string
	for range 2 {
		update(t, st, Migrate)
		var all string
		update(t, st, func(tx store.Tx) error {
			all = ""
			for it, err := range tx.Scan("", "") {
				if err != nil {
					return err
				}
				all += it.Key + " " + string(it.Value) + "\n"
			}
			return nil
		})
		if first == "" {
			first = all
		} else if all != first {
			t.Errorf("run again it changed\n%s\ninto\n%s", first, all)
		}
	}
	r := record(t, st, "cn0")
	if r.Pin != "k1" || !r.SetUp || r.Setup.Layout != "mirror" || !r.OtherKey() || !slices.Equal(r.MACs, []string{macA, macA2}) {
		t.Errorf("record %+v", r)
	}
	if c := record(t, st, macB); c.UUID == uuidA || c.Claims != uuidA || !c.Undecided() {
		t.Errorf("the machine that claimed it: %+v", c)
	}
	if c := record(t, st, macC); c.UUID == uuidA || !c.Rejected {
		t.Errorf("the machine that was decided against: %+v", c)
	}
	if out := enrol(t, st, uuidA, "b4", "k1", macA2, macA); !out.Granted || out.Record.UUID != uuidA {
		t.Errorf("the server with its key: %+v", out)
	}
	if out := enrol(t, st, uuidA, "b5", "k5", macC); refused(out) != api.CodeUUIDCollision {
		t.Errorf("the machine that was decided against: %+v", out)
	}
	// A record that has a placeholder for its UUID keeps it.
	if out := enrol(t, st, placeholder, "b6", "k6", macZ); !out.Granted || out.Record.UUID != placeholder {
		t.Errorf("the server with a placeholder: %+v", out)
	}
	if out := enrol(t, st, placeholder, "b7", "k7", macY); out.Record.UUID != MadeUUID(macY, 0) || out.Refused != nil {
		t.Errorf("another with the same placeholder: %+v", out)
	}
}
