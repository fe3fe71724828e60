package machine

import (
	"time"

	"nereid/api"
)

// maxWay is how many steps are kept of one instance's way: one that fails again and
// again has more, of which the last ones are kept.
const maxWay = 24

// way is where the time of a new instance goes, until it is for the first time what is
// wanted. What is done of it later is not noted. Its zero value is that of an instance of
// which nothing was done yet.
type way struct {
	steps []api.InstanceStep
	waits string // what is waited for, as plan names it
	since time.Time
	over  bool
}

// waitName is the name of a step in which the instance waits for others, by what plan
// calls it; empty: it is none.
func waitName(waits string) string {
	switch waits {
	case "image":
		return "fetch image"
	case "NIC":
		return "wait for NICs"
	}
	return ""
}

// notes says whether what is done of an instance is a part of its way.
func (w *way) notes(wanted Wanted) bool {
	return !w.over && !wanted.Gone && !wanted.Down && wanted.Spec != nil && !wanted.Spec.Made
}

// wait notes what a plan waits for, from a moment on; empty: nothing.
func (w *way) wait(wanted Wanted, what string, now time.Time) {
	if !w.notes(wanted) || w.waits == what {
		return
	}
	if name := waitName(w.waits); name != "" {
		w.add(name, w.since, now, nil)
	}
	w.waits, w.since = what, now
}

// did notes a step. entered is when the zone's unit was ready to become the zone, which
// tells the time of systemd and of the NICs from the time of the zone.
func (w *way) did(wanted Wanted, s step, begun, entered, ended time.Time, err error) {
	if !w.notes(wanted) {
		return
	}
	switch s.(type) {
	case stepClone:
		w.add("clone", begun, ended, err)
	case stepKeep:
		w.add("keep spec", begun, ended, err)
	case stepStart:
		if entered.Before(begun) || entered.After(ended) {
			w.add("start unit", begun, ended, err)
			return
		}
		w.add("start unit", begun, entered, nil)
		w.add("start zone", entered, ended, err)
	}
}

func (w *way) add(name string, begun, ended time.Time, err error) {
	s := api.InstanceStep{Name: name, Start: begun.UTC(), Seconds: ended.Sub(begun).Seconds()}
	if err != nil {
		s.Fault = sentence(err)
	}
	w.steps = append(w.steps, s)
	w.steps = w.steps[max(0, len(w.steps)-maxWay):]
}

// end ends the way and gives its steps, once.
func (w *way) end() []api.InstanceStep {
	steps := w.steps
	w.steps, w.over = nil, true
	return steps
}
