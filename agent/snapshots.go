package agent

import (
	"strings"
	"sync"

	"nereid/agent/machine"
	"nereid/api"
)

// snapshotKind is the set of the snapshots that a server's instances are to have.
func snapshotKind() kind[api.SnapshotSpec] {
	return kind[api.SnapshotSpec]{
		what: "snapshot", file: snapshotsFile, set: api.SnapshotSet,
		key: func(s api.SnapshotSpec) string { return api.SnapshotKey(s.Instance, s.ID) }, slot: func(key string) string { return key },
		lost: "Which snapshots the head node wants of instances could not be kept",
	}
}

// snapshotBook is what is wanted of instances' snapshots, by instance: what a worker asks
// costs what its own instance has. Its methods are for any goroutine.
type snapshotBook struct {
	set *follower[api.SnapshotSpec]

	mu    sync.Mutex
	named map[string]map[string]api.SnapshotSpec // by instance and id
	gone  map[string]map[string]string           // ids of removals, likewise
}

func newSnapshotBook(a *Agent) *snapshotBook {
	return &snapshotBook{set: newFollower(a, snapshotKind()), named: map[string]map[string]api.SnapshotSpec{}, gone: map[string]map[string]string{}}
}

// all are the keys of what the set says.
func (b *snapshotBook) all() (keys []string) {
	b.set.mu.Lock()
	defer b.set.mu.Unlock()
	for key := range b.set.state.Items {
		keys = append(keys, key)
	}
	for key := range b.set.state.Gone {
		keys = append(keys, key)
	}
	return keys
}

// took brings the book to what the set says of some keys, and gives their instances. What
// the set names no more and did not remove is wanted no more, and stays where it is.
func (b *snapshotBook) took(keys []string) map[string]bool {
	b.set.mu.Lock()
	defer b.set.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	touched := map[string]bool{}
	for _, key := range keys {
		instance, id, _ := strings.Cut(key, "/")
		touched[instance] = true
		spec, is := b.set.state.Items[key]
		remove(b.named, instance, id)
		if is && !b.set.state.Stale[key] {
			put2(b.named, instance, id, spec)
		}
		remove(b.gone, instance, id)
		if removal, is := b.set.state.Gone[key]; is {
			put2(b.gone, instance, id, removal)
		}
	}
	return touched
}

// put2 and remove change a map of maps; an empty one goes.
func put2[V any](m map[string]map[string]V, a, b string, v V) {
	if m[a] == nil {
		m[a] = map[string]V{}
	}
	m[a][b] = v
}

func remove[V any](m map[string]map[string]V, a, b string) {
	delete(m[a], b)
	if len(m[a]) == 0 {
		delete(m, a)
	}
}

// wishes are what is wanted of an instance's snapshots, and the ids of their removals.
func (b *snapshotBook) wishes(uuid string) (w machine.Wishes, removals map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w = machine.Wishes{Named: map[string]api.SnapshotSpec{}, Gone: map[string]bool{}}
	for id, s := range b.named[uuid] {
		w.Named[id] = s
	}
	removals = map[string]string{}
	for id, removal := range b.gone[uuid] {
		w.Gone[id], removals[id] = true, removal
	}
	return w, removals
}

// done notes which of the removals of an instance's snapshots are done: of these nothing
// is left.
func (b *snapshotBook) done(uuid string, removals map[string]string, left []api.SnapshotStatus) {
	there := map[string]bool{}
	for _, s := range left {
		there[s.ID] = true
	}
	var ids []string
	b.mu.Lock()
	for id, removal := range removals {
		if !there[id] {
			ids = append(ids, removal)
			if b.gone[uuid][id] == removal {
				remove(b.gone, uuid, id)
			}
		}
	}
	b.mu.Unlock()
	if len(ids) > 0 {
		b.set.done(ids)
	}
}

// snapshotsTook has those instances looked at of whose snapshots the set says something
// else now.
func (i *instances) snapshotsTook() {
	for uuid := range i.snapshots.took(i.snapshots.set.changes()) {
		i.look(uuid)
	}
}
