package agent

import (
	"context"
	"sync"
)

// Why a gate is closed.
const (
	gateNetwork = "the network was not made yet"
	gateDown    = "the server goes down"
)

// gate holds workers back for as long as there is a reason.
type gate struct {
	mu     sync.Mutex
	closed map[string]bool
	opened chan struct{} // closed and replaced when the last reason goes
}

func newGate(reasons ...string) *gate {
	g := &gate{closed: map[string]bool{}, opened: make(chan struct{})}
	for _, r := range reasons {
		g.closed[r] = true
	}
	return g
}

func (g *gate) close(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed[reason] = true
}

func (g *gate) open(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.closed, reason)
	if len(g.closed) == 0 {
		close(g.opened)
		g.opened = make(chan struct{})
	}
}

// wait waits until the gate is open; false when ctx ended first.
func (g *gate) wait(ctx context.Context) bool {
	for ctx.Err() == nil {
		g.mu.Lock()
		open, opened := len(g.closed) == 0, g.opened
		g.mu.Unlock()
		if open {
			return true
		}
		select {
		case <-opened:
		case <-ctx.Done():
		}
	}
	return false
}
