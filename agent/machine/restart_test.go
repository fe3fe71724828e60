package machine

import (
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

// TestRestart: what ended by itself is started again as its policy says, one that ends
// soon after each start less and less often; one that stays ended starts when it is
// asked to, and says what it failed of, to an agent that starts too.
func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		policy, end string
		starts      int    // in ten minutes, of one that ends at once
		state       string // of one that stays ended
	}{
		{api.RestartNo, unitInactive, 1, api.InstanceStopped},
		{api.RestartNo, unitFailed, 1, api.InstanceFailed},
		{"", unitInactive, 1, api.InstanceStopped},
		{"", unitFailed, 11, ""},
		{api.RestartOnFailure, unitFailed, 11, ""},
		{api.RestartAlways, unitFailed, 11, ""},
		{api.RestartAlways, unitInactive, 11, ""},
	} {
		t.Run(tt.policy+" "+tt.end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				spec := specOf("a")
				spec.Restart = tt.policy
				look := make(chan struct{}, 1)
				s.m.Changed = func(string) {
					select {
					case look <- struct{}{}:
					default:
					}
				}
				starts, over := 0, time.After(10*time.Minute)
				var st api.InstanceStatus
				for running := true; running; {
					var err error
					st, _, err = s.m.Set(t.Context(), "a", Wanted{Spec: spec})
					if err != nil { // the worker tries again
						st, _, err = s.m.Set(t.Context(), "a", Wanted{Spec: spec})
					}
					if err != nil {
						t.Fatal(err)
					}
					if st.State == api.InstanceRunning {
						starts++
						time.Sleep(time.Second)
						s.zones.End(Unit("a"), tt.end)
					}
					select {
					case <-look:
					case <-over:
						running = false
					}
				}
				if starts < tt.starts-2 || starts > tt.starts+2 || tt.starts == 1 && starts != 1 {
					t.Errorf("%d starts, about %d are wanted", starts, tt.starts)
				}
				if tt.state == "" {
					return
				}
				for range 2 {
					if st, _ := s.set(Wanted{Spec: spec}, "a"); st.State != tt.state || st.Reason == "" {
						t.Errorf("%+v, want %s", st, tt.state)
					}
					s.restart()
				}
				again := *spec
				again.Reboot = "r"
				if st, _ := s.set(Wanted{Spec: &again}, "a"); st.State != api.InstanceRunning {
					t.Errorf("asked to start: %+v", st)
				}
			})
		})
	}
}
