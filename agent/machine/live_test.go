package machine

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nereid/agent/agenttest"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// live sets NICs in a zone that runs.
func (s *server) live(ctx context.Context, uuid string, h zone.Host) error {
	return s.zones.Do(ctx, "set "+uuid, func() { *s.nics = namesOf(h) })
}

func namesOf(h zone.Host) (names string) {
	for _, n := range h.NICs {
		names += " " + n.Name
	}
	return names
}

// TestLive: a NIC that comes or goes, or another resolver, is set in a zone that runs,
// once; what fails is tried again; a zone that started anew meanwhile is set once more; an
// agent that starts sets nothing that is set.
func TestLive(t *testing.T) {
	s := newServer(t)
	var set []string
	var fault error
	during := func() {}
	live := func(_ context.Context, uuid string, h zone.Host) error {
		set = append(set, uuid+namesOf(h))
		during()
		return fault
	}
	s.m.Live = live
	wants := func(what string, want ...string) {
		t.Helper()
		if !slices.Equal(set, want) {
			t.Errorf("%s: set %q, want %q", what, set, want)
		}
		set = nil
	}
	spec := specOf("a")
	s.set(Wanted{Spec: spec}, "a")
	wants("after a start")
	two := s.with(spec, func(c *api.InstanceSpec) {
		c.NICs = append(slices.Clone(c.NICs), api.InstanceNIC{Interface: "net1", MAC: "02:00:00:00:00:02"})
	})
	ready := false
	s.m.Ready = func(mac string) bool { return ready || mac != "02:00:00:00:00:02" }
	if st, _ := s.set(two, "a"); st.State != api.InstanceRunning || !strings.Contains(st.Reason, "NIC") {
		t.Errorf("it waits for a NIC: %+v", st)
	}
	wants("of a NIC that is not there")
	ready = true
	if st, _ := s.set(two, "a"); st.State != api.InstanceRunning || st.Reason != "" {
		t.Errorf("%+v", st)
	}
	s.set(two, "a")
	wants("of one that is there", "a net0 net1")
	s.restart()
	s.m.Live = live
	s.set(two, "a")
	wants("by an agent that starts")
	fault = errors.New("no")
	if _, _, err := s.m.Set(t.Context(), "a", Wanted{Spec: spec}); err == nil {
		t.Error("a failure is none")
	}
	fault = nil
	s.set(Wanted{Spec: spec}, "a")
	s.set(Wanted{Spec: spec}, "a")
	wants("after a failure", "a net0", "a net0")
	during = func() {
		if err := agenttest.Begin(filepath.Join(s.dir, "a"), "another"); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := s.m.Set(t.Context(), "a", two); err == nil {
		t.Error("what was set in a zone that starts anew counts")
	}
	during = func() {}
	s.set(two, "a")
	wants("of a zone that started anew", "a net0 net1", "a net0 net1")
}

// TestLiveCut: an agent that ends at any point of giving a zone that runs a NIC, or of taking
// one away, does what is left the next time; what is set then is what is wanted, the files
// for the next start say so, the zone was not started anew, and nothing is done once more.
func TestLiveCut(t *testing.T) {
	spec := specOf("a")
	more := api.InstanceNIC{Interface: "net1", MAC: "02:00:00:00:00:02", MTU: 1400}
	stages := []struct {
		w   Wanted
		set string
	}{
		{(&server{}).with(spec, func(i *api.InstanceSpec) { i.NICs = append(slices.Clone(i.NICs), more) }), " net0 net1"},
		{(&server{}).with(spec, func(i *api.InstanceSpec) { i.NICs = []api.InstanceNIC{more} }), " net1"},
		{(&server{}).with(spec, func(i *api.InstanceSpec) { i.NICs = nil }), ""},
	}
	for at := range stages {
		cut := true
		for n := 1; cut; n++ {
			s := newServer(t)
			s.nics = new(string)
			s.restart()
			s.set(Wanted{Spec: spec}, "a")
			*s.nics = " net0" // by the start
			for _, stage := range stages[:at] {
				s.set(stage.w, "a")
			}
			s.zones.Calls()
			s.zones.CutAt(n)
			s.set(stages[at].w, "a")
			cut = s.zones.Cut()
			s.zones.CutAt(0)
			s.restart()
			for _, stage := range stages[at:] {
				s.set(stage.w, "a")
				h, err := zone.Read(filepath.Join(s.dir, "a"))
				if left := namesOf(h); err != nil || left != stage.set || *s.nics != stage.set {
					t.Fatalf("stage %d, cut %d: set is%s, left is%s: want%s; %v", at, n, *s.nics, left, stage.set, err)
				}
				if calls := strings.Join(s.zones.Calls(), "; "); strings.Contains(calls, "start") || strings.Contains(calls, "stop") {
					t.Fatalf("stage %d, cut %d: did %s", at, n, calls)
				}
				s.restart()
				if s.set(stage.w, "a"); len(s.zones.Calls()) > 0 {
					t.Fatalf("stage %d, cut %d: something is done once more", at, n)
				}
			}
		}
	}
}
