package inventory

import (
	"strings"
	"testing"
	"time"

	"nereid/api"
)

func TestState(t *testing.T) {
	now := t0
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	boot := func(id string, started time.Time) *api.Boot {
		return &api.Boot{ID: id, Started: started, Events: []api.BootEvent{{Stage: api.StageKernel}}}
	}
	doneBoot := boot("b1", ago(time.Hour))
	doneBoot.Done = &now
	approved := Record{UUID: uuidA, Hostname: "cn", Approved: true, BootID: "b1"}
	up := approved
	up.SetUp = true
	with := func(r Record, fn func(*Record)) Record { fn(&r); return r }
	for _, tt := range []struct {
		name  string
		r     Record
		o     Observed
		v     View
		want  api.ServerState
		about string
	}{
		{"pending", Record{UUID: uuidA}, Observed{}, View{LastSeen: now}, api.StatePending, "server approve " + uuidA},
		{"pending and silent", Record{UUID: uuidA}, Observed{}, View{LastSeen: ago(time.Hour)}, api.StatePending, "not heard of for 1h0m0s"},
		{"pending and booting", Record{UUID: uuidA}, Observed{}, View{Boot: boot("b2", ago(time.Minute))}, api.StateBooting, "kernel"},
		{"rejected", with(approved, func(r *Record) { r.Rejected = true }), Observed{}, View{LastSeen: now}, api.StateRejected, "server approve"},
		{"approved", approved, Observed{}, View{LastSeen: now, Boot: doneBoot}, api.StateApproved, "server setup cn"},
		{"setting up, not begun", with(approved, func(r *Record) { r.Setup = &api.SetupSpec{ID: "s"} }), Observed{}, View{LastSeen: now}, api.StateSettingUp, "not begun"},
		{"setting up", with(approved, func(r *Record) { r.Setup = &api.SetupSpec{ID: "s"} }),
			Observed{Report: &api.Report{Setup: &api.SetupReport{ID: "s", Phase: "creating pool"}}}, View{LastSeen: now}, api.StateSettingUp, "creating pool"},
		{"setup failed", with(approved, func(r *Record) { r.Setup = &api.SetupSpec{ID: "s"} }),
			Observed{Report: &api.Report{Setup: &api.SetupReport{ID: "s", Phase: "failed", Error: "no disks"}}}, View{LastSeen: now}, api.StateSettingUp, "failed: no disks"},
		{"running", up, Observed{}, View{LastSeen: ago(44 * time.Second), Boot: doneBoot}, api.StateRunning, ""},
		{"unknown", up, Observed{}, View{LastSeen: ago(46 * time.Second), Boot: doneBoot}, api.StateUnknown, "not heard of for 46s"},
		{"unknown after a restart", up, Observed{}, View{Started: ago(3 * time.Second)}, api.StateUnknown, "since the head node started 3s ago"},
		{"rebooting", up, Observed{}, View{LastSeen: ago(20 * time.Second), Boot: boot("b2", ago(10*time.Second))}, api.StateBooting, "kernel"},
		{"old boot does not count", up, Observed{}, View{LastSeen: ago(time.Hour), Boot: boot("b2", ago(30*time.Minute))}, api.StateUnknown, ""},
		{"boot before the last sync does not count", up, Observed{}, View{LastSeen: ago(time.Second), Boot: boot("b2", ago(10*time.Second))}, api.StateRunning, ""},
		{"boot loop", up, Observed{}, View{Boot: boot("b2", ago(time.Second)), Loop: "3 boots failed"}, api.StateBootLoop, "3 boots"},
		{"off", with(up, func(r *Record) { r.Power = &api.PowerSpec{ID: "p", Action: "shutdown", BootID: "b1"} }),
			Observed{Report: &api.Report{Power: &api.PowerReport{ID: "p"}}}, View{LastSeen: ago(time.Minute)}, api.StateOff, "power it on"},
		{"shutdown not taken up", with(up, func(r *Record) { r.Power = &api.PowerSpec{ID: "p", Action: "shutdown", BootID: "b1"} }),
			Observed{}, View{LastSeen: ago(time.Minute)}, api.StateUnknown, ""},
		{"powered on again", with(up, func(r *Record) { r.Power = &api.PowerSpec{ID: "p", Action: "shutdown", BootID: "b1"} }),
			Observed{Report: &api.Report{Power: &api.PowerReport{ID: "p"}}}, View{LastSeen: ago(time.Hour), Boot: boot("b2", ago(time.Second))}, api.StateBooting, ""},
		{"collision", with(approved, func(r *Record) { r.Key = "k" }), Observed{}, View{LastSeen: ago(time.Hour), Rivals: []Record{{MACs: []string{macB}}}}, api.StateHeld, macB},
		{"collision, and its key syncs", with(up, func(r *Record) { r.Key = "k" }), Observed{}, View{LastSeen: now, Rivals: []Record{{MACs: []string{macB}}}}, api.StateRunning, ""},
		{"collision, and its key is on its pool", with(up, func(r *Record) { r.Pin = "k" }), Observed{}, View{LastSeen: ago(time.Hour), Rivals: []Record{{MACs: []string{macB}}}}, api.StateUnknown, ""},
		{"claims a known server", Record{UUID: uuidB, Hostname: "cn", Claims: uuidA, BootMACs: []string{macB}}, Observed{}, View{LastSeen: now}, api.StateHeld, "server accept-key " + uuidA + " --mac " + macB},
		{"mismatch", with(up, func(r *Record) { r.Pin, r.Presented = "k", &Presented{MAC: macB} }), Observed{}, View{}, api.StateHeld, "another key"},
		{"mismatch before setup", with(approved, func(r *Record) { r.Key, r.Presented = "k", &Presented{MAC: macB} }), Observed{}, View{}, api.StateHeld, "RAM only"},
		{"a refused boot is not the server's", with(up, func(r *Record) { r.Pin, r.Presented = "k", &Presented{MAC: macA, BootID: "b2"} }), Observed{},
			View{LastSeen: ago(20 * time.Second), Boot: boot("b2", ago(10*time.Second))}, api.StateRunning, ""},
	} {
		got, why := State(now, tt.r, tt.o, tt.v)
		if got != tt.want || !strings.Contains(why, tt.about) {
			t.Errorf("%s: %q, %q; want %q about %q", tt.name, got, why, tt.want, tt.about)
		}
	}
}

func TestAlerts(t *testing.T) {
	r := Record{UUID: uuidA, SetUp: true, BootID: "b1", Power: &api.PowerSpec{ID: "p", Action: "reboot"}}
	got := Alerts(r, Observed{Report: &api.Report{BootID: "b1", Problems: []string{"The clock is off."}, Power: &api.PowerReport{ID: "p", Error: "busy."}}}, nil)
	want := []string{"It was set up and reports no pool; look at its disks.", "The reboot asked for was not done: busy.", "The clock is off."}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q", got)
	}
	got = Alerts(r, Observed{Report: &api.Report{BootID: "b1", Pools: []api.Pool{{Name: "zones", Health: "DEGRADED"}}}}, nil)
	if len(got) != 1 || got[0] != "Pool zones is DEGRADED." {
		t.Errorf("got %q", got)
	}
}
