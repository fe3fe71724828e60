package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"nereid/agent/machine/mdata"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// do does one step, and notes what is there then.
func (m *Machines) do(ctx context.Context, uuid string, spec *api.InstanceSpec, s step) error {
	name, dir := Unit(uuid), m.dir(uuid)
	switch s := s.(type) {
	case stepImage:
		if m.Fetch != nil {
			m.Fetch(s.Image, uuid)
		}
		return nil
	case stepClone:
		if err := m.Store.CloneImage(ctx, s.Image, uuid, s.Quota); err != nil {
			return err
		}
		m.note(uuid, func(i *instance) { i.dataset, i.kept = true, nil })
		return nil
	case stepQuota:
		return m.Store.SetQuota(ctx, uuid, s.MiB)
	case stepKeep:
		kept := lasting(*spec)
		text, err := json.Marshal(kept)
		if err != nil {
			return err
		}
		if err := m.Store.KeepSpec(ctx, uuid, text); err != nil {
			return err
		}
		m.note(uuid, func(i *instance) { i.kept = &kept })
		return nil
	case stepFiles:
		return m.leave(uuid, spec, s.Start)
	case stepLive:
		return m.live(ctx, uuid, spec)
	case stepStart:
		return m.start(ctx, uuid, spec)
	case stepStop, stepKill:
		return m.end(ctx, uuid, s == stepKill{})
	case stepReset:
		return m.reset(ctx, uuid, spec)
	case stepLimits:
		if err := m.Units.Limit(ctx, name, s.Limits); err != nil {
			return err
		}
		m.note(uuid, func(i *instance) { i.limits = &s.Limits })
		return nil
	case stepSignal:
		// First that it is done: it is sent once, or not.
		if err := m.did(uuid, spec, s.ID); err != nil || !s.Runs {
			return err
		}
		if err := m.Units.Signal(ctx, name, s.Signal); err != nil {
			m.log().Warn("send a signal to an instance", "uuid", uuid, "signal", s.Signal, "err", err)
		}
		return nil
	case stepDone:
		return m.did(uuid, spec, s.ID)
	case stepDestroy:
		if err := m.Store.DropInstance(ctx, uuid); err != nil {
			return err
		}
		m.note(uuid, func(i *instance) { i.dataset, i.kept = false, nil })
		return nil
	case stepForget:
		if err := errors.Join(os.RemoveAll(dir), zone.Forget(uuid)); err != nil {
			return err
		}
		m.note(uuid, func(i *instance) { i.left, i.inside, i.guest, i.ran = nil, nil, nil, false })
		return nil
	}
	return fmt.Errorf("step %T is not known", s)
}

// leave leaves a zone's files. Those for a start answer all requests until now.
func (m *Machines) leave(uuid string, spec *api.InstanceSpec, start bool) error {
	base, err := m.base(uuid)
	if err != nil {
		return err
	}
	h, in, g := m.filesOf(spec, base)
	h.Dataset = m.Pool + "/" + uuid
	m.mu.Lock()
	h.Done = m.find(uuid).done()
	m.mu.Unlock()
	if start {
		h.Done = with(h.Done, ids(spec)...)
	}
	return m.write(uuid, h, in, g)
}

func (m *Machines) write(uuid string, h zone.Host, in zone.Inside, g mdata.Guest) error {
	if err := zone.Leave(m.dir(uuid), h, in, g); err != nil {
		return err
	}
	m.note(uuid, func(i *instance) { i.left, i.inside, i.guest = &h, &in, &g })
	return nil
}

// did notes that requests were carried out.
func (m *Machines) did(uuid string, spec *api.InstanceSpec, ids ...string) error {
	m.mu.Lock()
	i := m.find(uuid)
	h, in, g := m.filesOf(spec, i.base())
	if i.left != nil {
		h = *i.left
	}
	if i.inside != nil {
		in = *i.inside
	}
	if i.guest != nil {
		g = *i.guest
	}
	m.mu.Unlock()
	h.Done = with(h.Done, ids...)
	return m.write(uuid, h, in, g)
}

