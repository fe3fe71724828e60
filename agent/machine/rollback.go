package machine

import (
	"context"
	"errors"
	"maps"
	"slices"

	"nereid/api"
)

// Steps of a rollback.
type (
	stepMayRoll struct{ Rollback api.RollbackSpec } // looks whether it is possible, before anything is stopped
	stepRoll    struct{ Rollback api.RollbackSpec }
)

func (s stepMayRoll) String() string { return "may it go back to " + s.Rollback.Name }
func (s stepRoll) String() string    { return "roll back to " + s.Rollback.Name }

// toRoll is the rollback that is to be done of an instance; nil: none is.
func (s seen) toRoll(spec *api.InstanceSpec) *api.RollbackSpec {
	if spec == nil || spec.Rollback == nil || spec.Rollback.ID == "" || !s.dataset || slices.Contains(s.rolled, spec.Rollback.ID) {
		return nil
	}
	return spec.Rollback
}

// rollback is how an instance gets to a snapshot. It does not run from its stop until what
// was done is noted on the pool, so that what is done again, when power went in between, is
// done again of the same.
func (s seen) rollback(r api.RollbackSpec, spec *api.InstanceSpec) (steps []step, wait string) {
	if s.checked != r.ID {
		return []step{stepMayRoll{r}}, ""
	}
	if steps, wait = s.stop(spec); len(steps) > 0 || wait != "" {
		return steps, wait
	}
	return []step{stepRoll{r}}, ""
}

// roll does a step of a rollback. What was refused is over, and is not an error: the
// instance goes on as it is.
func (m *Machines) roll(ctx context.Context, uuid string, s step) error {
	if m.Snapshots == nil {
		return errors.New("this agent takes no snapshots")
	}
	var r api.RollbackSpec
	var refused string
	var err error
	switch s := s.(type) {
	case stepMayRoll:
		r = s.Rollback
		refused, err = m.Snapshots.CheckRollback(ctx, uuid, r)
	case stepRoll:
		r = s.Rollback
		refused, err = m.Snapshots.RollBack(ctx, uuid, r)
	}
	if err == nil && refused != "" {
		err = m.Snapshots.EndRollback(ctx, uuid, r.ID)
	}
	if err != nil {
		return err
	}
	_, done := s.(stepRoll)
	m.note(uuid, func(i *instance) {
		switch {
		case refused != "":
			i.unrolled = maps.Clone(i.unrolled)
			if i.unrolled == nil {
				i.unrolled = map[string]string{}
			}
			i.unrolled[r.ID] = sentence(errors.New(refused))
		case !done:
			i.checked = r.ID
			return
		default:
			i.regrow = true
			i.snaps = slices.DeleteFunc(slices.Clone(i.snaps), func(s api.SnapshotStatus) bool { return slices.Contains(r.Newer, s.ID) })
		}
		i.rolled, i.checked = append(slices.Clone(i.rolled), r.ID), ""
	})
	return nil
}
