package instances

import (
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// Newer are the snapshots of an instance that go when it is rolled back to one: those that
// were taken later, as far as seconds tell. A server destroys of these what is newer there.
func Newer(tx store.Tx, r Record, to api.Snapshot) (out []api.Snapshot, err error) {
	all, err := Snapshots(tx, r.UUID)
	for _, s := range all {
		if s.ID != to.ID && !s.Created.IsZero() && !s.Created.Before(to.Created) {
			out = append(out, s)
		}
	}
	return out, err
}

// RollBack has the server of an instance make it what it was when a snapshot was taken, and
// destroy the newer ones: once, and no others. It is stopped for that, and started again if
// it is to run.
func RollBack(tx store.Tx, a Asked, r Record, to api.Snapshot, newer []api.Snapshot) (_ Record, err error) {
	defer named(&err, "roll instance %s back to snapshot %s", r.UUID, to.Name)
	o, err := observed(tx, r.UUID)
	if err != nil {
		return r, err
	}
	all, err := Snapshots(tx, r.UUID)
	if err != nil {
		return r, err
	}
	wait := "wait until that is done: nereid instance snapshot list " + r.Name
	if to.State != api.SnapshotCreated {
		return r, conflict(wait, "snapshot %s of instance %s is %s, so nothing can be rolled back to it", to.Name, r.Name, to.State)
	}
	for _, s := range all {
		if s.State == api.SnapshotCreating {
			return r, conflict(wait, "snapshot %s of instance %s is being taken", s.Name, r.Name)
		}
	}
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		if spec.Rollback != nil {
			return conflict("wait until that is done: nereid instance get "+r.UUID, "instance %s is being rolled back to snapshot %s", r.Name, spec.Rollback.Name)
		}
		b := &api.RollbackSpec{ID: newID(), Snapshot: to.ID, Name: to.Name}
		for _, s := range newer {
			b.Newer = append(b.Newer, s.ID)
		}
		spec.Rollback, r.Rolled = b, b.Newer
		if r.Wanted == WantRunning && slices.Contains([]string{api.InstanceFailed, api.InstanceStopped}, o.State) {
			spec.Reboot = newID()
		}
		return ask(tx, a.Now, r, a.By, "rollback_snapshot", b.ID)
	})
}

// rolledBack takes in that a rollback is over. What went with it the server tells with the
// snapshots.
func rolledBack(tx store.Tx, a Asked, r *Record, spec *api.InstanceSpec, st api.InstanceStatus) (over bool, err error) {
	b := spec.Rollback
	if b == nil || !slices.Contains(st.Done, b.ID) {
		return false, nil
	}
	spec.Rollback = nil
	if st.Refused != "" {
		r.Rolled = nil
	}
	_, err = finish(tx, a.Now, r, text(st.Refused), func(o open) bool { return o.ID == b.ID })
	return true, err
}
