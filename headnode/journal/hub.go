package journal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"nereid/headnode/store"
)

// Hub wakes the followers of the sets that changed. It reads one feed of the store
// for all of them, so that a change costs what the followers it concerns cost.
type Hub struct {
	// Also, when not nil, is told of each set that changed, before its followers are.
	// Set it before Run; it must not block.
	Also func(sets []string)

	store store.Store

	mu        sync.Mutex
	followers map[string]map[*Follower]struct{} // by set
}

// Follower hears of changes of some sets.
type Follower struct {
	hub  *Hub
	sets []string
	c    chan struct{}

	changed map[string]struct{} // under hub.mu
}

// NewHub makes a hub; it works while Run does.
func NewHub(s store.Store) *Hub {
	return &Hub{store: s, followers: make(map[string]map[*Follower]struct{})}
}

// Run wakes followers until ctx ends, and then returns nil. Until it runs, and when
// it has ended, nobody is woken: who holds a poll ends it after a while anyway.
func (h *Hub) Run(ctx context.Context) error {
	feed := h.store.Feed(ctx, setPrefix)
	h.wakeAll() // what changed before: who followed already may have missed it
	for range feed.C {
		sets := feed.Take()
		for i, key := range sets {
			sets[i] = strings.TrimPrefix(key, setPrefix)
		}
		if h.Also != nil && len(sets) > 0 {
			h.Also(sets)
		}
		h.wake(sets)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow the journal: %w", store.ErrClosed)
}

// Follow begins to follow sets. Follow first, then read with Changes, then wait: so
// nothing is missed. Close ends it.
func (h *Hub) Follow(sets ...string) *Follower {
	f := &Follower{hub: h, sets: slices.Clone(sets), c: make(chan struct{}, 1), changed: make(map[string]struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, set := range f.sets {
		of := h.followers[set]
		if of == nil {
			of = make(map[*Follower]struct{})
			h.followers[set] = of
		}
		of[f] = struct{}{}
	}
	return f
}

// C receives when something changed since Changed was called last.
func (f *Follower) C() <-chan struct{} { return f.c }

// Changed gives the sets that changed since it was called last. It may name some
// whose changes the follower knows already. After a first read of all its sets, a
// follower need read only these.
func (f *Follower) Changed() []string {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	out := make([]string, 0, len(f.changed))
	for set := range f.changed {
		out = append(out, set)
	}
	clear(f.changed)
	slices.Sort(out)
	return out
}

// Close ends the following. It may be called more than once.
func (f *Follower) Close() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	for _, set := range f.sets {
		delete(f.hub.followers[set], f)
		if len(f.hub.followers[set]) == 0 {
			delete(f.hub.followers, set)
		}
	}
}

// wake tells the followers of the sets whose states were written.
func (h *Hub) wake(sets []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, set := range sets {
		for f := range h.followers[set] {
			f.tell(set)
		}
	}
}

func (h *Hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for set, of := range h.followers {
		for f := range of {
			f.tell(set)
		}
	}
}

// tell is called with hub.mu held.
func (f *Follower) tell(set string) {
	f.changed[set] = struct{}{}
	select {
	case f.c <- struct{}{}:
	default: // it has not taken the last one yet, and will see this with it
	}
}
