package dhcp

import (
	"context"
	"net/netip"
	"sync"
)

// packet is a datagram that waits for a worker.
type packet struct {
	data []byte
	from netip.AddrPort
	conn *Conn
	key  key
	lane lane
}

// lane is what a message waits behind: only others of its own lane. Lanes are in the
// order in which they are served.
type lane int

// A message that finishes an exchange goes before one that begins another: work was
// spent on it, and what is begun and not finished is lost. Servers of the inventory
// go before everybody else.
const (
	knownFinish lane = iota
	knownAsk
	finish
	ask
	lanes
)

// laneOf sorts a message.
func laneOf(k key, known bool) lane {
	switch ends := k.finishes(); {
	case known && ends:
		return knownFinish
	case known:
		return knownAsk
	case ends:
		return finish
	}
	return ask
}

// queue holds at most size packets in each lane. One that finds its lane full goes,
// before anything was spent on it: its sender asks again.
type queue struct {
	size int

	mu      sync.Mutex
	closed  bool
	lanes   [lanes][]packet
	pending map[key]bool // queued or being worked on
	asks    sync.Cond    // a worker may have something to ask
	ends    sync.Cond    // a worker may have something to finish
}

// newQueue makes a queue that is open until ctx ends.
func newQueue(ctx context.Context, size int) *queue {
	q := &queue{size: size, pending: map[key]bool{}}
	q.asks.L, q.ends.L = &q.mu, &q.mu
	context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.closed = true
		q.asks.Broadcast()
		q.ends.Broadcast()
	})
	return q
}

// push adds a message unless it is pending already, or its lane is full: then shed
// is true. p.data is copied only when it is added.
func (q *queue) push(p packet) (added, shed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.pending[p.key]:
		return false, false
	case len(q.lanes[p.lane]) >= q.size:
		return false, true
	}
	p.data = append([]byte(nil), p.data...)
	q.pending[p.key] = true
	q.lanes[p.lane] = append(q.lanes[p.lane], p)
	if p.lane == knownAsk || p.lane == ask {
		q.asks.Signal()
	} else {
		q.ends.Signal()
	}
	return true, false
}

// popFinish waits for a message that finishes an exchange; ok is false when the
// queue is closed. The caller calls done with it when it was answered.
func (q *queue) popFinish() (packet, bool) { return q.pop(&q.ends, q.takeFinish) }

// popAsk waits for a message that begins one, as popFinish does. While others wait
// to be finished there is none.
func (q *queue) popAsk() (packet, bool) { return q.pop(&q.asks, q.takeAsk) }

func (q *queue) pop(c *sync.Cond, take func() (packet, bool)) (packet, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		if p, ok := take(); ok {
			return p, true
		}
		c.Wait()
	}
	return packet{}, false
}

func (q *queue) takeFinish() (packet, bool) {
	for _, l := range []lane{knownFinish, finish} {
		if p, ok := q.take(l); ok {
			if len(q.lanes[knownFinish]) == 0 || len(q.lanes[finish]) == 0 {
				q.asks.Broadcast()
			}
			return p, true
		}
	}
	return packet{}, false
}

func (q *queue) takeAsk() (packet, bool) {
	if len(q.lanes[knownFinish]) > 0 {
		return packet{}, false
	}
	if p, ok := q.take(knownAsk); ok || len(q.lanes[finish]) > 0 {
		return p, ok
	}
	return q.take(ask)
}

func (q *queue) take(l lane) (packet, bool) {
	w := q.lanes[l]
	if len(w) == 0 {
		return packet{}, false
	}
	p := w[0]
	w[0] = packet{}
	q.lanes[l] = w[1:]
	return p, true
}

func (q *queue) done(p packet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.pending, p.key)
}
