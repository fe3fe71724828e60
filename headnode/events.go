package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"nereid/api"
)

// hub hands events to the open streams. A stream that does not keep up loses the
// oldest: events say what to read again, not what it is.
type hub struct {
	mu   sync.Mutex
	subs map[chan api.Event]struct{}
}

// eventBuffer is how many events a stream may be behind.
const eventBuffer = 64

func (h *hub) subscribe() (<-chan api.Event, func()) {
	c := make(chan api.Event, eventBuffer)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = map[chan api.Event]struct{}{}
	}
	h.subs[c] = struct{}{}
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, c)
	}
}

func (h *hub) publish(ev api.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.subs {
		for sent := false; !sent; {
			select {
			case c <- ev:
				sent = true
			default:
				select {
				case <-c:
				default:
				}
			}
		}
	}
}

func (s *Server) serverChanged(uuid, name string) {
	s.hub.publish(api.Event{Kind: "server", Server: uuid, Name: name})
}

// objectChanged tells watchers of an object, or of a list with a new one, at a path.
func (s *Server) objectChanged(thing, path string) {
	s.hub.publish(api.Event{Kind: strings.ReplaceAll(strings.ToLower(thing), " ", "_"), Path: path})
}

// serveEvents is GET /v1/events: server-sent events (HTML standard, section 9.2).
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	events, done := s.hub.subscribe()
	defer done()
	ctl := callerOf(r.Context()).control
	_ = ctl.SetReadDeadline(time.Time{})
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	alive := time.NewTicker(15 * time.Second)
	defer alive.Stop()
	text := ": open\n\n"
	for {
		_ = ctl.SetWriteDeadline(time.Now().Add(30 * time.Second))
		if _, err := fmt.Fprint(w, text); err != nil {
			return
		}
		if err := ctl.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-alive.C:
			text = ": alive\n\n"
		case ev := <-events:
			b, err := json.Marshal(ev)
			if err != nil {
				s.log.Error("write event", "err", err)
				return
			}
			text = fmt.Sprintf("event: %s\ndata: %s\n\n", ev.Kind, b)
		}
	}
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
