package agent

import (
	"context"
	"maps"
	"slices"
	"sync"

	"nereid/api"
)

// Written are what instances changed of their own metadata from inside, kept until the
// head node has it.
type Written interface {
	// Watch tells of the instances that have some: at first of all, then of each that
	// has another one, until ctx ends.
	Watch(ctx context.Context, changed func(instance string)) error
	// Read gives an instance's, the oldest first.
	Read(instance string) ([]api.MetadataChange, error)
	// Drop lets go of some, by their ids.
	Drop(instance string, ids []string) error
}

// maxWritten is how many bytes of changes a report has, and those of one instance more.
const maxWritten = 256 << 10

// writtenLog is what the head node is told of that. All that is kept of an instance is
// told together, so that the head node knows what it has already, whatever became of its
// answers and of the agents that heard them. Its methods are for any goroutine.
type writtenLog struct {
	mu    sync.Mutex
	kept  map[string][]api.MetadataChange // by instance
	taken map[string]map[string]bool      // those that the head node has, which go once the instance sees that
	sent  []api.MetadataChange            // in the last report
}

// put notes what is kept of an instance, and reports whether the head node lacks some.
func (l *writtenLog) put(uuid string, all []api.MetadataChange) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept == nil {
		l.kept, l.taken = map[string][]api.MetadataChange{}, map[string]map[string]bool{}
	}
	if len(all) == 0 {
		delete(l.kept, uuid)
		delete(l.taken, uuid)
		return false
	}
	l.kept[uuid] = all
	maps.DeleteFunc(l.taken[uuid], func(id string, _ bool) bool {
		return !slices.ContainsFunc(all, func(c api.MetadataChange) bool { return c.ID == id })
	})
	return l.lacks(uuid)
}

// lacks reports whether the head node lacks some of an instance. l.mu is held.
func (l *writtenLog) lacks(uuid string) bool {
	return slices.ContainsFunc(l.kept[uuid], func(c api.MetadataChange) bool { return !l.taken[uuid][c.ID] })
}

// report is what is told next, of instances that the head node has on this server.
func (l *writtenLog) report(ours func(uuid string) bool) []api.MetadataChange {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = nil
	bytes := 0
	for _, uuid := range slices.Sorted(maps.Keys(l.kept)) {
		if !l.lacks(uuid) || !ours(uuid) {
			continue
		}
		for _, c := range l.kept[uuid] {
			bytes += len(c.Key) + len(c.ID) + 100
			if c.Value != nil {
				bytes += len(*c.Value)
			}
		}
		l.sent = append(l.sent, l.kept[uuid]...)
		if bytes >= maxWritten {
			break
		}
	}
	return l.sent
}

// heard notes that the head node took in the last report, and names its instances.
func (l *writtenLog) heard() (instances []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.sent {
		if l.taken[c.Instance] == nil {
			l.taken[c.Instance] = map[string]bool{}
		}
		l.taken[c.Instance][c.ID] = true
		if !slices.Contains(instances, c.Instance) {
			instances = append(instances, c.Instance)
		}
	}
	l.sent = nil
	return instances
}

// over are the ids of an instance's that the head node has.
func (l *writtenLog) over(uuid string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.taken[uuid]))
}

// more reports whether the head node lacks anything of what is kept.
func (l *writtenLog) more(ours func(uuid string) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uuid := range l.kept {
		if l.lacks(uuid) && ours(uuid) {
			return true
		}
	}
	return false
}

// watchWritten is the goroutine that hears of what instances wrote.
func (i *instances) watchWritten(ctx context.Context) error {
	retry := backoff{min: keepRetry, max: keepRetryMax}
	for i.gate.wait(ctx) { // there is a pool
		err := i.a.Zones.Written.Watch(ctx, i.readWritten)
		if ctx.Err() != nil {
			break
		}
		i.a.Log.Warn("watch what instances wrote", "err", err)
		pause(ctx, retry.next())
	}
	return nil
}

// readWritten has the head node told what is kept of an instance now.
func (i *instances) readWritten(uuid string) {
	all, err := i.a.Zones.Written.Read(uuid)
	if err != nil {
		i.a.Log.Error("read what an instance wrote", "uuid", uuid, "err", err)
		return
	}
	if i.written.put(uuid, all) {
		i.board.nudge()
	}
}

// dropWritten lets go of what an instance sees in its spec now.
func (i *instances) dropWritten(uuid string, ids []string) {
	if len(ids) == 0 {
		return
	}
	if err := i.a.Zones.Written.Drop(uuid, ids); err != nil {
		i.a.Log.Error("drop what an instance wrote", "uuid", uuid, "err", err)
	}
	i.readWritten(uuid)
}

// named reports whether the set names an instance.
func (i *instances) named(uuid string) bool {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	_, is := i.set.state.Items[uuid]
	return is && !i.set.state.Stale[uuid]
}
