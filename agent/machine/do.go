package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"nereid/agent/machine/zone"
	"nereid/api"
)

// do does one step, and notes what is there then.
func (m *Machines) do(ctx context.Context, uuid string, spec *api.InstanceSpec, s step) error {
	b, dir := m.brand(uuid, spec), m.dir(uuid)
	name := b.unit(uuid)
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
	case stepDisks:
		if m.Disks == nil {
			return errors.New("this agent makes no volumes")
		}
		if err := m.Disks.CloneDisks(ctx, uuid, s.Disks, s.Quota); err != nil {
			return err
		}
		m.note(uuid, func(i *instance) { i.dataset, i.regrow = true, false })
		return nil
	case stepMayRoll, stepRoll:
		return m.roll(ctx, uuid, s)
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
		return m.leave(ctx, uuid, spec, s.Start)
	case stepLive:
		return m.live(ctx, uuid, spec)
	case stepPlug, stepUnplug, stepGrow:
		return m.change(ctx, uuid, s)
	case stepDrop:
		return m.drop(ctx, uuid, s.Disk)
	case stepStart:
		return m.start(ctx, uuid, name, spec)
	case stepStop, stepKill:
		return m.end(ctx, uuid, name, s == stepKill{})
	case stepReset:
		return m.reset(ctx, uuid, name, spec)
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
		if kills := s.Signal == "SIGKILL" || s.Signal == "KILL" || s.Signal == "9"; b.signals != "" && !kills {
			m.log().Warn("an instance gets no signal", "uuid", uuid, "signal", s.Signal, "why", b.signals)
			m.note(uuid, func(i *instance) { i.refused = s.Signal + " was not sent: " + b.signals })
			return nil
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
		m.note(uuid, func(i *instance) { i.dataset, i.kept, i.past = false, nil, past{} })
		return nil
	case stepForget:
		if err := errors.Join(os.RemoveAll(dir), zone.Forget(uuid)); err != nil {
			return err
		}
		m.note(uuid, func(i *instance) {
			i.left, i.inside, i.guest, i.start, i.seed, i.ran = nil, nil, nil, nil, nil, false
		})
		return nil
	}
	return fmt.Errorf("step %T is not known", s)
}

// prepare makes the server ready for instances, before the first start.
func (m *Machines) prepare(ctx context.Context) error {
	m.mu.Lock()
	ready := m.prepared || m.Prepare == nil
	m.mu.Unlock()
	if ready {
		return nil
	}
	if err := m.Prepare(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.prepared = true
	m.mu.Unlock()
	return nil
}

// start starts an instance. What it failed of is the error.
func (m *Machines) start(ctx context.Context, uuid, name string, spec *api.InstanceSpec) error {
	m.note(uuid, func(i *instance) {
		i.unit, i.killed, i.ran, i.why, i.pause = unitStarts, false, false, "", time.Time{}
		i.kind, i.refused, i.guestIs, i.conn, i.hot, i.asked = m.kindOf(spec), "", guestIs{}, nil, nil, nil
	})
	if err := zone.Unmark(m.dir(uuid)); err != nil {
		return err
	}
	err := m.Units.Start(ctx, name, m.dir(uuid), spec.Limits)
	if err != nil {
		m.note(uuid, func(i *instance) { i.unit = unitNone })
		if uerr := zone.Unmark(m.dir(uuid)); uerr != nil { // it may have got as far as its init
			err = errors.Join(err, uerr)
		}
		if why, rerr := m.Units.Reset(ctx, name); rerr == nil && why != "" {
			err = fmt.Errorf("%w (%s)", err, why)
		}
		if why := zone.Reason(m.dir(uuid)); why != "" {
			err = errors.New(why)
		} else if last := zone.LastLine(uuid); last != "" {
			err = fmt.Errorf("%w; its console ends with %q", err, last)
		}
		return err
	}
	m.note(uuid, func(i *instance) {
		i.unit, i.ran, i.since = unitRuns, true, time.Now()
		l := spec.Limits
		i.limits = &l
	})
	m.attend(uuid)
	return nil
}

// live brings a zone that runs to the NICs that are wanted. One that started anew
// meanwhile may have begun with what was wanted before.
func (m *Machines) live(ctx context.Context, uuid string, spec *api.InstanceSpec) error {
	m.mu.Lock()
	base := m.find(uuid).base()
	m.mu.Unlock()
	dir := m.dir(uuid)
	h, in, _ := filesOf(spec, base, m.Server)
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

// end has an instance end. From here on its end is ours, and no wish of its own.
func (m *Machines) end(ctx context.Context, uuid, name string, kill bool) error {
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
		err = m.Units.Signal(ctx, name, "SIGKILL")
	} else {
		err = m.Units.Stop(ctx, name)
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
func (m *Machines) reset(ctx context.Context, uuid, name string, spec *api.InstanceSpec) error {
	why, err := m.Units.Reset(ctx, name)
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

// carry does steps one after another, up to the first that fails. What is to be kept of an
// instance of which something is kept is kept while the instance starts: the old spec and
// the set of instances say what it is for as long as that takes.
func (m *Machines) carry(ctx context.Context, uuid string, w Wanted, s seen, steps []step) error {
	var beside sync.WaitGroup
	var kept, err error
	starts := slices.Contains(steps, step(stepStart{}))
	for _, step := range steps {
		if step == (stepKeep{}) && s.kept != nil && starts {
			beside.Go(func() { kept = m.step(ctx, uuid, w, step) })
			continue
		}
		if err = m.step(ctx, uuid, w, step); err != nil {
			break
		}
	}
	beside.Wait()
	return errors.Join(kept, err)
}

// step does one, and notes what came of it.
func (m *Machines) step(ctx context.Context, uuid string, w Wanted, s step) error {
	begun := time.Now()
	m.noteWay(uuid, func(i *instance) bool { return i.way.begins(w, s, begun) })
	err := m.do(ctx, uuid, w.Spec, s)
	m.noteWay(uuid, func(i *instance) bool {
		i.way.did(w, s, begun, zone.Entered(m.dir(uuid)), time.Now(), err)
		return i.way.notes(w) && stepName(s) != ""
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", s, err)
		m.log().Error("instance", "uuid", uuid, "err", err)
		return err
	}
	m.log().Info("instance", "uuid", uuid, "step", s.String())
	return nil
}
