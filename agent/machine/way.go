package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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
	wayState
	over bool
}

// wayState is what is kept of a way, so that an agent that starts goes on with it.
type wayState struct {
	Steps []api.InstanceStep `json:"steps,omitempty"`
	Waits string             `json:"waits,omitempty"` // what is waited for, as plan names it
	Doing string             `json:"doing,omitempty"` // the step that was begun last, and is not done
	Since time.Time          `json:"since,omitzero"`  // of Waits or Doing
}

// wayFile is where a way is kept, in the instance's folder.
const wayFile = "way.json"

// readWay is what an agent before this one noted.
func readWay(dir string, now time.Time) (w way) {
	data, err := os.ReadFile(filepath.Join(dir, wayFile))
	if err != nil || json.Unmarshal(data, &w.wayState) != nil {
		return way{} // nothing, or the agent ended while it wrote
	}
	if w.Doing != "" {
		w.add(w.Doing, w.Since, now, errAgentEnded)
		w.Doing, w.Since = "", time.Time{}
	}
	return w
}

var errAgentEnded = errors.New("the server's agent ended meanwhile, and another went on")

// keep keeps a way in an instance's folder.
func (w *way) keep(dir string) error {
	data, err := json.Marshal(w.wayState)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, wayFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep where the time of a create goes: %w", err)
	}
	return nil
}

// forgetWay removes what is kept of a way.
func forgetWay(dir string) error {
	err := os.Remove(filepath.Join(dir, wayFile))
	if err == nil {
		err = os.Remove(dir) // where nothing else was left in it
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
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

// notes says whether what is done of an instance is a part of its way. The head node says
// that an instance was made as soon as its dataset is there.
func (w *way) notes(wanted Wanted) bool {
	return !w.over && !wanted.Gone && !wanted.Down && wanted.Spec != nil && (!wanted.Spec.Made || w.begun())
}

func (w *way) begun() bool { return len(w.Steps) > 0 || w.Waits != "" || w.Doing != "" }

// wait notes what a plan waits for, from a moment on; empty: nothing. It reports whether
// that is news.
func (w *way) wait(wanted Wanted, what string, now time.Time) bool {
	if !w.notes(wanted) || w.Waits == what {
		return false
	}
	if name := waitName(w.Waits); name != "" {
		w.add(name, w.Since, now, nil)
	}
	w.Waits, w.Since = what, now
	return true
}

// begins notes that a step begins, and reports whether it is one of the way.
func (w *way) begins(wanted Wanted, s step, now time.Time) bool {
	name := stepName(s)
	if name == "" || !w.notes(wanted) || w.Waits != "" {
		return false
	}
	w.Doing, w.Since = name, now
	return true
}

// stepName is the name of a step of a way; empty: it is none.
func stepName(s step) string {
	switch s.(type) {
	case stepClone, stepDisks:
		return "clone"
	case stepKeep:
		return "keep spec"
	case stepStart:
		return "start unit"
	}
	return ""
}

// did notes a step. entered is when the zone's unit was ready to become the zone, which
// tells the time of systemd and of the NICs from the time of the zone.
func (w *way) did(wanted Wanted, s step, begun, entered, ended time.Time, err error) {
	if !w.notes(wanted) {
		return
	}
	if w.Doing != "" {
		w.Doing, w.Since = "", time.Time{}
	}
	switch name := stepName(s); s.(type) {
	case stepClone, stepDisks, stepKeep:
		w.add(name, begun, ended, err)
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
	w.Steps = append(w.Steps, s)
	w.Steps = w.Steps[max(0, len(w.Steps)-maxWay):]
}

// started notes a start that another agent had begun: entered is as for did, and ran is
// when the zone ran.
func (w *way) started(entered, ran time.Time) {
	n := len(w.Steps)
	if w.over || n == 0 || w.Steps[n-1].Fault != sentence(errAgentEnded) || w.Steps[n-1].Name != stepName(stepStart{}) {
		return
	}
	begun := w.Steps[n-1].Start
	if entered.Before(begun) || ran.Before(entered) {
		return
	}
	w.Steps = w.Steps[:n-1]
	w.add(stepName(stepStart{}), begun, entered, nil)
	w.add("start zone", entered, ran, nil)
}

// end ends the way and gives its steps, once.
func (w *way) end() []api.InstanceStep {
	steps := w.Steps
	w.wayState, w.over = wayState{}, true
	return steps
}

// noteWay changes what is known of an instance's way, and keeps it where that is news. A
// way that cannot be kept is a waterfall with a gap if the agent ends now, and no more.
func (m *Machines) noteWay(uuid string, f func(*instance) (news bool)) {
	m.mu.Lock()
	i := m.find(uuid)
	var w *way
	if f(i) {
		c := i.way
		w = &c
	}
	m.mu.Unlock()
	if w == nil {
		return
	}
	if err := w.keep(m.dir(uuid)); err != nil {
		m.log().Warn("instance", "uuid", uuid, "err", err)
	}
}

// Told says that somebody else keeps an instance's way now, who was told of it.
func (m *Machines) Told(uuid string) {
	if err := forgetWay(m.dir(uuid)); err != nil {
		m.log().Warn("forget where the time of a create went", "uuid", uuid, "err", err)
	}
}