// start starts a zone. What it failed of is the error.
func (m *Machines) start(ctx context.Context, uuid string, spec *api.InstanceSpec) error {
	m.mu.Lock()
	ready := m.prepared || m.Prepare == nil
	m.mu.Unlock()
	if !ready {
		if err := m.Prepare(ctx); err != nil {
			return fmt.Errorf("prepare the server for zones: %w", err)
		}
		m.mu.Lock()
		m.prepared = true
		m.mu.Unlock()
	}
	m.note(uuid, func(i *instance) {
		i.unit, i.killed, i.ran, i.why, i.pause = unitStarts, false, false, "", time.Time{}
	})
	if err := zone.Unmark(m.dir(uuid)); err != nil {
		return err
	}
	err := m.Units.Start(ctx, Unit(uuid), m.dir(uuid), spec.Limits)
	if err != nil {
		m.note(uuid, func(i *instance) { i.unit = unitNone })
		if why, rerr := m.Units.Reset(ctx, Unit(uuid)); rerr == nil && why != "" {
			err = fmt.Errorf("%w (%s)", err, why)
		}
		if why := zone.Reason(m.dir(uuid)); why != "" {
			err = errors.New(why)
		}
		return err
	}
	m.note(uuid, func(i *instance) {
		i.unit, i.ran, i.since = unitRuns, true, time.Now()
		l := spec.Limits
		i.limits = &l
	})
	return nil
}

// live brings a zone that runs to the NICs that are wanted. One that started anew
// meanwhile may have begun with what was wanted before.
func (m *Machines) live(ctx context.Context, uuid string, spec *api.InstanceSpec) error {
	m.mu.Lock()
	base := m.find(uuid).base()
	m.mu.Unlock()
	dir := m.dir(uuid)
	h, in, _ := m.filesOf(spec, base)
	run := zone.Up(dir)
	if run == "" {
		return errors.New("the zone is starting; it is tried again")
	}
	if err := m.Live(ctx, uuid, h); err != nil {
		return err
	}
	if zone.Up(dir) != run {
		return errors.New("the zone started anew meanwhile; it is tried again")
	}
	if err := zone.Set(dir, h, in); err != nil {
		return fmt.Errorf("note what is set in zone %s: %w", uuid, err)
	}
	m.note(uuid, func(i *instance) { i.now = &in })
	return nil
}

// end has a zone end. From here on its end is ours, and no wish of its own.
func (m *Machines) end(ctx context.Context, uuid string, kill bool) error {
	if err := zone.Unmark(m.dir(uuid)); err != nil {
		return err
	}
	var was instance
	m.note(uuid, func(i *instance) {
		was = *i
		i.unit, i.ran, i.until = unitStops, false, time.Now().Add(StopLimit)
		i.killed = i.killed || kill
	})
	var err error
	if kill {
		err = m.Units.Signal(ctx, Unit(uuid), "SIGKILL")
	} else {
		err = m.Units.Stop(ctx, Unit(uuid))
	}
	if err != nil {
		m.note(uuid, func(i *instance) {
			if i.unit == unitStops {
				i.unit, i.killed = was.unit, was.killed
			}
		})
	}
	return err
}

// reset forgets a unit that failed. A failure that nobody asked for is an error, after
// which the zone is started again.
func (m *Machines) reset(ctx context.Context, uuid string, spec *api.InstanceSpec) error {
	why, err := m.Units.Reset(ctx, Unit(uuid))
	if err != nil {
		return err
	}
	wanted := spec != nil && spec.Wanted == api.InstanceRunning
	by, stays := false, false
	m.note(uuid, func(i *instance) {
		by = i.ran
		stays = by && wanted && spec.Restart == api.RestartNo
		i.unit, i.ran, i.killed, i.why = unitNone, stays, false, ""
		if by {
			i.why = why
		}
	})
	if stays {
		return zone.Failed(m.dir(uuid), why)
	}
	if err := zone.Unmark(m.dir(uuid)); err != nil {
		return err
	}
	if by && wanted {
		return fmt.Errorf("it ended: %s; it is started again", why)
	}
	return nil
}

// status is how an instance is.
func (m *Machines) status(uuid string, w Wanted, wait string, err error) api.InstanceStatus {
	m.mu.Lock()
	i := m.find(uuid)
	s, since, until, why, pause := i.seen, i.since, i.until, i.why, i.pause
	coming := ""
	if w.Spec != nil {
		coming = m.coming[w.Spec.Image]
	}
	m.mu.Unlock()
	st := api.InstanceStatus{UUID: uuid, Made: s.dataset, Done: slices.Clone(s.done())}
	if w.Spec != nil {
		st.Done = slices.DeleteFunc(st.Done, func(id string) bool { return !slices.Contains(ids(w.Spec), id) })
	}
	if len(st.Done) == 0 {
		st.Done = nil
	}
	switch {
	case s.unit == unitRuns:
		st.State, st.Started = api.InstanceRunning, since
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
func sentence(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + strings.TrimRight(text[1:], ".") + "."
}

// uuidOf is the instance whose unit has a name.
func uuidOf(name string) (string, bool) {
	uuid, ok := strings.CutPrefix(name, unitPrefix)
	if !ok {
		return "", false
	}
	uuid, ok = strings.CutSuffix(uuid, ".service")
	return uuid, ok && uuid != ""
}
