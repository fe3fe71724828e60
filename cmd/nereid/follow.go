package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"nereid/api"
)

const (
	// lookEvery is how often is looked while no stream of events is open, and after a look
	// that was not answered.
	lookEvery = 2 * time.Second
	// reopenAfter is the delay before a stream of events that could not be opened is
	// tried again.
	reopenAfter = time.Second
)

// errTimeout is the cause of a context that --timeout ended.
var errTimeout = errors.New("timed out")

// news says that there may be something new to see.
type news struct {
	changed chan struct{} // one slot
	open    atomic.Bool   // whatever changes is told of
}

func (n *news) mark() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// follow calls look now, and after each event of the head node that q asks for, until it
// says done or fails. every, where it is not 0, is how often it is called besides: what is
// shown grows old. A head node that goes away while it is followed is waited for: lost is
// told why.
func follow(ctx context.Context, c *api.Client, q api.EventQuery, every time.Duration, look func(context.Context) (done bool, err error), lost func(error)) error {
	return followNews(ctx, func(ctx context.Context, n *news) { relay(ctx, c, q, n) }, every, look, lost)
}

// followNews is follow of what tell tells of, until its context ends.
func followNews(ctx context.Context, tell func(context.Context, *news), every time.Duration, look func(context.Context) (done bool, err error), lost func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	n := &news{changed: make(chan struct{}, 1)}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		tell(ctx, n)
	}()
	defer func() {
		cancel()
		<-gone
	}()
	for answered := false; ; {
		done, err := look(ctx)
		switch {
		case ctx.Err() != nil && !done:
			return ended(ctx)
		case err != nil && (!answered || !passing(err)):
			return err
		case err != nil:
			lost(err)
		case done:
			return nil
		default:
			answered = true
		}
		var again <-chan time.Time
		switch {
		case every > 0:
			again = time.After(every)
		case err != nil || !n.open.Load():
			again = time.After(lookEvery)
		}
		select {
		case <-ctx.Done():
			return ended(ctx)
		case <-n.changed:
		case <-again:
		}
	}
}

// ended says why a context ended: canceled (whatever the signal), or its cause.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	return context.Cause(ctx)
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	var away *api.UnreachableError
	var p *api.Problem
	return errors.As(err, &away) || errors.As(err, &p) && p.Status == 503
}

// relay tells of each event, and when a stream opens: what was before it is in no event.
// One that says that others were missed is told of like any other. A connection that breaks
// is made anew and goes on behind the last event.
func relay(ctx context.Context, c *api.Client, q api.EventQuery, n *news) {
	q.Away = func(error) { n.mark() } // so that a look finds out, and is repeated
	for ctx.Err() == nil {
		if events, err := c.Events(ctx, q); err == nil {
			n.open.Store(true)
			n.mark()
			for _, err := range events.All() {
				if err != nil {
					break
				}
				n.mark()
			}
			n.open.Store(false)
			_ = events.Close()
			n.mark()
		}
		t := time.NewTimer(reopenAfter)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// goal is what --wait waits for.
type goal struct {
	server api.Server // as it was before the request
	want   string     // "running", for sentences
	// reached looks at the server as it is now: done, or a sentence on how far
	// it is, or the reason why it will never be.
	reached func(s api.Server) (done bool, status string, err error)
}

// wait follows a server until its goal is reached, and shows how far it is.
func (a *app) wait(ctx context.Context, c *api.Client, g goal) (api.Server, error) {
	limit := cmp.Or(a.timeout, defaultWait)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimeout)
	defer cancel()
	p := a.newStatus(named(g.server))
	defer p.end()
	last := g.server
	err := follow(ctx, c, api.EventQuery{Servers: []string{g.server.UUID}}, 0, func(ctx context.Context) (bool, error) {
		s, err := c.Server(ctx, g.server.UUID)
		if err != nil {
			return false, err
		}
		last = s
		done, status, err := g.reached(s)
		if err != nil {
			return false, codedError{exitFailed, err}
		}
		p.show(status)
		return done, nil
	}, func(err error) { p.show("head node does not answer; still waiting (" + oneLine(err.Error()) + ")") })
	if errors.Is(err, errTimeout) {
		why := ""
		if last.StateReason != "" {
			why = " (" + last.StateReason + ")"
		}
		return last, codedError{exitTimedOut, fmt.Errorf("waited %s for %s to be %s, and it is %s%s; look at: nereid server boot-log %s",
			span(limit), named(last), g.want, last.State, why, named(last))}
	}
	return last, err
}

// stuck says why a server that should boot will not.
func stuck(s api.Server) error {
	switch s.State {
	case api.StateHeld, api.StateBootLoop, api.StateRejected:
		return fmt.Errorf("%s is %s: %s; look at: nereid server boot-log %s", named(s), s.State, firstOf(s.StateReason, "the head node gives no reason"), named(s))
	}
	return nil
}
