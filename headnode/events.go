package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"nereid/api"
	"nereid/headnode/events"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// Bounds of open streams of events.
const (
	maxWatchers = 1024 // of all operators
	maxWatching = 128  // of one
	maxWanted   = 64   // values of a filter
)

// tell notes an event of the change that a transaction is for. Watchers get it once the
// transaction is written; one that is not written has none. The transaction is one of
// write or update.
func tell(tx store.Tx, ev api.Event) {
	if n, ok := tx.(*noting); ok && !slices.Contains(n.events, ev) {
		n.events = append(n.events, ev)
	}
}

// write is store.Update for a change that watchers are told of: fn and what it calls
// note events with tell.
func (s *Server) write(ctx context.Context, fn func(n *noting) error) error {
	var told []api.Event
	err := s.store.Update(ctx, func(tx store.Tx) error {
		n := &noting{Tx: tx}
		err := fn(n)
		told = n.events
		return err
	})
	if err == nil {
		s.events.Publish(told...)
	}
	return err
}

// objectEvent is the event of an object in the list at a path: ev, whose Name is that of
// the object in the list, with its kind, which is the thing's name.
func objectEvent(thing, list string, ev api.Event, isNew bool) api.Event {
	ev.Kind, ev.Path = strings.ReplaceAll(strings.ToLower(thing), " ", "_"), list
	if !isNew && ev.Name != "" {
		ev.Path += "/" + url.PathEscape(ev.Name)
	}
	return ev
}

// serverChanged tells watchers of a server, after what changed of it is written.
func (s *Server) serverChanged(uuid, name string) {
	s.events.Publish(api.Event{Kind: "server", Server: uuid, Name: name})
}

// setsChanged tells watchers of sets of the journal.
func (s *Server) setsChanged(sets []string) {
	evs := make([]api.Event, len(sets))
	for i, set := range sets {
		evs[i] = events.OfSet(set)
	}
	s.events.Publish(evs...)
}

// ownedBy are the events of an object that accounts have.
func ownedBy(name string, owners ...string) []api.Event {
	if len(owners) == 0 {
		return []api.Event{{Name: name}}
	}
	evs := make([]api.Event, len(owners))
	for i, o := range owners {
		evs[i] = api.Event{Name: name, Owner: o}
	}
	return evs
}

// nicEvents are the events of a NIC.
func nicEvents(n api.NetworkNIC) []api.Event {
	return []api.Event{{Name: n.MAC, Owner: n.Owner, Server: n.Server}}
}

// tellNIC notes what a change of a NIC is to those who watch: of the NIC, and of others
// of its instance that it changes.
func tellNIC(tx store.Tx, c networks.Change) {
	told := func(n api.NetworkNIC, isNew bool) {
		for _, ev := range nicEvents(n) {
			tell(tx, objectEvent("NIC", "/v1/nics", ev, isNew))
		}
	}
	for _, n := range []*api.NetworkNIC{c.Before, c.After} {
		if n != nil {
			told(*n, c.Before == nil)
		}
	}
	for _, n := range c.Others {
		told(n, false)
	}
}

// watchers counts the open streams.
type watchers struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by operator
}

// enter counts one more, unless there are too many.
func (w *watchers) enter(who string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= maxWatchers || w.of[who] >= maxWatching {
		return false
	}
	if w.of == nil {
		w.of = map[string]int{}
	}
	w.all++
	w.of[who]++
	return true
}

func (w *watchers) leave(who string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.of[who]--; w.of[who] == 0 {
		delete(w.of, who)
	}
}

// wanted reads which events a request asks for.
func wanted(q url.Values) (f events.Filter, since string, err error) {
	var faults []error
	bad := func(next, format string, a ...any) {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, next, format, a...))
	}
	for name, values := range q {
		switch name {
		case "kind":
			f.Kinds = values
		case "set":
			f.Sets = values
		case "owner":
			f.Owners = values
		case "server":
			f.Servers = values
		case "since":
			if since = values[0]; len(values) > 1 {
				bad("name one", "since is given %d times", len(values))
			}
			continue
		default:
			bad("leave it out", "a stream of events has no parameter %.64q", name)
			continue
		}
		if len(values) > maxWanted {
			bad("name fewer", "%s is given %d times, at most %d are looked at", name, len(values), maxWanted)
		}
		if slices.Contains(values, "") {
			bad("leave it out to get all", "%s is empty", name)
		}
	}
	return f, since, api.Faults(faults...)
}

// serveEvents is GET /v1/events: server-sent events (HTML standard, section 9.2). Each
// has an id. A reader that names the last one it has, in Last-Event-ID or as since, goes
// on behind it. When events behind it are not kept, the reader gets one reset in place
// of them.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	filter, id, err := wanted(r.URL.Query())
	if err != nil {
		s.fail(w, "open events", err)
		return
	}
	c := callerOf(r.Context())
	if !s.watch.enter(c.operator) {
		s.Shed("streams of events of one operator beyond "+strconv.Itoa(maxWatching), c.operator)
		s.fail(w, "open events", refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "close some that nobody reads", "operator %s has %d streams of events open, or all together have %d", c.operator, maxWatching, maxWatchers))
		return
	}
	defer s.watch.leave(c.operator)
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		id = last // a browser that resumes asks for the same URL again
	}
	if id == "" {
		id = s.events.Now()
	}
	_ = c.control.SetReadDeadline(time.Time{})
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	alive := time.NewTicker(15 * time.Second)
	defer alive.Stop()
	text := ": open\n"
	for {
		page := s.events.Read(id, filter)
		id = page.ID
		if page.Missed {
			text += eventText(api.Event{ID: id, Time: s.now().UTC(), Kind: api.EventReset})
		}
		for _, ev := range page.Events {
			text += eventText(ev)
		}
		if text != "" {
			text += "id: " + id + "\n\n" // how far it is, though the last events may not be its own
			_ = c.control.SetWriteDeadline(time.Now().Add(30 * time.Second))
			if _, err := fmt.Fprint(w, text); err != nil {
				return
			}
			if err := c.control.Flush(); err != nil {
				return
			}
			text = ""
		}
		if page.More == nil {
			continue
		}
		select {
		case <-r.Context().Done():
			return
		case <-stopOf(r.Context()):
			return
		case <-alive.C:
			text = ": alive\n"
		case <-page.More:
		}
	}
}

// eventText is an event on the wire.
func eventText(ev api.Event) string {
	b, _ := json.Marshal(ev) // an event is strings
	return fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", ev.ID, ev.Kind, b)
}

// watchSilence tells watchers of servers that fell silent.
func (s *Server) watchSilence(ctx context.Context) error {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			for _, uuid := range s.live.silent(s.now()) {
				s.serverChanged(uuid, "")
			}
		}
	}
}
