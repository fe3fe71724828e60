package machine

import (
	"cmp"
	"slices"
	"strings"

	"nereid/api"
)

// status is how an instance is.
func (m *Machines) status(uuid string, w Wanted, wait string, err error) api.InstanceStatus {
	m.mu.Lock()
	i := m.find(uuid)
	s, since, until, why, pause, is, refused := i.seen, i.since, i.until, i.why, i.pause, i.guestIs, i.refused
	coming := ""
	if w.Spec != nil {
		coming = m.coming[w.Spec.Image]
	}
	m.mu.Unlock()
	st := api.InstanceStatus{UUID: uuid, Made: s.dataset, Done: slices.Clone(s.done())}
	if w.Spec != nil {
		st.Done = slices.DeleteFunc(st.Done, func(id string) bool { return !slices.Contains(ids(w.Spec), id) })
	}
	if w.Spec != nil && w.Spec.Rollback != nil && slices.Contains(s.rolled, w.Spec.Rollback.ID) {
		st.Done, st.Refused = append(st.Done, w.Spec.Rollback.ID), s.unrolled[w.Spec.Rollback.ID]
	}
	if len(st.Done) == 0 {
		st.Done = nil
	}
	switch {
	case s.unit == unitRuns:
		st.State, st.Started = api.InstanceRunning, since
		st.Reason = cmp.Or(is.sentence(), s.waiting(w.Spec), capital(refused))
		if wait == "NIC" {
			st.Reason = "It gets its NICs as soon as they are there; what is wrong with one is among the server's problems."
		}
	case s.unit == unitStarts:
		st.State, st.Reason = api.InstanceProvisioning, "It starts."
	case s.unit == unitStops || w.Gone:
		st.State, st.Until = api.InstanceStopping, until
		if s.unit == unitStops {
			st.Reason = "It was told to end, and is killed when it has not by then."
		}
	case wait == "image":
		st.State, st.Reason = api.InstanceProvisioning, "It waits for its image"
		if coming != "" {
			st.Reason += ": " + coming
		}
		st.Reason += "."
	case wait == "NIC":
		st.State, st.Reason = api.InstanceProvisioning, "It waits for its NICs; what is wrong with one is among the server's problems."
	case wait == "pause":
		st.State, st.Until, st.Reason = api.InstanceStopped, pause, "It ended soon after its last starts, and is started again then."
		if why != "" {
			st.State, st.Reason = api.InstanceFailed, "It ended soon after its last starts: "+why+"; it is started again then."
		}
	case why != "" && s.ran && w.Spec != nil && w.Spec.Wanted == api.InstanceRunning:
		st.State, st.Reason = api.InstanceFailed, "It ended: "+why+"; start it when it is to run again."
	case s.ran && is.ended != "" && w.Spec != nil && w.Spec.Wanted == api.InstanceRunning:
		st.State, st.Reason = api.InstanceStopped, "Its QEMU was told to end on its server ("+is.ended+"); start it when it is to run again."
	case s.ran && w.Spec != nil && w.Spec.Wanted == api.InstanceRunning:
		st.State, st.Reason = api.InstanceStopped, "It was shut down from inside; start it when it is to run again."
	case w.Down:
		st.State, st.Reason = api.InstanceStopped, "Its server goes down."
	case w.Spec == nil:
		st.State, st.Reason = api.InstanceStopped, "What it is to be was not kept with its dataset, and no head node said."
	default:
		st.State = api.InstanceStopped
	}
	if err != nil {
		st.Reason = sentence(err)
		if s.unit != unitRuns {
			st.State = api.InstanceFailed
		}
	}
	return st
}

// sentence makes one of an error.
func sentence(err error) string { return capital(err.Error()) }

// capital makes a sentence of a text.
func capital(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + strings.TrimRight(text[1:], ".") + "."
}
