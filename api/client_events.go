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
	"strings"
)

// EventStream is an open GET /v1/events. What happens after Events returned is
// in it, so a caller opens the stream first and then reads what there is.
type EventStream struct {
	client *Client
	ctx    context.Context
	body   io.ReadCloser
}

// Events opens the stream of what changes. It ends with ctx, with Close, or when
// the connection breaks; a caller that goes on opens another and reads anew.
func (c *Client) Events(ctx context.Context) (*EventStream, error) {
	res, err := c.send(ctx, request{
		method: http.MethodGet, path: "/v1/events",
		header: http.Header{"Accept": {"text/event-stream"}},
	})
	if err != nil {
		return nil, err
	}
	if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/event-stream") {
		_ = res.Body.Close()
		return nil, fmt.Errorf("open events: the answer is %q, want text/event-stream", ct)
	}
	return &EventStream{client: c, ctx: ctx, body: res.Body}, nil
}

// Close ends the stream.
func (s *EventStream) Close() error { return s.body.Close() }

// All goes over the events as they come. The last pair carries the error that
// ended the stream, io.EOF when the head node ended it. Comments (keep-alives)
// and fields other than data are passed over, as the HTML standard says in
// section 9.2.6.
func (s *EventStream) All() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewScanner(s.body)
		lines.Buffer(make([]byte, 0, 4096), 1<<20)
		var data []string
		for lines.Scan() {
			line := strings.TrimSuffix(lines.Text(), "\r")
			if text, ok := strings.CutPrefix(line, "data:"); ok {
				data = append(data, strings.TrimPrefix(text, " "))
				continue
			}
			if line != "" || len(data) == 0 {
				continue
			}
			var ev Event
			err := json.Unmarshal([]byte(strings.Join(data, "\n")), &ev)
			data = data[:0]
			if err != nil {
				yield(Event{}, fmt.Errorf("read event: %w", err))
				return
			}
			if !yield(ev, nil) {
				return
			}
		}
		err := lines.Err()
		switch {
		case err == nil:
			err = io.EOF
		case !errors.Is(err, bufio.ErrTooLong):
			err = s.client.unreachable(s.ctx, err)
		}
		yield(Event{}, fmt.Errorf("read events: %w", err))
	}
}
