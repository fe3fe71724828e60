package headnode

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// scripted boots a machine up to the script with the platform and no further.
func (m *machine) scripted() api.BootPlan {
	m.h.t.Helper()
	m.h.advance(time.Second)
	m.dhcp("") // firmware begins a new boot
	m.saw(api.StageTFTP)
	m.dhcp("iPXE")
	plan, err := m.h.Plan(context.Background(), m.boot, m.addr)
	if err != nil {
		m.h.t.Fatal(err)
	}
	if plan.Hold == "" {
		m.saw(api.StageScript)
	}
	return plan
}

// A newly assigned platform that does not come up is given up after three boots,
// and the server says why.
func TestTrialFallsBack(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	m := runningServer(h, 1)
	good := m.cfg.Platform
	bad := h.platform("20261123T000000Z").Manifest.Stamp
	if _, err := h.client.UpdateServer(ctx, m.uuid, api.ServerUpdate{Platform: &bad}, ""); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		plan := m.scripted()
		for plan.Hold != "" {
			h.advance(time.Duration(plan.RetryIn) * time.Second)
			var err error
			if plan, err = h.Plan(ctx, m.boot, m.addr); err != nil {
				t.Fatal(err)
			}
		}
		if plan.Manifest.Stamp != bad {
			t.Fatalf("boot %d of the trial got %s", n+1, plan.Manifest.Stamp)
		}
		if sv := h.server(m.uuid); !sv.Platform.Trial || sv.Platform.Attempts != n+1 {
			t.Errorf("trial: %+v", sv.Platform)
		}
	}
	if a := m.ask(api.KindDiscover, "", netip.Addr{}); a.Platform == bad {
		t.Errorf("the next DHCP answer still names %s", a.Platform)
	}
	plan := m.scripted()
	for plan.Hold != "" { // three failed boots in a row are a loop, too
		if sv := h.server(m.uuid); sv.State != api.StateBootLoop || sv.StateReason == "" {
			t.Errorf("held back: %s %s", sv.State, sv.StateReason)
		}
		h.advance(time.Duration(plan.RetryIn) * time.Second)
		var err error
		if plan, err = h.Plan(ctx, m.boot, m.addr); err != nil {
			t.Fatal(err)
		}
	}
	if plan.Manifest.Stamp != good {
		t.Fatalf("after the trial: %s", plan.Manifest.Stamp)
	}
	sv := h.server(m.uuid)
	if sv.Platform.Next != good || sv.Platform.Failed != bad || !strings.Contains(sv.Platform.Reason, bad) || !strings.Contains(strings.Join(sv.Alerts, " "), "failed its trial") {
		t.Errorf("it says why: %+v %q", sv.Platform, sv.Alerts)
	}
	// The previous platform is booted to the end.
	m.saw(api.StageScript)
	cfg, err := h.Config(ctx, m.boot, m.addr)
	if err != nil || cfg.Platform != good {
		t.Fatalf("configuration %+v %v", cfg, err)
	}
	m.token, m.rep.BootID, m.rep.Platform = cfg.Token, m.boot, cfg.Platform
	if _, _, err := m.enrol(); err != nil {
		t.Fatal(err)
	}
	m.mustSync()
	if sv := h.server(m.uuid); sv.State != api.StateRunning || sv.Platform.Running != good {
		t.Errorf("in the end: %s %+v", sv.State, sv.Platform)
	}
	if err := h.client.DeletePlatform(ctx, good); codeOf(err) != api.CodeInUse {
		t.Errorf("a platform in use was deleted: %v", err)
	}
	// Assigning it anew is a new trial; the first sync ends it.
	if _, err := h.client.UpdateServer(ctx, m.uuid, api.ServerUpdate{Platform: &bad}, ""); err != nil {
		t.Fatal(err)
	}
	m.bootUp()
	m.mustSync()
	if sv := h.server(m.uuid); sv.Platform.Running != bad || sv.Platform.Trial || sv.Platform.Failed != "" {
		t.Errorf("the second trial: %+v", sv.Platform)
	}
	_, err = h.client.UpdateServer(ctx, m.uuid, api.ServerUpdate{Platform: ptr("20200101T000000Z")}, "")
	wantCode(t, "a platform there is none of", err, api.CodeNotFound)
}

func ptr[T any](v T) *T { return &v }

// A machine that waits for approval has booted well: power-cycling it is no loop.
func TestPendingIsNoLoop(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	m := h.machine(1)
	for range 5 {
		m.powerOn()
		if _, _, err := m.enrol(); err != nil {
			t.Fatal(err)
		}
	}
	if sv := h.server(m.uuid); sv.State != api.StatePending || sv.Platform.Failed != "" {
		t.Errorf("state %s, platform %+v", sv.State, sv.Platform)
	}
}
