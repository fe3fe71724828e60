package network

import (
	"context"
	"sync"
	"time"
)

// settleTime is how long events are collected before they are looked at: a change
// by hand, and one by Apply, comes as a burst of them.
const settleTime = 50 * time.Millisecond

// maxPending is how many different entries may wait to be looked at. With more,
// all entries are read again.
const maxPending = 4096

// retryLimit is the longest time after which a repair that failed is tried again.
const retryLimit = time.Minute

// Watch repairs what others change of what Apply made, until ctx ends. It is told
// by netlink and does not poll: a link, an address, a route, a forwarding entry or
// a neighbour that is not as it should be is made so again; a repair that fails is
// tried again, less and less often. ready, when not nil, is called when no event
// can be missed any more, and changed, when not nil, after each look at what an
// event told of, be it a repair or a link that came or went. It returns nil when ctx
// ends.
func (n *Network) Watch(ctx context.Context, ready, changed func()) error {
	q := &queue{wake: make(chan struct{}, 1), entries: map[eventKey]Event{}}
	ctx, cancel := context.WithCancel(ctx)
	var repairs sync.WaitGroup
	repairs.Go(func() { n.repairs(ctx, q, changed) })
	if ready == nil {
		ready = func() {}
	}
	err := n.System.Watch(ctx, ready, q.put)
	ended := ctx.Err() != nil
	cancel()
	repairs.Wait()
	if ended {
		return nil
	}
	return err
}

// repairs looks at what comes into a queue. After a failure it waits longer, and
// then looks at everything.
func (n *Network) repairs(ctx context.Context, q *queue, changed func()) {
	wait := settleTime
	for {
		if wait == settleTime {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		p := q.take()
		p.links = p.links || wait > settleTime
		if n.look(ctx, p, changed) {
			wait = settleTime
		} else {
			wait = min(2*wait, retryLimit)
		}
	}
}

// look repairs what events tell of; false when that did not work.
func (n *Network) look(ctx context.Context, p pending, changed func()) bool {
	disturbed := n.mark(p)
	if !p.links && !disturbed {
		return true
	}
	err := n.repair(ctx)
	if ctx.Err() != nil {
		return true
	}
	if err != nil {
		n.log().Warn("repair network", "err", err)
	}
	if changed != nil {
		changed()
	}
	return err == nil
}

// mark marks the segments whose entries are not as they should be.
func (n *Network) mark(p pending) (any bool) {
	n.maps.Lock()
	defer n.maps.Unlock()
	byDev := map[int32][]Event{}
	for k, e := range p.entries {
		byDev[k.dev] = append(byDev[k.dev], e)
	}
	for _, m := range n.segments {
		events := append(byDev[m.bridge], byDev[m.vxlan]...)
		for _, port := range m.ports {
			events = append(events, byDev[port.index]...)
		}
		// A link that went down and up lost its neighbours without a word.
		if p.lost || p.down[m.bridge] || p.down[m.vxlan] || len(events) > 0 && m.disturbed(events) {
			m.synced, any = false, true
		}
	}
	return any
}

// queue is the events that were not looked at yet. It is bounded, and of one
// entry keeps the last event.
type queue struct {
	wake chan struct{}

	mu      sync.Mutex
	entries map[eventKey]Event
	next    pending
}

type eventKey struct {
	dev  int32
	key  [16]byte
	kind EventKind
	self bool
}

// pending is what is taken from a queue at once.
type pending struct {
	links   bool // some link, address or route changed
	lost    bool
	down    map[int32]bool // links that are down or gone
	entries map[eventKey]Event
}

func (q *queue) put(e Event) {
	q.mu.Lock()
	switch e.Kind {
	case EventLost:
		q.next.lost, q.next.links = true, true
	case EventLink:
		q.next.links = true
		if e.Gone && e.Dev != 0 {
			if q.next.down == nil {
				q.next.down = map[int32]bool{}
			}
			q.next.down[e.Dev] = true
		}
	default:
		k := eventKey{dev: e.Dev, kind: e.Kind, self: e.Self}
		if e.Kind == EventNeighbour {
			k.key = e.IP.As16()
		} else {
			copy(k.key[:], e.MAC[:])
		}
		if _, ok := q.entries[k]; !ok && len(q.entries) >= maxPending {
			q.next.lost = true
		} else {
			q.entries[k] = e
		}
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.next
	p.entries = q.entries
	q.next, q.entries = pending{}, map[eventKey]Event{}
	return p
}
