package agent

import (
	"testing"

	"nereid/api"
)

// TestStepsAreToldUntilHeard: where the time of a create went is in each report until the
// head node has taken one in, and in none after; what changes meanwhile does not lose it.
func TestStepsAreToldUntilHeard(t *testing.T) {
	l := newInstanceLog()
	l.begin()
	steps := []api.InstanceStep{{Name: "clone"}}
	l.put(api.InstanceStatus{UUID: "a", State: api.InstanceRunning, Steps: steps})
	told := func(want int) *api.InstanceReport {
		t.Helper()
		r := l.report(nil)
		if r == nil || len(r.Put) != 1 || len(r.Put[0].Steps) != want {
			t.Fatalf("report %+v, want %d steps", r, want)
		}
		return r
	}
	told(1)
	if l.put(api.InstanceStatus{UUID: "a", State: api.InstanceRunning}) {
		t.Error("the same status without the steps is news")
	}
	l.put(api.InstanceStatus{UUID: "a", State: api.InstanceStopped})
	r := told(1) // the first report was lost
	if _, told := l.heard(r.Now); len(told) != 1 || told[0] != "a" {
		t.Errorf("of the creates of %q the head node has the steps: want a", told)
	}
	if r := l.report(nil); r != nil {
		t.Fatalf("after it was heard: %+v", r)
	}
	l.put(api.InstanceStatus{UUID: "a", State: api.InstanceRunning})
	told(0)
	l.heard("of another head node")
	told(0) // all is told again
	l.put(api.InstanceStatus{UUID: "a", State: api.InstanceRunning, Steps: steps})
	told(1)
	l.gone("a")
	if len(l.steps) > 0 {
		t.Errorf("steps of an instance that is gone: %v", l.steps)
	}
}
