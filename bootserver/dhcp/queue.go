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
}

// queue holds at most cap(items) packets. When it is full the oldest goes: its
// sender has waited longest, so it is the most likely to have asked again.
type queue struct {
	items chan packet

	mu      sync.Mutex
	pending map[key]bool // queued or being worked on
}

func newQueue(size int) *queue {
	return &queue{items: make(chan packet, size), pending: map[key]bool{}}
}

// push adds p unless the same message is pending already. It reports whether p
// was added and how many older packets had to go.
func (q *queue) push(p packet) (added bool, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending[p.key] {
		return false, 0
	}
	for {
		select {
		case q.items <- p:
			q.pending[p.key] = true
			return true, dropped
		default:
		}
		select {
		case old := <-q.items:
			delete(q.pending, old.key)
			dropped++
		default:
		}
	}
}

// pop waits for a packet. The caller calls done with it when it was answered.
func (q *queue) pop(ctx context.Context) (packet, bool) {
	select {
	case p := <-q.items:
		return p, true
	case <-ctx.Done():
		return packet{}, false
	}
}

func (q *queue) done(p packet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.pending, p.key)
}
