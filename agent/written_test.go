package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"nereid/api"
)

// fakeWritten is what instances wrote, on a pool: it outlives agents.
type fakeWritten struct {
	mu      sync.Mutex
	all     map[string][]api.MetadataChange
	changed func(string)
}

func (w *fakeWritten) Watch(ctx context.Context, changed func(string)) error {
	w.mu.Lock()
	w.changed = changed
	var there []string
	for uuid := range w.all {
		there = append(there, uuid)
	}
	w.mu.Unlock()
	for _, uuid := range there {
		changed(uuid)
	}
	<-ctx.Done()
	return nil
}

func (w *fakeWritten) Read(uuid string) ([]api.MetadataChange, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all[uuid]), nil
}

func (w *fakeWritten) Drop(uuid string, ids []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[uuid] = slices.DeleteFunc(w.all[uuid], func(c api.MetadataChange) bool { return slices.Contains(ids, c.ID) })
	if len(w.all[uuid]) == 0 {
		delete(w.all, uuid)
	}
	return nil
}

// write is an instance that sets a key from inside.
func (w *fakeWritten) write(uuid, id, key, value string) {
	w.mu.Lock()
	w.all[uuid] = append(w.all[uuid], api.MetadataChange{ID: id, Instance: uuid, Key: key, Value: &value})
	changed := w.changed
	w.mu.Unlock()
	if changed != nil {
		changed(uuid)
	}
}

func (w *fakeWritten) left() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, list := range w.all {
		for _, c := range list {
			all = append(all, c.ID)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestWritten: what an instance wrote is told of until the head node has it, by an agent
// that starts too, with all that is kept of that instance; it is let go of when the
// instance sees it, and not before. Of one that the set does not name it is kept.
func TestWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		z := newZoneWorld(w)
		instances, images := h.withSets()
		h.approved, h.spec = true, setupSpec("r1")
		images.put("img", imageSpec)
		instances.put("a", instanceSpec("a"))
		z.Add("stranger", "x", "")
		kept := &fakeWritten{all: map[string][]api.MetadataChange{}}
		zones := func(a *Agent) {
			z.zones(dir)(a)
			a.Zones.Written = kept
		}
		told := func() string {
			h.mu.Lock()
			defer h.mu.Unlock()
			var all []string
			for _, c := range h.written {
				all = append(all, c.Instance+" "+c.Key+"="+*c.Value+" "+c.ID)
			}
			return strings.Join(all, ", ")
		}
		r := start(t, w, h, dir, zones)
		h.untilStates("a running, stranger stopped")
		kept.write("stranger", "9", "k", "s")
		kept.write("a", "1", "k", "one")
		h.until("the first", func(api.SyncRequest) bool { return told() == "a k=one 1" })
		// It is in the answer's set, so that what is left for the zone has it.
		synctest.Wait()
		h.until("let go", func(s api.SyncRequest) bool { return s.Instances == nil && kept.left() == "9" })

		// The head node hears, and its answer is lost with the agent.
		h.set(func() { h.written, h.deaf = nil, true })
		kept.write("a", "2", "k", "two")
		h.until("the second", func(api.SyncRequest) bool { return strings.Contains(told(), "a k=two 2") })
		r.stop()
		kept.write("a", "3", "j", "three") // nobody hears
		if got := kept.left(); got != "2 3 9" {
			t.Errorf("kept: %q", got)
		}
		h.set(func() { h.written, h.deaf = nil, false })
		r = start(t, w, h, dir, zones)
		h.until("both", func(api.SyncRequest) bool { return told() == "a k=two 2, a j=three 3" })
		h.until("let go", func(api.SyncRequest) bool { return kept.left() == "9" })
		r.stop()
	})
}

// TestWrittenBounds: a report has some of much, and the next ones have the rest.
func TestWrittenBounds(t *testing.T) {
	var l writtenLog
	big := strings.Repeat("x", maxWritten/2)
	for _, uuid := range []string{"a", "b", "c"} {
		l.put(uuid, []api.MetadataChange{{ID: uuid, Instance: uuid, Key: "k", Value: &big}})
	}
	ours := func(string) bool { return true }
	var rounds []string
	for l.more(ours) {
		var ids []string
		for _, c := range l.report(ours) {
			ids = append(ids, c.ID)
		}
		rounds = append(rounds, strings.Join(ids, " "))
		l.heard()
	}
	if got := strings.Join(rounds, ", "); got != "a b, c" {
		t.Error(got)
	}
	if l.report(ours) != nil || len(l.over("a")) != 1 {
		t.Error("what was heard is told again, or is not over")
	}
	if l.put("a", nil); len(l.over("a")) != 0 {
		t.Error("what is not there is over")
	}
}
