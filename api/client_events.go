package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
)

// EventQuery says which events are wanted: those that have one of the values of each
// list that is not empty.
type EventQuery struct {
	Kinds   []string
	Sets    []string // or beginnings that end with "/"
	Owners  []string // UUIDs of accounts
	Servers []string // UUIDs
	Since   string   // ID of the last event that the caller has; empty: from now on

	// Away, when not nil, is told why the stream broke, or could not be opened again,
	// each time.
	Away func(error)
}

// path is where the stream is.
func (q EventQuery) path() string {
	v := url.Values{"kind": q.Kinds, "set": q.Sets, "owner": q.Owners, "server": q.Servers}
	if text := v.Encode(); text != "" {
		return "/v1/events?" + text
	}
	return "/v1/events"
}

// EventStream is an open GET /v1/events. What happens after Events returned is in it, so
// a caller opens the stream first and then reads what there is. A connection that breaks
// is made anew, and goes on behind the last event that came.
type EventStream struct {
	client *Client
	ctx    context.Context
	query  EventQuery
	body   io.ReadCloser
	id     string
}

// Events opens a stream of what changes. It ends with ctx or with Close.
func (c *Client) Events(ctx context.Context, q EventQuery) (*EventStream, error) {
	s := &EventStream{client: c, ctx: ctx, query: q, id: q.Since}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// open connects, to go on behind the last event.
func (s *EventStream) open() error {
	r := request{method: http.MethodGet, path: s.query.path(), header: http.Header{"Accept": {"text/event-stream"}}}
	if s.id != "" {
		r.header["Last-Event-Id"] = []string{s.id}
	}
	res, err := s.client.send(s.ctx, r)
	if err != nil {
		return err
	}
	if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/event-stream") {
		_ = res.Body.Close()
		return fmt.Errorf("open events: the answer is %q, want text/event-stream", ct)
	}
	s.body = res.Body
	return nil
}

// Close ends the stream. It is for the goroutine that goes over All.
func (s *EventStream) Close() error { return s.body.Close() }

// All goes over the events as they come. One of the kind EventReset says that others
// were missed: the caller reads anew what it looks at. The last pair carries the error
// that ended the stream: that of its context, or the refusal of a head node to open it
// again. A head node that is away is waited for.
func (s *EventStream) All() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for tries := 0; ; {
			came, err := s.read(func(ev Event) bool { return yield(ev, nil) })
			_ = s.body.Close()
			if errors.Is(err, errEnough) {
				return
			}
			if came {
				tries = 0 // what worked until now is opened again at once
			}
			for again := true; again; tries++ {
				if s.ctx.Err() != nil {
					err = s.client.unreachable(s.ctx, err)
				}
				if s.ctx.Err() != nil || !passing(err) {
					yield(Event{}, err)
					return
				}
				if s.query.Away != nil {
					s.query.Away(err)
				}
				if tries > 0 {
					if err := pause(s.ctx, s.client.retryDelay(min(tries, 3))); err != nil {
						yield(Event{}, err)
						return
					}
				}
				err = s.open()
				again = err != nil
			}
			if s.id == "" && !yield(Event{Kind: EventReset}, nil) { // it broke before an id came
				_ = s.body.Close()
				return
			}
		}
	}
}

// errEnough ends a stream whose caller wants no more.
var errEnough = errors.New("the caller wants no more events")

// read gives the events of one connection to take, and says whether there was any.
// Comments (keep-alives) and the other fields are passed over, as the HTML standard says
// in section 9.2.6; what is cut before its empty line is no event.
func (s *EventStream) read(take func(Event) bool) (came bool, err error) {
	lines := bufio.NewScanner(s.body)
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	var data []string
	id := s.id
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		name, text, _ := strings.Cut(line, ":")
		text = strings.TrimPrefix(text, " ")
		switch {
		case line != "" && name == "data":
			data = append(data, text)
		case line != "" && name == "id":
			id = text
		case line == "":
			if len(data) > 0 {
				var ev Event
				if err := json.Unmarshal([]byte(strings.Join(data, "\n")), &ev); err != nil {
					return came, fmt.Errorf("read event: %w", err)
				}
				data, came = data[:0], true
				if !take(ev) {
					s.id = id
					return came, errEnough
				}
			}
			s.id = id // also without an event: the head node says how far it has looked
		}
	}
	switch err := lines.Err(); {
	case err == nil:
		return came, &UnreachableError{Headnode: s.client.Headnode, Err: fmt.Errorf("it ended the stream of events: %w", io.EOF)}
	case errors.Is(err, bufio.ErrTooLong):
		return came, fmt.Errorf("read events: %w", err)
	default:
		return came, s.client.unreachable(s.ctx, err)
	}
}

// passing says whether what an opening failed for may go away by itself.
func passing(err error) bool {
	var away *UnreachableError
	var p *Problem
	return errors.As(err, &away) || errors.As(err, &p) && p.Status == http.StatusServiceUnavailable
}
