package agent

import (
	"crypto/rand"
	"fmt"
	"reflect"
	"sync"

	"nereid/api"
)

// instanceLog is what the head node is told of instances: each change until it has taken
// it in. A change costs what changed. Its methods are for any goroutine.
type instanceLog struct {
	mu      sync.Mutex
	life    string // of this log: names of another are not ours
	version uint64
	all     map[string]api.InstanceStatus
	changed map[string]uint64             // UUIDs that the head node may not know: version of the change
	steps   map[string][]api.InstanceStep // of creates, until the head node has taken them in
	begun   bool                          // all is known
	full    bool                          // all is to be told
	sent    uint64                        // version of the report that was sent last
	named   string                        // its name; empty: none was sent
	since   string                        // name of the report that the head node took in last
	snaps   snapshotLog
}

func newInstanceLog() *instanceLog {
	return &instanceLog{life: rand.Text(), all: map[string]api.InstanceStatus{}, changed: map[string]uint64{}, steps: map[string][]api.InstanceStep{}, full: true, snaps: newSnapshotLog()}
}

// begin says that all instances are known: there may be reports.
func (l *instanceLog) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = true
}

// put notes how an instance is, and reports whether that is news.
func (l *instanceLog) put(st api.InstanceStatus) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps := st.Steps
	st.Steps = nil
	if was, is := l.all[st.UUID]; is && len(steps) == 0 && reflect.DeepEqual(was, st) {
		return false
	}
	if len(steps) > 0 {
		l.steps[st.UUID] = steps
	}
	l.version++
	l.all[st.UUID] = st
	l.changed[st.UUID] = l.version
	return true
}

// knows says whether the head node is told how an instance is.
func (l *instanceLog) knows(uuid string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, is := l.all[uuid]
	return is
}

// gone notes that nothing is left of an instance, which is news.
func (l *instanceLog) gone(uuid string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	delete(l.all, uuid)
	delete(l.steps, uuid)
	l.snaps.forget(uuid)
	l.changed[uuid] = l.version
	return true
}

func (l *instanceLog) name(version uint64) string { return fmt.Sprintf("%s:%d", l.life, version) }

// report is what the head node is to be told, with what instances wrote; nil: nothing.
func (l *instanceLog) report(written []api.MetadataChange) *api.InstanceReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.begun || !l.full && len(l.changed)+len(written)+len(l.snaps.changed)+len(l.snaps.whole) == 0 {
		return nil
	}
	l.version++ // it has a name of its own
	if l.full {
		l.snaps.begin(l.all, l.version)
	}
	snaps := l.snaps.report()
	l.sent, l.named = l.version, l.name(l.version)
	r := &api.InstanceReport{Since: l.since, Now: l.name(l.version), Full: l.full, Written: written, Snapshots: snaps}
	if l.full {
		r.Since = ""
		for uuid := range l.all {
			r.Put = append(r.Put, l.status(uuid))
		}
	}
	for uuid := range l.changed {
		if _, is := l.all[uuid]; !is {
			r.Gone = append(r.Gone, uuid)
		} else if !l.full {
			r.Put = append(r.Put, l.status(uuid))
		}
	}
	return r
}

// status is what is told of an instance. l.mu is held.
func (l *instanceLog) status(uuid string) api.InstanceStatus {
	st := l.all[uuid]
	st.Steps = l.steps[uuid]
	return st
}

// heard takes in what the head node says that it took in last, and reports whether that
// is what was sent last. told are the instances of whose creates it has the steps now.
func (l *instanceLog) heard(seen string) (took bool, told []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.named != "" && seen == l.named:
		for uuid, version := range l.changed {
			if version <= l.sent {
				delete(l.changed, uuid)
				if len(l.steps[uuid]) > 0 {
					told = append(told, uuid)
				}
				delete(l.steps, uuid)
			}
		}
		took = l.since != seen
		if took {
			l.snaps.heard()
		}
		l.since, l.full = seen, false
	case seen != l.since:
		l.full = true
	}
	return took, told
}
