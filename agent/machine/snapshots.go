package machine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"nereid/api"
)

// Snapshots has the snapshots of instances, each of all that an instance has on the pool.
// Its methods may be called again after a failure.
type Snapshots interface {
	// TakeSnapshot takes one, and gives what is there then; one of its id that is there
	// is left as it is.
	TakeSnapshot(ctx context.Context, instance string, s api.SnapshotStatus) (api.SnapshotStatus, error)
	// DropSnapshot destroys one; that it is not there is no error.
	DropSnapshot(ctx context.Context, instance, id string) error
	// CheckRollback says why a rollback cannot be, and changes nothing.
	CheckRollback(ctx context.Context, instance string, r api.RollbackSpec) (refused string, err error)
	// RollBack makes an instance that does not run what it was, and notes that with it;
	// or it does nothing, and says why.
	RollBack(ctx context.Context, instance string, r api.RollbackSpec) (refused string, err error)
	// EndRollback notes with an instance that a rollback was refused.
	EndRollback(ctx context.Context, instance, id string) error
}

// Past is what the pool has of an instance's past.
type Past struct {
	Snapshots []api.SnapshotStatus // the oldest first
	Rolled    []string             // ids of rollbacks that were carried out, or refused
	Refused   map[string]bool      // those that were refused
}

// past is what is known of an instance's past. Its slices and maps are replaced, not
// changed.
type past struct {
	snaps    []api.SnapshotStatus // that are there, the oldest first
	faults   map[string]string    // of snapshots, by id: why one was not taken, or stays
	slots    map[string]int64     // by schedule: the last that was taken for
	rolled   []string             // ids of rollbacks that are over
	unrolled map[string]string    // why they were refused
	checked  string               // id of the rollback that was found possible
	regrow   bool                 // its disks may be as small as they were once
}

// holds reports whether a snapshot is there.
func (p past) holds(id string) bool {
	return slices.ContainsFunc(p.snaps, func(s api.SnapshotStatus) bool { return s.ID == id })
}

// Remembered takes in what the pool has of an instance's past, before Known.
func (m *Machines) Remembered(uuid string, p Past) {
	m.note(uuid, func(i *instance) {
		i.snaps, i.rolled, i.regrow = p.Snapshots, p.Rolled, len(p.Rolled) > 0
		i.unrolled, i.slots = map[string]string{}, map[string]int64{}
		for id := range p.Refused {
			i.unrolled[id] = "its server refused it"
		}
		for _, s := range p.Snapshots {
			if k, ok := kindNamed(s.Schedule); ok {
				i.slots[s.Schedule] = k.slot(uuid, s.Created)
			}
		}
	})
}

// Wishes are what is wanted of an instance's snapshots, but for its schedule.
type Wishes struct {
	Named map[string]api.SnapshotSpec // that are to be there, by id
	Gone  map[string]bool             // that are to go
}

// Steps of an instance's snapshots.
type (
	stepTake         struct{ Snapshot api.SnapshotStatus }
	stepDropSnapshot struct {
		ID, Name string
		Expired  bool // by its schedule
	}
)

func (s stepTake) String() string { return "snapshot " + s.Snapshot.Name }
func (s stepDropSnapshot) String() string {
	if s.Expired {
		return "destroy snapshot " + s.Name + ", which is too old"
	}
	return "destroy snapshot " + s.Name
}

// planSnapshots is what there is to do of an instance's snapshots now. It is pure. What
// was taken once and is not there is not taken again: it would be another under its name.
// While a rollback is to be done, nothing is: it names what is newer.
func planSnapshots(uuid string, spec *api.InstanceSpec, w Wishes, s seen, now time.Time) (steps []step) {
	if !s.dataset || spec == nil || s.toRoll(spec) != nil {
		return nil
	}
	for _, have := range s.snaps {
		if w.Gone[have.ID] {
			steps = append(steps, stepDropSnapshot{ID: have.ID, Name: have.Name})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.Named)) {
		if n := w.Named[id]; !n.Made && !s.holds(id) && !w.Gone[id] {
			steps = append(steps, stepTake{api.SnapshotStatus{ID: id, Name: n.Name}})
		}
	}
	return append(steps, s.scheduled(uuid, spec.Snapshots, w, now)...)
}

// SetSnapshots makes the snapshots of an instance what is wanted of them, as far as that is
// possible now, and says how each is then. One that cannot be hinders no other; an error is
// all that is to be tried again. Called again when all is as it should be it asks nobody.
// It is for the one who calls Set.
func (m *Machines) SetSnapshots(ctx context.Context, uuid string, spec *api.InstanceSpec, w Wishes) (all []api.SnapshotStatus, err error) {
	if spec == nil {
		spec = m.Kept(uuid)
	}
	now := m.now()
	var errs []error
	s := m.look(uuid, nil)
	for _, step := range planSnapshots(uuid, spec, w, s, now) {
		err := m.doSnapshot(ctx, uuid, spec, step)
		if err != nil {
			m.log().Error("instance", "uuid", uuid, "step", step.String(), "err", err)
			if d, is := step.(stepDropSnapshot); !is || !d.Expired {
				errs = append(errs, fmt.Errorf("%s: %w", step, err))
			}
			continue
		}
		m.log().Info("instance", "uuid", uuid, "step", step.String())
	}
	s = m.look(uuid, nil)
	if spec != nil && s.dataset {
		if wait := nextSlot(uuid, spec.Snapshots, now); wait > 0 {
			m.later(uuid, wait)
		}
	}
	return snapshotStatuses(w, s), errors.Join(errs...)
}

