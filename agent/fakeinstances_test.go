package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"

	"nereid/api"
)

// fakeSet is a set of a fake head node: its changes, in order.
type fakeSet struct {
	epoch   string
	version uint64
	changes []fakeChange
}

type fakeChange struct {
	version uint64
	key     string
	value   any // nil: gone
}

func (s *fakeSet) put(key string, value any) {
	s.version++
	s.changes = slices.DeleteFunc(s.changes, func(c fakeChange) bool { return c.key == key })
	s.changes = append(s.changes, fakeChange{s.version, key, value})
}

func (s *fakeSet) delta(f api.Follow) *api.Delta {
	d := api.Delta{Set: f.Set, Epoch: s.epoch, Version: s.version, Full: f.Epoch != s.epoch}
	if !d.Full && f.Since == s.version {
		return nil
	}
	for _, c := range s.changes {
		if !d.Full && c.version <= f.Since {
			continue
		}
		if c.value == nil {
			d.Gone = append(d.Gone, c.key)
			continue
		}
		b, _ := json.Marshal(c.value)
		d.Put = append(d.Put, b)
	}
	return &d
}

// takeInstances takes in a report of instances. It is called with mu held.
func (h *fakeHead) takeInstances(r *api.InstanceReport) bool {
	if r == nil {
		return false
	}
	if r.Full {
		h.fulls++
		h.told = nil
	} else if r.Since != h.seen {
		return true // the answer names another report: a full one comes
	}
	if h.told == nil {
		h.told = map[string]api.InstanceStatus{}
	}
	for _, st := range r.Put {
		h.told[st.UUID] = st
	}
	for _, uuid := range r.Gone {
		delete(h.told, uuid)
		h.gone = append(h.gone, uuid)
	}
	for _, some := range r.Snapshots {
		h.takeSnapshots(some)
	}
	for _, c := range r.Written {
		if !slices.ContainsFunc(h.written, func(x api.MetadataChange) bool { return x.ID == c.ID }) {
			h.written = append(h.written, c)
		}
		if set := h.sets[api.InstanceSet(testUUID)]; c.Value != nil {
			spec := instanceSpec(c.Instance)
			spec.Metadata = map[string]any{c.Key: *c.Value}
			set.put(c.Instance, spec)
		}
	}
	h.seen = r.Now
	return true
}

// takeSnapshots takes in what changed of an instance's snapshots.
func (h *fakeHead) takeSnapshots(r api.SnapshotReport) {
	if h.snaps == nil {
		h.snaps = map[string]map[string]api.SnapshotStatus{}
	}
	if r.Full || h.snaps[r.Instance] == nil {
		h.snaps[r.Instance] = map[string]api.SnapshotStatus{}
	}
	for _, st := range r.Put {
		h.snaps[r.Instance][st.ID] = st
	}
	for _, id := range r.Gone {
		delete(h.snaps[r.Instance], id)
	}
}

// file serves the bytes of an image, to the server.
func (h *fakeHead) file(w http.ResponseWriter, r *http.Request, cn string) bool {
	uuid, ok := strings.CutPrefix(r.URL.Path, "/v1/images/")
	uuid, file := strings.CutSuffix(uuid, "/file")
	if !ok || !file {
		return false
	}
	h.mu.Lock()
	h.fetched = append(h.fetched, uuid)
	text, is := h.files[uuid]
	h.mu.Unlock()
	switch {
	case cn != testUUID:
		answerProblem(w, &api.Problem{Status: 401, Code: api.CodeUnauthorized, Title: "no certificate"})
	case !is:
		answerProblem(w, &api.Problem{Status: 404, Code: api.CodeNotFound, Title: "no such image"})
	default:
		_, _ = io.WriteString(w, text)
	}
	return true
}
