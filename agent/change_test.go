package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nereid/agent/clock"
	"nereid/api"
)

// A slow setup does not delay liveness, and a spec that comes meanwhile is
// applied after it.
func TestSpecChangesDuringSetup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.spec = true, setupSpec("r1")
		release := make(chan struct{})
		w.setup = func(ctx context.Context) {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		start(t, w, h, t.TempDir(), nil)
		s := h.until("setting up", func(s api.SyncRequest) bool {
			return s.Report.Setup != nil && s.Report.Setup.Phase == "creating pool"
		})
		if s.Report.Setup.Plan == nil || s.Report.Setup.ID != "s1" {
			t.Errorf("progress %+v", s.Report.Setup)
		}
		_, before := h.last()
		time.Sleep(10 * time.Minute)
		if _, after := h.last(); after-before < 25 {
			t.Errorf("%d syncs in ten minutes of setup", after-before)
		}
		for i := range 3 {
			spec := setupSpec(fmt.Sprintf("r%d", i+2))
			spec.Hostname = fmt.Sprintf("cn%02d", i+2)
			h.set(func() { h.spec = spec })
			time.Sleep(time.Second)
		}
		close(release)
		h.until("the last spec applied", func(s api.SyncRequest) bool {
			return complete(s) && s.Report.AppliedSpec == "r4" && s.Report.Hostname == "cn04"
		})
		if got := w.did(); strings.Count(got, "create pool") != 1 || strings.Contains(got, "cn03") {
			t.Errorf("did\n%s", got)
		}
	})
}

func TestSetupThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.spec = true, setupSpec("r1")
		w.fails["create pool"] = errors.New("disk vda is in use by md0; exclude it")
		start(t, w, h, t.TempDir(), nil)
		s := h.until("failed", func(s api.SyncRequest) bool { return s.Report.Setup != nil && s.Report.Setup.Phase == "failed" })
		if !strings.Contains(s.Report.Setup.Error, "exclude it") || s.Report.AppliedSpec != "" {
			t.Errorf("report %+v", s.Report)
		}
		h.until("a problem", func(s api.SyncRequest) bool {
			return len(s.Report.Problems) == 1 && strings.Contains(s.Report.Problems[0], "exclude it")
		})
		time.Sleep(time.Hour)
		w.mu.Lock()
		delete(w.fails, "create pool")
		w.mu.Unlock()
		if n := strings.Count(w.did(), "create pool fails"); n < 8 || n > 40 {
			t.Errorf("tried %d times in an hour", n)
		}
		h.until("complete", func(s api.SyncRequest) bool { return complete(s) && len(s.Report.Problems) == 0 })
	})
}

// The power fails, or the agent is killed, at every point of applying a spec in
// turn; the next start does what is left, and nothing twice that must not be.
func TestCrashAnywhere(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		for at := 1; ; at++ {
			var reached bool
			t.Run(fmt.Sprintf("reboot=%v/%d", reboot, at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
					h.approved, h.spec = true, setupSpec("r1")
					r := start(t, w, h, dir, func(*Agent) { w.crashAt = at })
					time.Sleep(time.Minute)
					w.mu.Lock()
					reached = w.dead
					w.crashAt = 0
					w.mu.Unlock()
					r.stop()
					if !reached {
						return
					}
					if reboot {
						dir, w.hostname = t.TempDir(), "localhost"
						if w.config[keyFile] == nil { // never seen by the head node as complete
							h.key = nil
						}
						h.set(func() { h.boot.BootID = "boot2" })
					}
					w.mu.Lock()
					w.dead = false
					w.mu.Unlock()
					h.set(func() { h.syncs = nil })
					start(t, w, h, dir, nil)
					h.until("applied", func(s api.SyncRequest) bool { return complete(s) && s.Report.AppliedSpec == "r1" })
					want := "hostname cn01\npool zones 77 setup=s1 complete=true\nfile agent.key\nfile spec.json\n"
					if got := w.String(); got != want {
						t.Errorf("the server is\n%swant\n%s", got, want)
					}
					if n := strings.Count(w.did(), "create pool"); n != 1 && !reboot {
						// "power fails at before/after create pool" counts once more.
						if n > 2 {
							t.Errorf("pool made %d times", n)
						}
					}
				})
			})
			if !reached {
				if at < 8 {
					t.Fatalf("only %d points to crash at", at)
				}
				break
			}
		}
	}
}

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

func TestSetupOfAServerThatHasOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.spec = true, setupSpec("r1")
		start(t, w, h, t.TempDir(), nil)
		h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" })
		w.did()
		spec := setupSpec("r2")
		spec.Setup.ID = "s2"
		h.set(func() { h.spec = spec })
		s := h.until("a problem", func(s api.SyncRequest) bool { return len(s.Report.Problems) == 1 })
		if !strings.Contains(s.Report.Problems[0], "reset the server first") {
			t.Errorf("problem %q", s.Report.Problems[0])
		}
		time.Sleep(time.Hour)
		if got := w.did(); strings.Contains(got, "pool") {
			t.Errorf("did %q", got)
		}
		// An empty spec removes nothing.
		h.set(func() { h.spec = &api.Spec{Revision: "r3"} })
		h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r3" && complete(s) })
		if w.hostname != "cn01" || len(w.pools) != 1 {
			t.Errorf("absence was taken for deletion:\n%s", w)
		}
	})
}