// doSnapshot does one step, and notes what is there then.
func (m *Machines) doSnapshot(ctx context.Context, uuid string, spec *api.InstanceSpec, s step) error {
	if m.Snapshots == nil {
		return errors.New("this agent takes no snapshots")
	}
	id := ""
	var err error
	switch s := s.(type) {
	case stepTake:
		id = s.Snapshot.ID
		var taken api.SnapshotStatus
		if taken, err = m.take(ctx, uuid, spec, s.Snapshot); err == nil {
			m.note(uuid, func(i *instance) {
				i.snaps = append(slices.Clone(i.snaps), taken)
				if k, ok := kindNamed(taken.Schedule); ok {
					i.slots = maps.Clone(i.slots)
					if i.slots == nil {
						i.slots = map[string]int64{}
					}
					i.slots[k.name] = k.slot(uuid, m.now())
				}
			})
		}
	case stepDropSnapshot:
		id = s.ID
		if err = m.Snapshots.DropSnapshot(ctx, uuid, id); err == nil {
			m.note(uuid, func(i *instance) {
				i.snaps = slices.DeleteFunc(slices.Clone(i.snaps), func(s api.SnapshotStatus) bool { return s.ID == id })
			})
		}
	default:
		return fmt.Errorf("step %T is not known", s)
	}
	m.note(uuid, func(i *instance) {
		i.faults = maps.Clone(i.faults)
		delete(i.faults, id)
		if err != nil && ctx.Err() == nil {
			if i.faults == nil {
				i.faults = map[string]string{}
			}
			i.faults[id] = sentence(err)
		}
	})
	return err
}

// take takes a snapshot, and says what it holds.
func (m *Machines) take(ctx context.Context, uuid string, spec *api.InstanceSpec, s api.SnapshotStatus) (api.SnapshotStatus, error) {
	unit := unitNone
	m.note(uuid, func(i *instance) { unit = i.unit })
	s.Created = m.now().UTC().Truncate(time.Second)
	switch {
	case unit == unitNone || unit == unitFailed:
		s.Consistency = api.SnapshotStopped
	case spec.Brand != api.BrandKVM:
		s.Consistency = api.SnapshotAtomic
	default:
		var taken api.SnapshotStatus
		var done bool
		var err error
		rerr := m.AtRest(ctx, uuid, func(ctx context.Context) {
			s.Consistency, done = api.SnapshotFrozen, true
			taken, err = m.Snapshots.TakeSnapshot(ctx, uuid, s)
		})
		if done {
			return taken, err
		}
		m.log().Info("a guest does not wait for a snapshot", "uuid", uuid, "err", rerr)
		s.Consistency = api.SnapshotCrash
	}
	return m.Snapshots.TakeSnapshot(ctx, uuid, s)
}

// SnapshotStatuses says how the snapshots of an instance are, without anything done about
// them.
func (m *Machines) SnapshotStatuses(uuid string, w Wishes) []api.SnapshotStatus {
	return snapshotStatuses(w, m.look(uuid, nil))
}

// snapshotStatuses says how the snapshots of an instance are, those that are there first,
// the oldest before the others. Of what was taken once and is not there it says nothing.
func snapshotStatuses(w Wishes, s seen) (all []api.SnapshotStatus) {
	for _, have := range s.snaps {
		have.Reason = s.faults[have.ID]
		if w.Gone[have.ID] {
			have.State = api.SnapshotDeleting
		}
		all = append(all, have)
	}
	for _, id := range slices.Sorted(maps.Keys(w.Named)) {
		n := w.Named[id]
		if s.holds(id) || w.Gone[id] || n.Made { // one that was taken and is not there is gone
			continue
		}
		st := api.SnapshotStatus{ID: id, Name: n.Name, State: api.SnapshotCreating, Reason: "It waits for its instance's rollback."}
		switch why := s.faults[id]; {
		case !s.dataset:
			st.State, st.Reason = api.SnapshotFailed, "Its instance has no dataset on its server's pool."
		case why != "":
			st.State, st.Reason = api.SnapshotFailed, why
		}
		all = append(all, st)
	}
	return all
}

func (m *Machines) now() time.Time {
	if m.Now == nil {
		return time.Now()
	}
	return m.Now()
}

// later has an instance looked at after a time, once.
func (m *Machines) later(uuid string, wait time.Duration) {
	m.note(uuid, func(i *instance) {
		if i.clock != nil {
			i.clock.Stop()
		}
		i.clock = time.AfterFunc(wait, func() { m.changed(uuid) })
	})
}
