package agent

import (
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

func setupSpec(rev string) *api.Spec {
	return &api.Spec{Revision: rev, Hostname: "cn01", Setup: &api.SetupSpec{ID: "s1", Pool: "zones"}}
}

// asks is what the console says first.
const asks = "nereid: This server, " + testUUID + ", asks the head node at 10.99.99.7:8443 to be let in.\r\n"

func complete(s api.SyncRequest) bool { return s.Report.Setup != nil && s.Report.Setup.Complete }

func TestFromPendingToRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		h.askInv = true
		r := start(t, w, h, dir, nil)
		time.Sleep(time.Minute)
		if got := r.console.String(); got != asks+"nereid: This server waits for an operator's approval (nereid server approve). [new server]\r\n" {
			t.Errorf("console says %q", got)
		}
		h.set(func() { h.approved = true })
		s := h.until("hardware", func(s api.SyncRequest) bool { return s.Inventory != nil })
		if s.Inventory.UUID != testUUID || s.Report.BootID != "boot1" || s.Report.Boot.Systemd != 4.5 || s.Report.Boot.FirstSync == 0 {
			t.Errorf("first syncs say %+v", s)
		}
		h.set(func() { h.spec = setupSpec("r1") })
		s = h.until("complete", func(s api.SyncRequest) bool { return complete(s) && s.Report.AppliedSpec == "r1" })
		if s.Report.Hostname != "cn01" || len(s.Report.Pools) != 1 || len(s.Report.Problems) != 0 {
			t.Errorf("report %+v", s.Report)
		}
		if got, want := w.did(), "hostname cn01\ncreate pool\nstore key\ncomplete setup\nwrite spec.json"; got != want {
			t.Errorf("did\n%s\nwant\n%s", got, want)
		}
		// The same again under another name does nothing but keep it.
		h.set(func() { h.spec = setupSpec("r2") })
		h.until("r2", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r2" })
		if got := w.did(); got != "write spec.json" {
			t.Errorf("the second time did %q", got)
		}
		if data, err := os.ReadFile(filepath.Join(dir, keyFile)); err != nil || string(data) != string(w.config[keyFile]) {
			t.Errorf("the pool's key is another one: %v", err)
		}
		for _, f := range []string{keyFile, certFile, specFile, statusFile} {
			if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", f, st.Mode(), err)
			}
		}
		r.stop()
		if got := r.notes.String(); !strings.HasPrefix(got, "READY=1\n") || !strings.HasSuffix(got, "STOPPING=1\n") {
			t.Errorf("service manager heard %q", got)
		}
		st, err := ReadStatus(dir)
		if err != nil || st.UUID != testUUID || !strings.HasPrefix(st.State, "Connected") {
			t.Errorf("status %+v, %v", st, err)
		}
	})
}

func TestRestartUsesCertificateAndKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		h.approved, h.spec = true, setupSpec("r1")
		r := start(t, w, h, dir, nil)
		s := h.until("applied", func(s api.SyncRequest) bool { return complete(s) && s.Report.AppliedSpec == "r1" })
		r.stop()
		first := s.Report.Boot
		h.set(func() { h.syncs = nil })
		w.did()
		time.Sleep(time.Hour)
		start(t, w, h, dir, nil)
		s = h.until("complete", func(s api.SyncRequest) bool { return complete(s) && s.Report.AppliedSpec == "r1" })
		if _, _, enrols, _ := h.counts(); enrols != 1 {
			t.Errorf("%d enrolments, want 1", enrols)
		}
		if s.Report.Boot != first {
			t.Errorf("boot timings %+v became %+v", first, s.Report.Boot)
		}
		if got := w.did(); got != "" {
			t.Errorf("the restart did %q", got)
		}
	})
}

// A new boot has a new run directory, and the key of the pool.
func TestNextBootHasPoolKeyAndSpec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.spec = true, setupSpec("r1")
		r := start(t, w, h, t.TempDir(), nil)
		h.until("applied", func(s api.SyncRequest) bool { return complete(s) && s.Report.AppliedSpec == "r1" })
		r.stop()
		// The head node is away at the next boot: the last spec is applied.
		w.hostname = "localhost"
		h.set(func() { h.boot.BootID = "boot2"; h.down = true; h.syncs = nil })
		w.did()
		start(t, w, h, t.TempDir(), nil)
		time.Sleep(time.Minute)
		if name, err := w.Hostname(); err != nil || name != "cn01" {
			t.Errorf("hostname %s with the head node away", name)
		}
		h.set(func() { h.down = false }) // and checks that the key is the same one
		h.until("complete", func(s api.SyncRequest) bool { return complete(s) && s.Report.BootID == "boot2" })
		if got := w.did(); got != "hostname cn01\nwrite spec.json" && got != "hostname cn01" {
			t.Errorf("did %q", got)
		}
	})
}

