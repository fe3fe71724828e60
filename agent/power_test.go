package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

func TestReboot(t *testing.T) {
	for _, action := range []string{"reboot", "shutdown"} {
		t.Run(action, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := newWorld(), newHeadNode(t)
				h.approved, h.spec = true, setupSpec("r1")
				r := start(t, w, h, t.TempDir(), nil)
				h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" })
				w.did()
				spec := setupSpec("r2")
				spec.Power = &api.PowerSpec{ID: "p0", Action: action, BootID: "boot0"}
				h.set(func() { h.spec = spec })
				h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r2" })
				if got := w.did(); got != "write spec.json" {
					t.Errorf("a request for another boot did %q", got)
				}
				spec = setupSpec("r3")
				spec.Power = &api.PowerSpec{ID: "p1", Action: action, BootID: "boot1"}
				at := time.Now()
				h.set(func() { h.spec = spec })
				h.until("taken up", func(s api.SyncRequest) bool { return s.Report.Power != nil && s.Report.Power.ID == "p1" })
				if got := w.did(); got != "" {
					t.Errorf("did %q before it was said", got)
				}
				time.Sleep(2 * time.Second)
				if got := w.did(); got != action || time.Since(at) > 5*time.Second {
					t.Errorf("did %q after %s", got, time.Since(at))
				}
				// Services that do not stop are not waited for forever.
				time.Sleep(4 * time.Minute)
				if got := w.did(); got != action+", forced" {
					t.Errorf("then did %q", got)
				}
				r.stop()
				// The next boot is not rebooted, whatever the head node still says.
				h.set(func() { h.boot.BootID = "boot2"; h.syncs = nil })
				start(t, w, h, t.TempDir(), nil)
				h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r3" })
				if got := w.did(); got != "write spec.json" {
					t.Errorf("the next boot did %q", got)
				}
			})
		})
	}
}

// With the head node gone after it asked, the server still goes down.
func TestRebootUntold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		h.approved = true
		// A restart in between: the mark carries the request.
		if err := writeJSON(filepath.Join(dir, powerFile), api.PowerSpec{ID: "p1", Action: "reboot", BootID: "boot1"}); err != nil {
			t.Fatal(err)
		}
		h.down = true
		start(t, w, h, dir, nil)
		time.Sleep(30 * time.Second)
		if got := w.did(); got != "reboot" {
			t.Errorf("did %q", got)
		}
	})
}

func TestFactoryReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		h.approved, h.spec = true, setupSpec("r1")
		r := start(t, w, h, dir, nil)
		h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" })
		w.did()
		reset := func(rev, id, guid string) {
			spec := setupSpec(rev)
			spec.Power = &api.PowerSpec{ID: id, Action: "reset", BootID: "boot1", PoolGUID: guid}
			h.set(func() { h.spec = spec })
		}
		reset("r2", "p1", "78")
		s := h.until("refused", func(s api.SyncRequest) bool { return s.Report.Power != nil && s.Report.Power.Error != "" })
		if s.Report.Power.ID != "p1" || !strings.Contains(s.Report.Power.Error, "78") || len(w.pools) != 1 {
			t.Errorf("report %+v", s.Report.Power)
		}
		w.did()
		w.fails["destroy 77"] = errors.New("pool is busy")
		reset("r3", "p2", "77")
		s = h.until("failed", func(s api.SyncRequest) bool { return s.Report.Power != nil && s.Report.Power.ID == "p2" })
		time.Sleep(time.Hour)
		if got := w.did(); got != "destroy 77 fails" || !strings.Contains(s.Report.Power.Error, "pool is busy") {
			t.Errorf("tried again by itself: %q, report %+v", got, s.Report.Power)
		}
		w.mu.Lock()
		delete(w.fails, "destroy 77")
		w.mu.Unlock()
		reset("r4", "p3", "77")
		h.until("taken up", func(s api.SyncRequest) bool {
			return s.Report.Power != nil && s.Report.Power.ID == "p3" && s.Report.Power.Error == "" && len(s.Report.Pools) == 0 && s.Report.Setup == nil
		})
		time.Sleep(2 * time.Second)
		if got := w.did(); got != "destroy 77\nreboot" {
			t.Errorf("did %q", got)
		}
		r.stop()
		// Killed on the way down: it still only goes down, and makes no new pool.
		start(t, w, h, dir, nil)
		time.Sleep(time.Minute)
		if got := w.did(); got != "reboot" {
			t.Errorf("the restart did %q", got)
		}
		if _, err := os.Stat(filepath.Join(dir, specFile)); err == nil {
			t.Error("the last spec is still there")
		}
	})
}
