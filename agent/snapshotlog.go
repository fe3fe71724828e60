package agent

import (
	"maps"
	"slices"

	"nereid/api"
)

// tellSnapshots is how many snapshots, and instances with them, one report tells of. What
// is left comes with the next.
const tellSnapshots = 512

// snapshotLog is what the head node is told of instances' snapshots: each change until it
// has taken it in, and all when it knows nothing. It belongs to an instanceLog, and is
// guarded by its mutex.
type snapshotLog struct {
	all     map[string]map[string]api.SnapshotStatus // by instance and id
	changed map[string]map[string]uint64             // that the head node may not know: version of the change
	whole   map[string]uint64                        // instances of which all is to be told
	sent    map[string]snapshotSent                  // with the last report
}

// snapshotSent is what was told of one instance.
type snapshotSent struct {
	whole uint64 // version; 0: not all
	ids   map[string]uint64
}

func newSnapshotLog() snapshotLog {
	return snapshotLog{all: map[string]map[string]api.SnapshotStatus{}, changed: map[string]map[string]uint64{}, whole: map[string]uint64{}}
}

// snapshots notes how the snapshots of an instance are, and reports whether that is news.
func (l *instanceLog) snapshots(uuid string, now []api.SnapshotStatus) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.snaps
	was := s.all[uuid]
	next := make(map[string]api.SnapshotStatus, len(now))
	note := func(id string) {
		l.version++
		put2(s.changed, uuid, id, l.version)
		news = true
	}
	for _, st := range now {
		next[st.ID] = st
		if old, is := was[st.ID]; !is || old != st {
			note(st.ID)
		}
	}
	for id := range was {
		if _, is := next[id]; !is {
			note(id)
		}
	}
	if len(next) == 0 {
		delete(s.all, uuid)
	} else {
		s.all[uuid] = next
	}
	return news
}

// more reports whether there are snapshots to tell of.
func (l *instanceLog) more() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.snaps.changed)+len(l.snaps.whole) > 0
}

// begin has all told of some instances.
func (s *snapshotLog) begin(instances map[string]api.InstanceStatus, version uint64) {
	clear(s.changed)
	for uuid := range instances {
		s.whole[uuid] = version
	}
}

// forget forgets an instance of which nothing is left.
func (s *snapshotLog) forget(uuid string) {
	delete(s.all, uuid)
	delete(s.changed, uuid)
	delete(s.whole, uuid)
}

// report is what the head node is to be told, as much as goes into one report.
func (s *snapshotLog) report() (out []api.SnapshotReport) {
	s.sent = map[string]snapshotSent{}
	n := 0
	for uuid, version := range s.whole {
		if n >= tellSnapshots {
			return out
		}
		r := api.SnapshotReport{Instance: uuid, Full: true}
		for _, id := range slices.Sorted(maps.Keys(s.all[uuid])) {
			r.Put = append(r.Put, s.all[uuid][id])
		}
		n += 1 + len(r.Put)
		s.sent[uuid] = snapshotSent{whole: version, ids: maps.Clone(s.changed[uuid])}
		out = append(out, r)
	}
	for uuid, ids := range s.changed {
		if _, is := s.sent[uuid]; is {
			continue
		}
		if n >= tellSnapshots {
			return out
		}
		r := api.SnapshotReport{Instance: uuid}
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			if st, is := s.all[uuid][id]; is {
				r.Put = append(r.Put, st)
			} else {
				r.Gone = append(r.Gone, id)
			}
		}
		n += 1 + len(ids)
		s.sent[uuid] = snapshotSent{ids: maps.Clone(ids)}
		out = append(out, r)
	}
	return out
}

// heard notes that the head node has taken in what was sent last.
func (s *snapshotLog) heard() {
	for uuid, sent := range s.sent {
		if sent.whole != 0 && s.whole[uuid] == sent.whole {
			delete(s.whole, uuid)
		}
		for id, version := range sent.ids {
			if s.changed[uuid][id] == version {
				remove(s.changed, uuid, id)
			}
		}
	}
	s.sent = nil
}
