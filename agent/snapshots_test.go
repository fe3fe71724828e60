package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"nereid/agent/machine"
	"nereid/api"
)

// pasts are the snapshots that the head node was told of, as instance/name and state.
func (h *fakeHead) pasts() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []string
	for uuid, some := range h.snaps {
		for _, s := range some {
			all = append(all, uuid+"/"+s.Name+" "+s.State)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (h *fakeHead) untilPasts(want string) {
	h.t.Helper()
	h.until("snapshots "+want, func(api.SyncRequest) bool { return h.pasts() == want })
}

// TestInstancesPast: what the set names of snapshots is taken once and told of; only a
// tombstone removes one; a head node that forgot them, and an agent that starts anew, have
// none taken or destroyed; a rollback is done, and what went with it is told.
func TestInstancesPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		z := newZoneWorld(w)
		instances, images := h.withSets()
		snaps := &fakeSet{epoch: "e1"}
		h.sets[api.SnapshotSet(testUUID)] = snaps
		h.approved, h.spec = true, setupSpec("r1")
		images.put("img", imageSpec)
		instances.put("a1", instanceSpec("a1"))
		instances.put("a2", instanceSpec("a2"))
		put := func(id string, made bool) {
			snaps.put("a1/"+id, api.SnapshotSpec{Instance: "a1", ID: id, Name: id, Made: made})
		}
		r := start(t, w, h, dir, z.zones(dir))
		h.untilStates("a1 running, a2 running")
		z.Calls()
		h.set(func() { put("x", false); put("y", false) })
		h.untilPasts("a1/x created, a1/y created")
		if calls := z.Calls(); !slices.Equal(calls, []string{"snapshot a1 x", "snapshot a1 y"}) {
			t.Errorf("did %q", calls)
		}
		h.set(func() { put("x", true); put("y", true); put("lost", true) })
		h.set(func() { snaps.put("a1/lost", nil); snaps.put("a1/never", nil); snaps.put("gone/x", nil) })
		h.untilPasts("a1/x created, a1/y created")
		h.until("acknowledged", func(s api.SyncRequest) bool {
			r.instances.snapshots.set.mu.Lock()
			defer r.instances.snapshots.set.mu.Unlock()
			return len(r.instances.snapshots.set.state.Gone) == 0 && s.Follow[3].Kept == snaps.version
		})

		// A head node that was restored from before: what it does not name stays.
		h.set(func() { snaps.epoch, snaps.version, snaps.changes = "e2", 0, nil; put("z", false) })
		h.untilPasts("a1/x created, a1/y created, a1/z created")
		h.set(func() { snaps.put("a1/x", nil) })
		h.untilPasts("a1/y created, a1/z created")
		r.stop()
		z.Calls()
		h.set(func() { h.snaps = nil })
		r = start(t, w, h, dir, z.zones(dir))
		h.untilPasts("a1/y created, a1/z created")
		if calls := z.Calls(); len(calls) > 0 {
			t.Errorf("a restarted agent did %q", calls)
		}

		h.set(func() { put("z", true) })
		back := instanceSpec("a1")
		back.Rollback = &api.RollbackSpec{ID: "r1", Snapshot: "y", Name: "y", Newer: []string{"z"}}
		h.set(func() { instances.put("a1", back) })
		h.untilPasts("a1/y created")
		h.untilStates("a1 running, a2 running")
		want := []string{"check rollback a1 r1", "stop " + machine.Unit("a1"), "rollback a1 r1", "start " + machine.Unit("a1")}
		if calls := z.Calls(); !slices.Equal(calls, want) {
			t.Errorf("did %q", calls)
		}
		h.mu.Lock()
		if st := h.told["a1"]; !slices.Contains(st.Done, "r1") || st.Refused != "" {
			t.Errorf("told of %+v", st)
		}
		h.mu.Unlock()
		h.set(func() { instances.put("a1", nil) })
		h.untilStates("a2 running")
		r.stop()
	})
}

// TestSnapshotLog: whatever is lost on the way, the head node knows in the end which
// snapshots there are; a change costs one entry; what is too much for one report comes
// with the next.
func TestSnapshotLog(t *testing.T) {
	l := newInstanceLog()
	l.begin()
	h := &fakeHead{}
	all := map[string][]api.SnapshotStatus{}
	for n := range 3000 {
		uuid, id := fmt.Sprint("a", n%40), fmt.Sprint(n%130)
		l.put(api.InstanceStatus{UUID: uuid, State: "running"})
		all[uuid] = slices.DeleteFunc(all[uuid], func(s api.SnapshotStatus) bool { return s.ID == id })
		if n%7 != 3 {
			all[uuid] = append(all[uuid], api.SnapshotStatus{ID: id, Name: fmt.Sprint("s", n), State: api.SnapshotCreated})
		}
		l.snapshots(uuid, all[uuid])
		r := l.report(nil)
		told := 0
		if r != nil {
			for _, some := range r.Snapshots {
				told += len(some.Put) + len(some.Gone)
			}
		}
		if n%11 > 6 && n > 200 && n%501 > 20 && told > 4 {
			t.Fatalf("at %d the report has %d snapshots", n, told)
		}
		if told > tellSnapshots+130 {
			t.Fatalf("at %d the report has %d snapshots", n, told)
		}
		if n%11 == 1 {
			continue // the request was lost
		}
		h.takeInstances(r)
		if n%501 == 500 {
			h.seen = "" // the head node began anew
		}
		if n%11 != 2 { // the answer was not
			l.heard(h.seen)
		}
	}
	for l.more() {
		h.takeInstances(l.report(nil))
		l.heard(h.seen)
	}
	for uuid, some := range all {
		if len(h.snaps[uuid]) != len(some) {
			t.Errorf("of %s the head node knows %d, and there are %d", uuid, len(h.snaps[uuid]), len(some))
		}
		for _, s := range some {
			if h.snaps[uuid][s.ID] != s {
				t.Errorf("%s: %+v, want %+v", uuid, h.snaps[uuid][s.ID], s)
			}
		}
	}
}