// The right key is on a pool that came late.
func TestPoolComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.spec = true, setupSpec("r1")
		r := start(t, w, h, t.TempDir(), nil)
		h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" })
		r.stop()
		pools := w.pools
		w.pools = nil
		h.set(func() {
			h.boot.BootID, h.syncs = "boot2", nil
			h.refuse = &api.Problem{Status: 403, Code: api.CodeKeyMismatch, Title: "another key"}
		})
		r = start(t, w, h, t.TempDir(), nil)
		time.Sleep(10 * time.Minute)
		w.did()
		w.mu.Lock()
		w.pools = pools
		w.mu.Unlock()
		time.Sleep(time.Minute)
		h.set(func() { h.refuse = nil }) // which now checks the key
		h.until("complete", complete)
		if got := r.console.String(); !strings.Contains(got, "by another key") {
			t.Errorf("console says %q", got)
		}
		if got := w.did(); strings.Contains(got, "create") || strings.Contains(got, "store key") {
			t.Errorf("did %q", got)
		}
	})
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.life = true, time.Hour
		start(t, w, h, t.TempDir(), nil)
		h.until("anything", func(api.SyncRequest) bool { return true })
		time.Sleep(3 * time.Hour)
		if _, _, enrols, renewals := h.counts(); enrols != 1 || renewals < 5 || renewals > 7 {
			t.Errorf("%d enrolments, %d renewals in three hours of one-hour certificates", enrols, renewals)
		}
		// Away for longer than a certificate lives: enrolled again with the same key.
		h.set(func() { h.down = true })
		h.close()
		time.Sleep(2 * time.Hour)
		h.serve()
		h.set(func() { h.down, h.syncs = false, nil })
		h.until("anything", func(api.SyncRequest) bool { return true })
		if _, _, enrols, _ := h.counts(); enrols != 2 {
			t.Errorf("%d enrolments", enrols)
		}
	})
}

func TestWrongClock(t *testing.T) {
	for _, tt := range []struct {
		name   string
		off    time.Duration // of the server's clock
		boot   bool          // the boot file says when it was made
		noStep bool
		ntp    bool
	}{
		{name: "dead battery", off: -20 * 365 * 24 * time.Hour, boot: true},
		{name: "dead battery, no time in the boot file", off: -20 * 365 * 24 * time.Hour},
		{name: "ahead, no time in the boot file", off: 5 * 365 * 24 * time.Hour},
		{name: "a clock that cannot be set", off: -20 * 365 * 24 * time.Hour, noStep: true},
		{name: "some seconds", off: 30 * time.Second, boot: true},
		{name: "time servers", off: -40 * time.Second, boot: true, ntp: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := newWorld(), newHeadNode(t)
				h.approved, h.spec = true, setupSpec("r1")
				w.clockOff, w.noStep = tt.off, tt.noStep
				if !tt.boot {
					h.boot.Time = time.Time{}
				}
				if tt.ntp {
					h.boot.NTP = []string{"10.99.99.7"}
				}
				r := start(t, w, h, t.TempDir(), func(a *Agent) {
					if tt.ntp {
						a.NTP = func(context.Context, []string) (clock.Sample, error) {
							return clock.Sample{Offset: -a.Clock.System.Now().Sub(time.Now()), Delay: time.Millisecond}, nil
						}
					}
				})
				s := h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" })
				if off := r.Clock.Now().Sub(time.Now()); off.Abs() > 2500*time.Millisecond {
					t.Errorf("off by %s", off)
				}
				if tt.noStep != (len(s.Report.Problems) == 1) {
					t.Errorf("problems %q", s.Report.Problems)
				}
			})
		})
	}
}

// A server key that was stolen and has expired cannot turn the clock back.
func TestClockIsNotTurnedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.close()
		h.certTime = [2]time.Time{time.Now().Add(-1000 * time.Hour), time.Now().Add(-900 * time.Hour)}
		h.serve()
		h.approved = true
		old := time.Now().Add(-950 * time.Hour).UTC().Format(http.TimeFormat)
		h.broken = func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.ContentLength > 0 || len(r.TLS.PeerCertificates) != 0 {
				t.Errorf("%s with %d bytes over a connection that is good for the time only", r.URL, r.ContentLength)
			}
			w.Header().Set("Date", old)
			answerJSON(w, 200, api.Capabilities{})
		}
		start(t, w, h, t.TempDir(), nil)
		time.Sleep(10 * time.Minute)
		if requests, _, enrols, _ := h.counts(); requests == 0 || enrols != 0 {
			t.Errorf("%d requests, %d enrolments with an expired head node", requests, enrols)
		}
		if w.clockOff.Abs() > time.Minute {
			t.Errorf("clock moved by %s", w.clockOff)
		}
	})
}

// A step that ignores its context is noticed: the watchdog hears no more.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved = true
		r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Watchdog = time.Minute })
		time.Sleep(4 * time.Hour)
		pings := func() int { return strings.Count(r.notes.String(), "WATCHDOG=1") }
		if n := pings(); n < 2*4*60-2 {
			t.Errorf("%d pings in four hours", n)
		}
		release := make(chan struct{})
		w.mu.Lock()
		w.setup = func(context.Context) { <-release }
		w.mu.Unlock()
		h.set(func() { h.spec = setupSpec("r1") })
		before := pings()
		time.Sleep(2 * time.Hour)
		if n := pings() - before; n < 60 || n > 70 {
			t.Errorf("%d pings in two hours, of which the first 32 minutes were allowed", n)
		}
		close(release)
		h.until("complete", complete)
	})
}
