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

// What the kernel says of a pool reaches the head node with the next sync, and
// what the reconciler changes at once.
func TestNewsTravelFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		kstat := filepath.Join(dir, "proc/spl/kstat/zfs/zones")
		if err := os.MkdirAll(kstat, 0o755); err != nil {
			t.Fatal(err)
		}
		health := func(s string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.pools) > 0 {
				w.pools[0].Health = s
			}
			if err := os.WriteFile(filepath.Join(kstat, "state"), []byte(s+"\n"), 0o644); err != nil {
				t.Error(err)
			}
		}
		health("ONLINE")
		h.approved, h.spec = true, setupSpec("r1")
		start(t, w, h, dir, nil)
		h.until("applied", func(s api.SyncRequest) bool { return complete(s) && s.Report.AppliedSpec == "r1" })
		time.Sleep(5 * time.Second)
		at := time.Now()
		health("DEGRADED")
		h.until("degraded", func(s api.SyncRequest) bool {
			return len(s.Report.Pools) == 1 && s.Report.Pools[0].Health == "DEGRADED"
		})
		if d := time.Since(at); d > api.SyncHold+time.Second {
			t.Errorf("the pool's health took %s", d)
		}
		time.Sleep(5 * time.Second)
		at = time.Now()
		spec := setupSpec("r2")
		spec.Hostname = "cn02"
		h.set(func() { h.spec = spec })
		h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r2" && s.Report.Hostname == "cn02" })
		if d := time.Since(at); d > time.Second {
			t.Errorf("the change took %s", d)
		}
	})
}

// A server whose pools cannot be listed syncs and says so.
func TestPoolsCannotBeImported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved = true
		w.fails["import"] = errors.New("pool zones was last used by another system")
		start(t, w, h, t.TempDir(), nil)
		h.until("a problem", func(s api.SyncRequest) bool {
			return len(s.Report.Problems) == 1 && strings.Contains(s.Report.Problems[0], "another system")
		})
	})
}

// Hardware that cannot be read at first is read later; a server without a UUID
// says so.
func TestHardwareComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved = true
		w.fails["hardware"] = errors.New("no /sys")
		r := start(t, w, h, t.TempDir(), nil)
		time.Sleep(time.Minute)
		if got := r.console.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "no /sys") {
			t.Errorf("console says %q", got)
		}
		w.mu.Lock()
		delete(w.fails, "hardware")
		w.mu.Unlock()
		h.until("no problem", func(s api.SyncRequest) bool { return len(s.Report.Problems) == 0 })
	})
}

// The head node decides which server a machine is: the agent ends, and started
// again it is that server, with the same key. Firmware need not know a UUID.
func TestNamedByTheHeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		h.approved = true
		h.broken = func(rw http.ResponseWriter, r *http.Request) {
			answerJSON(rw, 202, api.EnrolResponse{State: api.StatePending, UUID: testUUID})
		}
		r := start(t, w, h, dir, func(a *Agent) { a.UUID = "" })
		if err := <-r.done; err != nil {
			t.Fatalf("it ended with %v", err)
		}
		if got := r.console.String(); !strings.Contains(got, "this is server "+testUUID) {
			t.Errorf("console says %q", got)
		}
		r.done <- nil // for the end of the test
		uuid := ServerUUID(dir, h.bootConfig(), "03000200-0400-0500-0006-000700080009")
		if uuid != testUUID {
			t.Fatalf("started again it is %q", uuid)
		}
		h.set(func() { h.broken = nil })
		start(t, w, h, dir, func(a *Agent) { a.UUID = uuid })
		h.until("a sync", func(api.SyncRequest) bool { return true })
	})
}

func TestServerUUID(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ told, boot, smbios, want string }{
		{"", "", "s", "s"}, {"", "b", "s", "b"}, {"t", "b", "s", "t"}, {"t", "b", "s", "t"}, {"", "", "", ""},
	} {
		if err := os.RemoveAll(filepath.Join(dir, uuidFile)); err != nil {
			t.Fatal(err)
		}
		if c.told != "" {
			if err := writeFile(filepath.Join(dir, uuidFile), []byte(c.told)); err != nil {
				t.Fatal(err)
			}
		}
		if got := ServerUUID(dir, api.BootConfig{UUID: c.boot}, c.smbios); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
