package agent

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"nereid/agent/clock"
	"nereid/api"
)

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