func TestHeadNodeAway(t *testing.T) {
	for name, hurt := range map[string]func(h *fakeHead){
		"killed in the middle of a poll": func(h *fakeHead) { h.close(); h.set(func() { h.down = true }) },
		"500": func(h *fakeHead) {
			h.set(func() {
				h.broken = func(w http.ResponseWriter, _ *http.Request) {
					answerProblem(w, &api.Problem{Status: 500, Code: api.CodeInternal, Title: "bug"})
				}
			})
		},
		"502 of somebody else": func(h *fakeHead) {
			h.set(func() {
				h.broken = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", 502) }
			})
		},
		"garbage": func(h *fakeHead) {
			h.set(func() {
				h.broken = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "}{") }
			})
		},
		"an answer without revision": func(h *fakeHead) {
			h.set(func() {
				h.broken = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }
			})
		},
		"a redirect": func(h *fakeHead) {
			h.set(func() {
				h.broken = func(w http.ResponseWriter, r *http.Request) {
					http.Redirect(w, r, "https://10.99.99.8/", http.StatusFound)
				}
			})
		},
		"silence": func(h *fakeHead) {
			h.set(func() {
				h.broken = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := newWorld(), newHeadNode(t)
				h.approved, h.spec = true, setupSpec("r1")
				r := start(t, w, h, t.TempDir(), nil)
				h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" })
				time.Sleep(5 * time.Second)
				before, dials, _, _ := h.counts()
				hurt(h)
				time.Sleep(10 * time.Minute)
				// Ten minutes at 5 to 10 s each.
				requests, now, _, _ := h.counts()
				if n := requests - before + now - dials; n > 300 {
					t.Errorf("%d attempts in ten minutes", n)
				}
				if got := r.console.String(); strings.Count(got, "\n") > 6 {
					t.Errorf("console says\n%s", got)
				}
				h.set(func() { h.broken, h.down, h.syncs = nil, false, nil })
				if name == "killed in the middle of a poll" {
					h.serve()
				}
				at := time.Now()
				h.until("anything", func(api.SyncRequest) bool { return true })
				if d := time.Since(at); d > 40*time.Second {
					t.Errorf("back after %s", d)
				}
				if _, _, enrols, _ := h.counts(); enrols != 1 {
					t.Errorf("%d enrolments", enrols)
				}
			})
		})
	}
}

// A head node that answers polls at once is not asked in a loop.
func TestNoHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.noHold = true, true
		start(t, w, h, t.TempDir(), nil)
		time.Sleep(10 * time.Minute)
		if _, n := h.last(); n < 30 || n > 200 {
			t.Errorf("%d syncs in ten minutes", n)
		}
		h.set(func() { h.spec = setupSpec("r1") })
		h.until("applied", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" })
	})
}

func TestWrongCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved = true
		h.boot.CASHA256 = strings.Repeat("ab", 32)
		r := start(t, w, h, t.TempDir(), nil)
		time.Sleep(10 * time.Minute)
		if requests, _, _, _ := h.counts(); requests != 0 {
			t.Errorf("%d requests reached a head node that is not trusted", requests)
		}
		if got := r.console.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "another CA") {
			t.Errorf("console says %q", got)
		}
	})
}

func TestRefusals(t *testing.T) {
	seen := map[string]api.Code{}
	for _, c := range []struct {
		code   api.Code
		status int
	}{
		{api.CodeNotApproved, 403}, {api.CodeTokenUsed, 403}, {api.CodeTokenInvalid, 403}, {api.CodeForbidden, 403},
		{api.CodeKeyMismatch, 403}, {api.CodeUUIDCollision, 409}, {api.CodeUnavailable, 503},
	} {
		t.Run(string(c.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := newWorld(), newHeadNode(t)
				h.refuse = &api.Problem{Status: c.status, Code: c.code, Title: "no", Detail: "because\x1b[2J of it"}
				r := start(t, w, h, t.TempDir(), nil)
				time.Sleep(10 * time.Minute)
				got := r.console.String()
				if strings.Count(got, "\n") != 2 || !strings.Contains(got, "[because[2J of it]") {
					t.Errorf("console says %q", got)
				}
				if other, ok := seen[got]; ok {
					t.Errorf("looks like %s", other)
				}
				seen[got] = c.code
				if _, _, enrols, _ := h.counts(); strings.Contains(got, "secret") || enrols < 15 || enrols > 60 {
					t.Errorf("%d enrolments in ten minutes; console %q", enrols, got)
				}
				if w.did() != "" {
					t.Error("the server was touched")
				}
				h.set(func() { h.refuse, h.approved = nil, true })
				h.until("anything", func(api.SyncRequest) bool { return true })
			})
		})
	}
}

func TestExpiredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		h.refuse = &api.Problem{Status: 403, Code: api.CodeTokenExpired, Title: "too old"}
		r := start(t, w, h, dir, nil)
		time.Sleep(3 * time.Minute)
		if got := w.did(); got != "reboot" {
			t.Errorf("a server that never came in did %q, want a reboot", got)
		}
		h.set(func() { h.refuse, h.approved = nil, true })
		h.until("anything", func(api.SyncRequest) bool { return true })
		r.stop()
		// One that was in never reboots for it.
		if err := os.WriteFile(filepath.Join(dir, certFile), []byte("expired long ago"), 0o600); err != nil {
			t.Fatal(err)
		}
		h.set(func() { h.refuse = &api.Problem{Status: 403, Code: api.CodeTokenExpired, Title: "too old"} })
		start(t, w, h, dir, nil)
		time.Sleep(time.Hour)
		if got := w.did(); got != "" {
			t.Errorf("a server that was in did %q", got)
		}
	})
}
