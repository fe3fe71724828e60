package network

import (
	"context"
	"slices"
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
	q := newQueue()
	ctx, cancel := context.WithCancel(ctx)
	var repairs sync.WaitGroup
	repairs.Go(func() { n.repairs(ctx, q, changed) })
	err := n.System.Watch(ctx, func() {
		n.watches(q)
		if ready != nil {
			ready()
		}
	}, q.put)
	n.watches(nil)
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

// watches notes who is told of what changes. What is known of ports from before is
// looked at again before it is used.
func (n *Network) watches(q *queue) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watcher = q
	for _, p := range n.seen.ports {
		p.sure = false
	}
}

// look repairs what events tell of; false when that did not work.
func (n *Network) look(ctx context.Context, p pending, changed func()) bool {
	disturbed := n.mark(p)
	n.mu.Lock()
	others, ports := n.known().heard(p.told, n.byApply)
	n.mu.Unlock()
	n.disturbed(ports)
	if !p.links && !others && !disturbed {
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
	if !p.lost && len(p.down)+len(p.entries) == 0 {
		return false
	}
	byDev := map[int32][]Event{}
	for k, e := range p.entries {
		byDev[k.dev] = append(byDev[k.dev], e)
	}
	for _, m := range n.allSegments() {
		any = m.mark(p, byDev) || any
	}
	return any
}

// mark marks a segment whose entries are not as they should be.
func (m *segmentMap) mark(p pending, byDev map[int32][]Event) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	events := slices.Concat(byDev[m.bridge], byDev[m.vxlan])
	for _, port := range m.ports {
		events = append(events, byDev[port.index]...)
	}
	// A link that went down and up lost its neighbours without a word.
	if !p.lost && !p.down[m.bridge] && !p.down[m.vxlan] && (len(events) == 0 || !m.disturbed(events)) {
		return false
	}
	m.synced = false
	return true
}

// queue is the events that were not looked at yet. It is bounded, and of one
// entry keeps the last event.
type queue struct {
	wake chan struct{}

	mu      sync.Mutex
	entries map[eventKey]Event
	next    pending
}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), entries: map[eventKey]Event{}, next: pending{told: map[linkKey]Event{}}}
}

// linkKey is of what was told of a link: by itself, or by the bridge that it is in.
type linkKey struct {
	dev    int32
	bridge bool
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
	told    map[linkKey]Event
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
		k := linkKey{e.Dev, e.Port != nil}
		if _, ok := q.next.told[k]; e.Dev == 0 || !ok && len(q.next.told) >= maxPending {
			q.next.links = true
		} else {
			q.next.told[k] = e
		}
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
	q.next, q.entries = pending{told: map[linkKey]Event{}}, map[eventKey]Event{}
	return p
}
