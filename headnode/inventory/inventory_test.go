package inventory

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

const (
	uuidA = "11111111-2222-3333-4444-555555555555"
	uuidB = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	macA  = "3c:ec:ef:00:00:0a"
	macA2 = "3c:ec:ef:00:00:1a"
	macB  = "3c:ec:ef:00:00:0b"
	macC  = "3c:ec:ef:00:00:0c"
)

var t0 = time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC)

func newStore(t *testing.T) store.Store {
	t.Helper()
	st, err := store.OpenBolt(context.Background(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func update(t *testing.T, st store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := st.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func enrol(t *testing.T, st store.Store, uuid, boot, key string, macs ...string) Outcome {
	t.Helper()
	info := api.Sysinfo{UUID: uuid}
	for _, m := range macs {
		info.NICs = append(info.NICs, api.NIC{MAC: m})
	}
	return enrolAs(t, st, Enrolment{BootID: boot, BootMAC: macs[0], Started: t0, Sysinfo: info, Key: key})
}

func enrolAs(t *testing.T, st store.Store, e Enrolment) (out Outcome) {
	t.Helper()
	update(t, st, func(tx store.Tx) (err error) {
		out, err = Enrol(tx, t0, e)
		return err
	})
	return out
}

// on runs fn on a server and writes nothing but what fn writes.
func on(t *testing.T, st store.Store, id string, fn func(store.Tx, *Record) error) error {
	t.Helper()
	return st.Update(context.Background(), func(tx store.Tx) error {
		r, err := Find(tx, id)
		if err != nil {
			return err
		}
		return fn(tx, &r)
	})
}

func approve(mac string) func(store.Tx, *Record) error {
	return func(tx store.Tx, r *Record) error {
		_, err := Approve(tx, t0, r, mac, false)
		return err
	}
}

func acceptKey(mac string, syncing bool) func(store.Tx, *Record) error {
	return func(tx store.Tx, r *Record) error {
		_, err := AcceptKey(tx, t0, r, mac, syncing)
		return err
	}
}

func record(t *testing.T, st store.Store, id string) Record {
	t.Helper()
	var r Record
	err := st.View(context.Background(), func(tx store.Tx) (err error) {
		r, err = Find(tx, id)
		return err
	})
	if err != nil {
		t.Fatalf("find %s: %v", id, err)
	}
	return r
}

func code(err error) api.Code {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

func refused(o Outcome) api.Code {
	if o.Refused == nil {
		return ""
	}
	return o.Refused.Code
}

func TestEnrolThenApprove(t *testing.T) {
	st := newStore(t)
	out := enrol(t, st, uuidA, "b1", "k1", macA, macA2)
	if out.Granted || out.Refused != nil || !strings.Contains(out.Waits, "server approve "+uuidA) {
		t.Fatalf("newcomer: %+v", out)
	}
	r := record(t, st, macA2)
	if r.UUID != uuidA || r.Hostname != "3c-ec-ef-00-00-0a" || !slices.Equal(r.MACs, []string{macA, macA2}) {
		t.Fatalf("record %+v", r)
	}
	before := r.Revision
	if err := on(t, st, r.Hostname, approve("")); err != nil {
		t.Fatal(err)
	}
	if r = record(t, st, uuidA); r.Revision == before || !r.Approved {
		t.Errorf("approval: %+v", r)
	}
	if out = enrol(t, st, uuidA, "b1", "k1", macA, macA2); !out.Granted || out.Record.Key != "k1" {
		t.Errorf("after approval: %+v", out)
	}
	// The next boot has another key: it is the same server when an operator says so.
	if out = enrol(t, st, uuidA, "b2", "k2", macA2, macA); refused(out) != api.CodeKeyMismatch || out.Record.UUID != uuidA || out.Record.Key != "k1" {
		t.Errorf("next boot: %+v", out)
	}
	if got := code(on(t, st, uuidA, acceptKey("", true))); got != api.CodeConflict {
		t.Errorf("accepted while the first key syncs: %q", got)
	}
	if err := on(t, st, uuidA, acceptKey("", false)); err != nil {
		t.Fatal(err)
	}
	if out = enrol(t, st, uuidA, "b2", "k2", macA2, macA); !out.Granted || out.Record.Key != "k2" {
		t.Errorf("next boot, accepted: %+v", out)
	}
}

func TestEnrolNeedsTheBootMAC(t *testing.T) {
	st := newStore(t)
	var out Outcome
	update(t, st, func(tx store.Tx) (err error) {
		out, err = Enrol(tx, t0, Enrolment{BootMAC: macB, Sysinfo: api.Sysinfo{NICs: []api.NIC{{MAC: macA}}}})
		return err
	})
	if refused(out) != api.CodeInvalid {
		t.Errorf("got %+v", out)
	}
}

func TestUUIDCollision(t *testing.T) {
	for _, winner := range []string{macA, macB} {
		t.Run(winner, func(t *testing.T) {
			st := newStore(t)
			enrol(t, st, uuidA, "b1", "k1", macA)
			if err := on(t, st, uuidA, approve("")); err != nil {
				t.Fatal(err)
			}
			enrol(t, st, uuidA, "b1", "k1", macA)
			for range 2 {
				if got := refused(enrol(t, st, uuidA, "b2", "k2", macB)); got != api.CodeUUIDCollision {
					t.Fatalf("second machine: %q", got)
				}
			}
			if got := refused(enrol(t, st, uuidA, "b3", "k3", macA)); got != api.CodeUUIDCollision {
				t.Fatalf("first machine: %q; both are to be held", got)
			}
			r := record(t, st, uuidA)
			if !slices.Equal(r.MACs, []string{macA}) || r.Key != "k1" {
				t.Fatalf("the second machine overwrote the first: %+v", r)
			}
			second := record(t, st, macB)
			if second.UUID == uuidA || second.Claims != uuidA || !slices.Equal(second.MACs, []string{macB}) {
				t.Fatalf("the second machine has no record of its own: %+v", second)
			}
			rivals := []Record{second}
			if s, why := State(t0, r, Observed{}, View{Rivals: rivals}); s != api.StateHeld || !strings.Contains(why, "--mac") {
				t.Errorf("state %q: %s", s, why)
			}
			if s, _ := State(t0, r, Observed{}, View{LastSeen: t0, Rivals: rivals}); s != api.StateApproved {
				t.Errorf("the key syncs: state %q", s)
			}
			if s, why := State(t0, second, Observed{}, View{}); s != api.StateHeld || !strings.Contains(why, "server accept-key "+uuidA+" --mac "+macB) {
				t.Errorf("the second machine's state %q: %s", s, why)
			}
			if got := code(on(t, st, uuidA, approve(""))); got != api.CodeUUIDCollision {
				t.Errorf("approve without --mac: %q", got)
			}
			if got := code(on(t, st, uuidA, approve(macC))); got != api.CodeConflict {
				t.Errorf("approve another MAC: %q", got)
			}
			if err := on(t, st, uuidA, approve(winner)); err != nil {
				t.Fatal(err)
			}
			loser := map[string]string{macA: macB, macB: macA}[winner]
			if out := enrol(t, st, uuidA, "b4", "k4", winner); !out.Granted {
				t.Errorf("winner: %+v", out)
			}
			if got := refused(enrol(t, st, uuidA, "b5", "k5", loser)); got != api.CodeUUIDCollision {
				t.Errorf("loser: %q", got)
			}
			if r := record(t, st, uuidA); !slices.Equal(r.MACs, []string{winner}) {
				t.Errorf("record %+v", r)
			}
			if r := record(t, st, loser); !r.Rejected || r.UUID == uuidA {
				t.Errorf("record of the loser %+v", r)
			}
		})
	}
}

func TestAddedNICIsNoCollision(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA)
	if out := enrol(t, st, uuidA, "b2", "k1", macC, macA); out.Refused != nil || !slices.Equal(out.Record.MACs, []string{macA, macC}) {
		t.Errorf("got %+v", out)
	}
}

// A NIC that was moved to another server identifies nobody while both list it,
// and the other one when the first does not list it any more.
func TestMACMoves(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA, macA2)
	if err := on(t, st, uuidA, approve("")); err != nil {
		t.Fatal(err)
	}
	enrol(t, st, uuidA, "b1", "k1", macA, macA2)
	out := enrol(t, st, uuidB, "b2", "k2", macB, macA2)
	if slices.Contains(out.Record.MACs, macA2) || !slices.Contains(record(t, st, uuidA).MACs, macA2) {
		t.Fatalf("the MAC moved before the approval: %+v", out.Record)
	}
	if err := on(t, st, uuidB, approve("")); err != nil {
		t.Fatal(err)
	}
	enrol(t, st, uuidB, "b2", "k2", macB, macA2)
	has := func(a, b []string) {
		t.Helper()
		ra, rb := record(t, st, uuidA), record(t, st, uuidB)
		if !slices.Equal(ra.MACs, a) || !slices.Equal(rb.MACs, b) {
			t.Errorf("%v and %v, want %v and %v", ra.MACs, rb.MACs, a, b)
		}
		for _, r := range []Record{ra, rb} {
			if got := Alerts(r, Observed{}, nil); len(got) > 0 {
				t.Errorf("alerts %q", got)
			}
		}
	}
	has([]string{macA}, []string{macB})
	for range 3 {
		enrol(t, st, uuidA, "b1", "k1", macA, macA2)
		enrol(t, st, uuidB, "b2", "k2", macB, macA2)
		has([]string{macA}, []string{macB})
	}
	enrol(t, st, uuidA, "b1", "k1", macA)
	enrol(t, st, uuidB, "b2", "k2", macB, macA2)
	has([]string{macA}, []string{macB, macA2})
}

func TestForgetReturnsAContestedMAC(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA, macA2)
	enrol(t, st, uuidB, "b2", "k2", macB, macA2)
	err := on(t, st, uuidA, func(tx store.Tx, r *Record) error {
		macs, err := Forget(tx, *r)
		if !slices.Equal(macs, []string{macA, macA2}) {
			t.Errorf("freed %v", macs)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if b := record(t, st, macA2); b.UUID != uuidB {
		t.Errorf("record %+v", b)
	}
	if err := on(t, st, uuidA, approve("")); !errors.Is(err, ErrNoServer) {
		t.Errorf("forgotten server: %v", err)
	}
	if out := enrol(t, st, uuidA, "b3", "k3", macA); out.Granted || out.Refused != nil {
		t.Errorf("it comes back as a newcomer: %+v", out)
	}
}

func TestPinnedKey(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA)
	if err := on(t, st, uuidA, approve("")); err != nil {
		t.Fatal(err)
	}
	enrol(t, st, uuidA, "b1", "k1", macA)
	sync := func(boot, key string, rep api.Report) Seen {
		rep.BootID = boot
		var s Seen
		update(t, st, func(tx store.Tx) (err error) {
			s, err = Observe(tx, uuidA, Sync{Request: api.SyncRequest{Report: rep}, Key: key})
			return err
		})
		return s
	}
	if s := sync("b1", "k1", api.Report{}); s.Record.Pin != "" || !s.FirstOfBoot {
		t.Fatalf("before setup: %+v", s)
	}
	done := api.Report{Setup: &api.SetupReport{ID: "s", Complete: true}, Pools: []api.Pool{{Name: "zones", GUID: "1", Health: "ONLINE", System: true}}}
	if s := sync("b1", "k1", done); s.Record.Pin != "k1" || !s.Record.SetUp || s.FirstOfBoot {
		t.Fatalf("after setup: %+v", s)
	}
	if got := refused(enrol(t, st, uuidA, "b2", "stolen", macA)); got != api.CodeKeyMismatch {
		t.Fatalf("another key: %q", got)
	}
	r := record(t, st, uuidA)
	if s, why := State(t0, r, Observed{}, View{}); s != api.StateHeld || !strings.Contains(why, "server accept-key") {
		t.Errorf("silent: %q %s", s, why)
	}
	if s, _ := State(t0, r, Observed{}, View{LastSeen: t0}); s != api.StateRunning {
		t.Errorf("the server itself goes on: %q", s)
	}
	if !enrol(t, st, uuidA, "b3", "k1", macA).Granted || record(t, st, uuidA).Presented != nil {
		t.Error("the right key ends the mismatch")
	}
	enrol(t, st, uuidA, "b4", "k9", macA)
	if err := on(t, st, uuidA, acceptKey("", false)); err != nil {
		t.Fatal(err)
	}
	if out := enrol(t, st, uuidA, "b5", "k9", macA); !out.Granted || out.Record.SetUp {
		t.Errorf("after the operator accepted it: %+v", out)
	}
}

func TestPowerIsForOneBoot(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA)
	observe := func(rep api.Report) Record {
		var s Seen
		update(t, st, func(tx store.Tx) (err error) {
			s, err = Observe(tx, uuidA, Sync{Request: api.SyncRequest{Report: rep}, Key: "k1"})
			return err
		})
		return s.Record
	}
	pool := []api.Pool{{Name: "zones", GUID: "77", System: true, Health: "ONLINE"}}
	setup := &api.SetupReport{ID: "s", Complete: true}
	observe(api.Report{BootID: "b1", Pools: pool, Setup: setup})
	ask := func(action, guid string) {
		if err := on(t, st, uuidA, func(tx store.Tx, r *Record) error { return AskPower(tx, t0, r, action, guid) }); err != nil {
			t.Fatal(err)
		}
	}
	ask("reboot", "")
	if r := observe(api.Report{BootID: "b1", Pools: pool, Setup: setup}); r.Power == nil || r.Power.BootID != "b1" {
		t.Fatalf("still the boot it is for: %+v", r.Power)
	}
	if r := observe(api.Report{BootID: "b2", Pools: pool, Setup: setup}); r.Power != nil {
		t.Fatalf("the boot after it: %+v", r.Power)
	}
	ask("reset", "77")
	id := record(t, st, uuidA).Power.ID
	if r := observe(api.Report{BootID: "b2", Pools: pool, Setup: setup, Power: &api.PowerReport{ID: id}}); !r.SetUp || r.Pin != "k1" {
		t.Fatalf("the pool is there: %+v", r)
	}
	if r := observe(api.Report{BootID: "b2", Power: &api.PowerReport{ID: id}}); r.SetUp || r.Pin != "" || r.Setup != nil || r.Power == nil {
		t.Fatalf("the pool is gone: %+v", r)
	}
	if r := observe(api.Report{BootID: "b3"}); r.Power != nil {
		t.Fatalf("the boot after it: %+v", r.Power)
	}
}

// Power was lost between destroying the pool and saying so: the next boot has a
// new key, and the reset that was asked for explains it.
func TestResetCutByPowerLoss(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA)
	if err := on(t, st, uuidA, approve("")); err != nil {
		t.Fatal(err)
	}
	enrol(t, st, uuidA, "b1", "k1", macA)
	update(t, st, func(tx store.Tx) error {
		_, err := Observe(tx, uuidA, Sync{Key: "k1", Request: api.SyncRequest{Report: api.Report{BootID: "b1",
			Setup: &api.SetupReport{Complete: true}, Pools: []api.Pool{{GUID: "77", System: true}}}}})
		return err
	})
	if err := on(t, st, uuidA, func(tx store.Tx, r *Record) error { return AskPower(tx, t0, r, "reset", "77") }); err != nil {
		t.Fatal(err)
	}
	if out := enrol(t, st, uuidA, "b2", "k2", macA); !out.Granted || out.Record.SetUp || out.Record.Pin != "" {
		t.Errorf("got %+v", out)
	}
}

func TestRename(t *testing.T) {
	st := newStore(t)
	enrol(t, st, uuidA, "b1", "k1", macA)
	enrol(t, st, uuidB, "b2", "k2", macB)
	rename := func(id, name string) api.Code {
		err := on(t, st, id, func(tx store.Tx, r *Record) error { return Rename(tx, r, name) })
		if err != nil && code(err) == "" {
			t.Fatal(err)
		}
		return code(err)
	}
	long := strings.Repeat("a", 63)
	for _, tt := range []struct {
		id, name string
		want     api.Code
	}{
		{uuidA, "cn-1", ""}, {uuidA, "cn-1", ""}, {uuidB, "cn-1", api.CodeConflict}, {uuidB, long, ""},
		{uuidB, long + "a", api.CodeInvalid}, {uuidB, "", api.CodeInvalid}, {uuidB, "-a", api.CodeInvalid}, {uuidB, "a-", api.CodeInvalid},
		{uuidB, "a.b", api.CodeInvalid}, {uuidB, "a_b", api.CodeInvalid}, {uuidB, "Server", api.CodeInvalid}, {uuidB, uuidA, api.CodeInvalid},
		{uuidA, "cn-2", ""}, {uuidB, "cn-1", ""},
	} {
		if got := rename(tt.id, tt.name); got != tt.want {
			t.Errorf("rename %s to %q: %q, want %q", tt.id, tt.name, got, tt.want)
		}
	}
	if record(t, st, "cn-1").UUID != uuidB || record(t, st, "cn-2").UUID != uuidA {
		t.Error("names do not find their servers")
	}
}

func TestSameUUID(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{uuidA, uuidA, true},
		{"00112233-4455-6677-8899-aabbccddeeff", "33221100-5544-7766-8899-AABBCCDDEEFF", true},
		{uuidA, uuidB, false}, {"", "", true}, {"x", uuidA, false},
	} {
		if got := SameUUID(tt.a, tt.b); got != tt.want {
			t.Errorf("SameUUID(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}

func TestMACs(t *testing.T) {
	got := MACs(api.Sysinfo{NICs: []api.NIC{{MAC: "3C:EC:EF:00:00:0B"}, {MAC: macA}, {MAC: macA}, {MAC: "00:00:00:00:00:00"}, {MAC: "01:00:5e:00:00:01"}, {MAC: "x"}}})
	if !slices.Equal(got, []string{macA, macB}) {
		t.Errorf("got %v", got)
	}
}
