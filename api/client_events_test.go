package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// wire is what a head node sends of three events, with all that a stream may have.
var wire = strings.Join([]string{
	": open\nid: e-0\n\n",
	"id: e-1\nevent: server\ndata: {\"kind\":\"server\",\ndata: \"name\":\"cn0\"}\n\n",
	": alive\nid: e-1\n\n",
	"retry: 3000\r\nid:e-2\r\ndata:{\"kind\":\"boot\"}\r\n\r\n",
	"id: e-7\n\n", // what is behind e-2 is not wanted
	"id: e-8\ndata: {\"kind\":\"nic\"}\n\n",
	"id: e-8\n\n",
}, "")

// behind is what a head node sends to who has the event with an id.
func behind(t *testing.T, id string) string {
	if id == "" {
		return wire
	}
	_, rest, found := strings.Cut(strings.ReplaceAll(wire, "id:e", "id: e"), "id: "+id)
	if !found {
		t.Errorf("the stream is resumed behind %q, which it does not have", id)
		return ""
	}
	if _, text, more := strings.Cut(strings.ReplaceAll(rest, "\r", ""), "\n\n"); more {
		return text
	}
	return ""
}

// serveCuts serves streams of events on c; each is cut as cut says it.
func serveCuts(t *testing.T, cut func(text string) string) *Client {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, cut(behind(t, r.Header.Get("Last-Event-ID"))))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	c.Retry = time.Microsecond
	return c
}

// TestEventsCutAnywhere: a connection that breaks at any byte, and then at every event,
// brings each event once, in order. One that breaks before the head node said where the
// stream begins is followed by a reset.
func TestEventsCutAnywhere(t *testing.T) {
	want := []Event{{Kind: "server", Name: "cn0"}, {Kind: "boot"}, {Kind: "nic"}}
	for at := range len(wire) + 1 {
		first := true
		c := serveCuts(t, func(text string) string {
			if first {
				first = false
				return text[:at]
			}
			i := strings.Index(text, "data:")
			if i < 0 {
				return text
			}
			return text[:i+strings.Index(text[i:]+"\n\n", "\n\n")+2]
		})
		var got []Event
		s, err := c.Events(t.Context(), EventQuery{})
		if err != nil {
			t.Fatal(err)
		}
		for ev, err := range s.All() {
			if err != nil {
				t.Fatalf("cut at %d: %v", at, err)
			}
			if ev.Kind == EventReset {
				if at >= strings.Index(wire, "\n\n")+2 || len(got) > 0 {
					t.Errorf("cut at %d: told of events that were missed, and none was", at)
				}
				continue
			}
			if got = append(got, ev); len(got) == len(want) {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("cut at %d: got %v, want %v", at, got, want)
		}
		c.Close()
	}
}

// TestEventsAsk: the filter and the id are in the request.
func TestEventsAsk(t *testing.T) {
	var asked string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.RequestURI() + " " + r.Header.Get("Last-Event-ID")
		w.Header().Set("Content-Type", "text/event-stream")
	})
	s, err := c.Events(t.Context(), EventQuery{Kinds: []string{"nic", "bond"}, Sets: []string{"vni/"}, Owners: []string{"o"}, Servers: []string{"s"}, Since: "e-3"})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if want := "/v1/events?kind=nic&kind=bond&owner=o&server=s&set=vni%2F e-3"; asked != want {
		t.Errorf("asked for %s, want %s", asked, want)
	}
}

// TestEventsWait: a head node that is away is waited for, a little longer each time, and
// the caller is told; a refusal ends the stream.
func TestEventsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began, refused := time.Now(), false
		c := &Client{Headnode: "https://head"}
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		c.http = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			at = append(at, time.Since(began))
			switch {
			case refused:
				return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{}, Body: http.NoBody}, nil
			case len(at) == 1:
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(strings.NewReader("id: e-1\ndata: {\"kind\":\"boot\"}\n\n"))}, nil
			}
			return nil, errors.New("connection refused")
		})}
		away := 0
		s, err := c.Events(t.Context(), EventQuery{Away: func(error) {
			if away++; away == 5 {
				refused = true
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		var end error
		for _, err := range s.All() {
			end = err
		}
		var p *Problem
		if !errors.As(end, &p) || p.Status != http.StatusForbidden {
			t.Errorf("end: %v, want a refusal", end)
		}
		if want := "[0s 0s 1s 3s 7s 11s]"; fmt.Sprint(at) != want {
			t.Errorf("asked at %v, want %v", at, want)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestEventsEndWithContext: also one with a deadline, and while the head node is away.
func TestEventsEndWithContext(t *testing.T) {
	for _, away := range []bool{false, true} {
		down := make(chan struct{}, 100)
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			down <- struct{}{}
			if !away {
				<-r.Context().Done()
			}
		})
		c.Retry = time.Hour
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Events(ctx, EventQuery{})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-down
			cancel()
		}()
		ended := false
		for _, err := range s.All() {
			if ended = errors.Is(err, context.Canceled); !ended {
				t.Errorf("end: %v, want %v", err, context.Canceled)
			}
		}
		if !ended {
			t.Error("the stream did not say why it ended")
		}
	}
}

func TestEventsWantsAStream(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, "hello") })
	if _, err := c.Events(t.Context(), EventQuery{}); err == nil || !strings.Contains(err.Error(), "text/event-stream") {
		t.Errorf("got %v", err)
	}
}
