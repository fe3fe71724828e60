package instances

import (
	"cmp"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// SnapshotSet is the journal's set of the snapshots that a server's instances are to have.
func SnapshotSet(server string) journal.Set {
	return journal.Set{Name: api.SnapshotSet(server), Keep: true}
}

const (
	snapshotPrefix = "instances/snapshot/"

	// DefaultSnapshots is how many snapshots of one instance there may be, of those that
	// somebody asked for, unless the settings say otherwise.
	DefaultSnapshots = 32
	maxSnapshots     = 256 // of the setting
	maxOfOne         = 512 // snapshots of one instance that are kept, whoever took them
)

func snapshotKey(s api.Snapshot) string { return snapshotPrefix + s.Instance + "/" + s.ID }

var (
	snapshotRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	idRE       = regexp.MustCompile(`^[0-9a-f]{8,32}$`)
)

// schedules are what the names of snapshots begin with that a server takes by itself.
var schedules = []string{api.SnapshotHourly, api.SnapshotDaily, api.SnapshotWeekly}

// Snapshots lists the snapshots of an instance, the oldest first: as they were taken, then
// those that were not yet.
func Snapshots(tx store.Tx, uuid string) (out []api.Snapshot, err error) {
	defer named(&err, "list snapshots of instance %s", uuid)
	for e, err := range store.Each[api.Snapshot](tx, snapshotPrefix+uuid+"/") {
		if err != nil {
			return nil, err
		}
		out = append(out, e.Value)
	}
	slices.SortStableFunc(out, func(a, b api.Snapshot) int {
		if a.Created.IsZero() != b.Created.IsZero() {
			return map[bool]int{true: 1, false: -1}[a.Created.IsZero()]
		}
		return cmp.Or(a.Created.Compare(b.Created), a.Asked.Compare(b.Asked), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

// FindSnapshot finds a snapshot of an instance by its name or id. One that the head node
// asked for comes before one of the same name that it did not.
func FindSnapshot(tx store.Tx, r Record, id string) (s api.Snapshot, err error) {
	defer named(&err, "find snapshot %.64s of instance %s", id, r.UUID)
	all, err := Snapshots(tx, r.UUID)
	if err != nil {
		return s, err
	}
	var found []api.Snapshot
	for _, s := range all {
		if s.ID == id {
			return s, nil
		}
		if s.Name == id {
			found = append(found, s)
		}
	}
	if known := slices.DeleteFunc(slices.Clone(found), func(s api.Snapshot) bool { return s.Unexpected }); len(known) == 1 {
		return known[0], nil
	}
	switch len(found) {
	case 0:
		return s, refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid instance snapshot list "+r.Name, "instance %s has no snapshot %.64q", r.Name, id)
	case 1:
		return found[0], nil
	}
	return s, conflict("name it by its id: nereid instance snapshot list "+r.Name+" -o json", "%d snapshots of instance %s have the name %s", len(found), r.Name, id)
}

// CreateSnapshot has the server of an instance take a snapshot. Without a name it gets that
// of the moment.
func CreateSnapshot(tx store.Tx, a Asked, r Record, name string) (s api.Snapshot, err error) {
	defer named(&err, "ask for a snapshot of instance %s", r.UUID)
	if err := snapshotable(tx, r); err != nil {
		return s, err
	}
	if name == "" {
		name = a.Now.UTC().Format("20060102T150405Z")
	}
	all, err := Snapshots(tx, r.UUID)
	if err != nil {
		return s, err
	}
	settings, err := GetSettings(tx)
	if err != nil {
		return s, err
	}
	var faults []error
	if !snapshotRE.MatchString(name) {
		faults = append(faults, invalid("take another name", "name %.80q of the snapshot: want 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', a letter or digit first", name))
	}
	if by := slices.IndexFunc(schedules, func(k string) bool { return strings.HasPrefix(name, k+"-") }); by >= 0 {
		faults = append(faults, invalid("take another name", "names that begin with %s- are those of the server's own snapshots", schedules[by]))
	}
	asked := 0
	for _, s := range all {
		if s.Name == name {
			faults = append(faults, conflict("take another name; see: nereid instance snapshot list "+r.Name, "instance %s has a snapshot %s, which is %s", r.Name, name, s.State))
		}
		if s.Schedule == "" {
			asked++
		}
	}
	if asked >= settings.MaxSnapshots {
		faults = append(faults, conflict("delete some of them first", "instance %s has %s; at most %d are allowed beside those of its schedule (nereid instance settings)", r.Name, api.Plural(asked, "snapshot"), settings.MaxSnapshots))
	}
	if err := api.Faults(faults...); err != nil {
		return s, err
	}
	s = api.Snapshot{Instance: r.UUID, ID: newID(), Name: name, State: api.SnapshotCreating, By: a.By, Asked: a.Now.UTC(), Updated: a.Now.UTC()}
	if err := putSnapshotSpec(tx, r.Server, api.SnapshotSpec{Instance: r.UUID, ID: s.ID, Name: name}); err != nil {
		return s, err
	}
	if err := store.Put(tx, snapshotKey(s), s); err != nil {
		return s, err
	}
	return s, askSnapshot(tx, a, r, "create_snapshot", s.ID)
}

// snapshotable refuses what is asked of the snapshots of an instance that has, or will
// have, nothing on its server's pool.
func snapshotable(tx store.Tx, r Record) error {
	if r.Wanted == WantDeleted {
		return conflict("wait until it is gone: nereid instance get "+r.UUID, "instance %s (%s) is being deleted", r.Name, r.UUID)
	}
	o, err := observed(tx, r.UUID)
	if err == nil && !o.Made {
		err = conflict("wait until it runs: nereid instance get "+r.UUID, "instance %s (%s) has nothing on its server yet", r.Name, r.UUID)
	}
	return err
}

// askSnapshot adds to the audit what is asked of a snapshot. What is wanted of the instance
// itself stays the same, and so does its revision.
func askSnapshot(tx store.Tx, a Asked, r Record, action, id string) error {
	if err := ask(tx, a.Now, &r, a.By, action, id); err != nil {
		return err
	}
	return keepRecord(tx, r)
}

// keepRecord writes a record whose instance is wanted as it was.
func keepRecord(tx store.Tx, r Record) error {
	if r.Wanted != WantDeleted {
		r.Metadata = nil // it is in the spec
	}
	return putRecord(tx, recordPrefix+r.UUID, r)
}

func putSnapshotSpec(tx store.Tx, server string, spec api.SnapshotSpec) error {
	value, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	_, err = journal.Put(tx, SnapshotSet(server), api.SnapshotKey(spec.Instance, spec.ID), value)
	return err
}

// DeleteSnapshot has the server of an instance destroy a snapshot. Asked again it changes
// nothing.
func DeleteSnapshot(tx store.Tx, a Asked, r Record, s api.Snapshot) (_ api.Snapshot, err error) {
	defer named(&err, "delete snapshot %s of instance %s", s.Name, r.UUID)
	if r.Wanted == WantDeleted {
		return s, conflict("wait until it is gone: nereid instance get "+r.UUID, "instance %s (%s) is being deleted, with its snapshots", r.Name, r.UUID)
	}
	if s.State == api.SnapshotDeleting {
		return s, nil
	}
	spec, err := Spec(tx, r)
	if err != nil {
		return s, err
	}
	if b := spec.Rollback; b != nil && (b.Snapshot == s.ID || slices.Contains(b.Newer, s.ID)) {
		return s, conflict("wait until that is done: nereid instance get "+r.UUID, "instance %s is being rolled back to snapshot %s", r.Name, b.Name)
	}
	if _, err := finish(tx, a.Now, &r, "overtaken by a deletion", func(o open) bool { return o.Action == "create_snapshot" && o.ID == s.ID }); err != nil {
		return s, err
	}
	if err := tombstone(tx, r.Server, s); err != nil {
		return s, err
	}
	s.State, s.Reason, s.Updated = api.SnapshotDeleting, "", a.Now.UTC()
	if err := store.Put(tx, snapshotKey(s), s); err != nil {
		return s, err
	}
	return s, askSnapshot(tx, a, r, "delete_snapshot", s.ID)
}

// tombstone has a server destroy a snapshot: one that it was told of, one that it took by
// itself, or one that is unexpected. A key that never was in the set gets there first.
func tombstone(tx store.Tx, server string, s api.Snapshot) error {
	key := api.SnapshotKey(s.Instance, s.ID)
	_, err := journal.Edit(tx, SnapshotSet(server), func(e *journal.Editor) error {
		have, err := e.Get(key)
		if err == nil && have == nil {
			var value []byte
			if value, err = json.Marshal(api.SnapshotSpec{Instance: s.Instance, ID: s.ID, Name: s.Name, Made: true}); err == nil {
				err = e.Put(key, value)
			}
		}
		if err != nil {
			return err
		}
		return e.Delete(key)
	})
	return err
}

// dropSnapshots has nobody ask for the snapshots of an instance any more, which is to be
// deleted: they go with its dataset.
func dropSnapshots(tx store.Tx, r Record) error {
	all, err := Snapshots(tx, r.UUID)
	if err != nil || len(all) == 0 {
		return err
	}
	_, err = journal.Edit(tx, SnapshotSet(r.Server), func(e *journal.Editor) error {
		for _, s := range all {
			if err := e.Delete(api.SnapshotKey(r.UUID, s.ID)); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// forgetSnapshots forgets the snapshots of an instance of which nothing is left.
func forgetSnapshots(tx store.Tx, uuid string) error {
	all, err := Snapshots(tx, uuid)
	for _, s := range all {
		if err == nil {
			err = tx.Delete(snapshotKey(s))
		}
	}
	return err
}

// SetSchedule has the server of an instance take snapshots by itself; with nothing in it,
// take none any more. Those that it took stay.
func SetSchedule(tx store.Tx, a Asked, r Record, in api.SnapshotSchedule) (_ Record, err error) {
	defer named(&err, "set the schedule of snapshots of instance %s", r.UUID)
	var faults []error
	for _, f := range []struct {
		name     string
		keep, of int
	}{{"hourly", in.Hourly, 48}, {"daily", in.Daily, 31}, {"weekly", in.Weekly, 52}} {
		if f.keep < 0 || f.keep > f.of {
			faults = append(faults, invalid("give it another number", "%s is %d; want 0 to %d snapshots to keep", f.name, f.keep, f.of))
		}
	}
	if err := api.Faults(faults...); err != nil {
		return r, err
	}
	in.Since = a.Now.UTC().Truncate(time.Second)
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		next := &in
		if in.Hourly+in.Daily+in.Weekly == 0 {
			next = nil
		} else if had := r.Snapshots; had != nil {
			next.Since = had.Since
		}
		r.Snapshots, spec.Snapshots = next, next
		return did(tx, a.Now, *r, a.By, "set_snapshot_schedule")
	})
}

func decodeSnapshotSpec(value []byte) (spec api.SnapshotSpec, err error) {
	err = json.Unmarshal(value, &spec)
	return spec, err
}
