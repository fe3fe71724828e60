package instances

import (
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// snapshotStates are those that a server may report.
var snapshotStates = []string{api.SnapshotCreating, api.SnapshotCreated, api.SnapshotFailed, api.SnapshotDeleting}

// Consistencies that a server may report.
var consistencies = []string{"", api.SnapshotStopped, api.SnapshotFrozen, api.SnapshotAtomic, api.SnapshotCrash}

// snapshotEdit is what a report of one instance's snapshots changes.
type snapshotEdit struct {
	put  []api.Snapshot
	gone []api.Snapshot
	made []api.SnapshotSpec // of which the set is to know that they were taken
	ends []snapshotEnd      // of the audit
}

// snapshotEnd says that what was asked of a snapshot is over.
type snapshotEnd struct{ action, id, fault string }

func (e snapshotEdit) empty() bool { return len(e.put)+len(e.gone)+len(e.made)+len(e.ends) == 0 }

// SnapshotNews gives those of a server's reports of snapshots that TakeSnapshots would
// write something for.
func SnapshotNews(tx store.Tx, server string, all []api.SnapshotReport) (out []api.SnapshotReport, err error) {
	defer named(&err, "compare what server %s says of snapshots", server)
	for _, rep := range all {
		r, e, err := ofReport(tx, time.Time{}, server, rep)
		if err != nil {
			return nil, err
		}
		if r != nil && !e.empty() {
			out = append(out, rep)
		}
	}
	return out, nil
}

// TakeSnapshots takes in what a server says of the snapshots of its instances. What it has
// and nobody asked for is unexpected, unless it took it by a schedule. What it says of
// instances that are not its own is left.
func TakeSnapshots(tx store.Tx, now time.Time, server string, all []api.SnapshotReport) (changed []Record, err error) {
	defer named(&err, "take in what server %s says of snapshots", server)
	for _, rep := range all {
		r, e, err := ofReport(tx, now, server, rep)
		if err != nil {
			return nil, err
		}
		if r == nil || e.empty() {
			continue
		}
		if err := e.write(tx, now, r); err != nil {
			return nil, err
		}
		changed = append(changed, *r)
	}
	return changed, nil
}

// ofReport reads what a report of an instance's snapshots is about, and says what it
// changes; nil: the instance is none of this server's.
func ofReport(tx store.Tx, now time.Time, server string, rep api.SnapshotReport) (*Record, snapshotEdit, error) {
	uuid, ok := parseUUID(rep.Instance)
	if !ok || uuid != rep.Instance {
		return nil, snapshotEdit{}, nil
	}
	r, found, err := store.Lookup[Record](tx, recordPrefix+uuid)
	if err != nil || !found || r.Server != server || r.Wanted == WantDeleted {
		return nil, snapshotEdit{}, err
	}
	have, err := Snapshots(tx, uuid)
	if err != nil {
		return nil, snapshotEdit{}, err
	}
	gone := map[string]bool{}
	for _, st := range rep.Put {
		if gone[st.ID], err = journal.IsGone(tx, api.SnapshotSet(server), api.SnapshotKey(uuid, st.ID)); err != nil {
			return nil, snapshotEdit{}, err
		}
	}
	wanted := map[string]bool{} // and the set does not know yet that they were taken
	for _, s := range have {
		e, live, err := journal.Get(tx, api.SnapshotSet(server), api.SnapshotKey(uuid, s.ID))
		if err != nil {
			return nil, snapshotEdit{}, err
		}
		if live {
			spec, err := decodeSnapshotSpec(e.Value)
			if err != nil {
				return nil, snapshotEdit{}, err
			}
			wanted[s.ID] = !spec.Made
		}
	}
	return &r, changes(now, r, rep, have, gone, wanted), nil
}

// changes says what a report changes of what is known: have are the records, gone the ids
// with a tombstone, unmade those that the set has as not taken yet. It is pure.
func changes(now time.Time, r Record, rep api.SnapshotReport, have []api.Snapshot, gone, unmade map[string]bool) (e snapshotEdit) {
	by := map[string]api.Snapshot{}
	for _, s := range have {
		by[s.ID] = s
	}
	n := len(have)
	named := map[string]bool{}
	for _, st := range rep.Put {
		if !idRE.MatchString(st.ID) || !snapshotRE.MatchString(st.Name) || !slices.Contains(snapshotStates, st.State) ||
			!slices.Contains(consistencies, st.Consistency) || st.Schedule != "" && !slices.Contains(schedules, st.Schedule) {
			continue // it is not one that an agent of ours reports
		}
		named[st.ID] = true
		s, known := by[st.ID]
		if !known && (gone[st.ID] || st.State == api.SnapshotCreating || st.State == api.SnapshotDeleting || n >= maxOfOne) {
			continue
		}
		if !known {
			n++
			s = api.Snapshot{Instance: r.UUID, ID: st.ID, Name: st.Name, Schedule: st.Schedule, Unexpected: st.Schedule == ""}
		}
		was := s
		if s.State != api.SnapshotDeleting {
			s.State = st.State
		}
		s.Reason, s.Consistency, s.Created = text(st.Reason), st.Consistency, st.Created.UTC()
		if s.State != was.State {
			s.Updated = now.UTC()
		}
		if s != was {
			e.put = append(e.put, s)
		}
		switch {
		case st.State == api.SnapshotCreated && unmade[st.ID]:
			e.made = append(e.made, api.SnapshotSpec{Instance: r.UUID, ID: st.ID, Name: s.Name, Made: true})
			e.ends = append(e.ends, snapshotEnd{"create_snapshot", st.ID, ""})
		case st.State == api.SnapshotFailed && r.asked("create_snapshot", st.ID):
			e.ends = append(e.ends, snapshotEnd{"create_snapshot", st.ID, text(st.Reason)})
		}
	}
	left := map[string]bool{}
	for _, id := range rep.Gone {
		left[id] = true
	}
	for _, s := range have {
		is := left[s.ID] || rep.Full && !named[s.ID] && s.State != api.SnapshotCreating
		switch {
		case !is:
		case s.State == api.SnapshotDeleting || s.Schedule != "" || s.Unexpected || slices.Contains(r.Rolled, s.ID):
			e.gone = append(e.gone, s)
			e.ends = append(e.ends, snapshotEnd{"delete_snapshot", s.ID, ""})
		case s.State == api.SnapshotCreated:
			s.State, s.Reason, s.Updated = api.SnapshotFailed, "It was taken, and is not on its server's pool any more; delete it.", now.UTC()
			e.put = append(e.put, s)
		}
	}
	return e
}

// asked says whether something of an id is open in the audit.
func (r Record) asked(action, id string) bool {
	return slices.ContainsFunc(r.Open, func(o open) bool { return o.Action == action && o.ID == id })
}

// write writes what a report changes.
func (e snapshotEdit) write(tx store.Tx, now time.Time, r *Record) error {
	for _, s := range e.put {
		if err := store.Put(tx, snapshotKey(s), s); err != nil {
			return err
		}
	}
	for _, s := range e.gone {
		if err := tx.Delete(snapshotKey(s)); err != nil {
			return err
		}
		// Of one that went with a rollback the set is to say so.
		if _, err := journal.Delete(tx, SnapshotSet(r.Server), api.SnapshotKey(s.Instance, s.ID)); err != nil {
			return err
		}
	}
	for _, spec := range e.made {
		if err := putSnapshotSpec(tx, r.Server, spec); err != nil {
			return err
		}
	}
	some := false
	for _, end := range e.ends {
		is, err := finish(tx, now, r, end.fault, func(o open) bool { return o.Action == end.action && o.ID == end.id })
		if err != nil {
			return err
		}
		some = some || is
	}
	if !some {
		return nil
	}
	return keepRecord(tx, *r)
}
