package fabric

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"nereid/headnode/store"
)

// Hub wakes the followers of the VNIs whose maps changed. It watches one key prefix
// of the store for all of them, and reads of each change only which VNIs it was in,
// so that the cost of a change is that of the followers it concerns.
type Hub struct {
	store store.Store

	mu        sync.Mutex
	followers map[uint32]map[*Follower]struct{}
}

// Follower hears of changes in some VNIs.
type Follower struct {
	hub  *Hub
	vnis []uint32
	c    chan struct{}

	changed map[uint32]struct{} // under hub.mu
}

// NewHub makes a hub; it works while Run does.
func NewHub(s store.Store) *Hub {
	return &Hub{store: s, followers: make(map[uint32]map[*Follower]struct{})}
}

// Run wakes followers until ctx ends, and then returns nil. Until it runs, and when
// it has ended, nobody is woken: who holds a poll ends it after a while anyway.
func (h *Hub) Run(ctx context.Context) error {
	changes := h.store.Watch(ctx, changedPrefix)
	var last uint64
	err := h.store.View(ctx, func(tx store.Tx) (err error) {
		last, _, err = store.Lookup[uint64](tx, seqKey)
		return err
	})
	if err != nil {
		return stopped(ctx, err)
	}
	h.wakeAll() // what changed before: who followed already may have missed it
	for range changes {
		var vnis []uint32
		err := h.store.View(ctx, func(tx store.Tx) (err error) {
			vnis, last, err = changedSince(tx, last)
			return err
		})
		if err != nil {
			return stopped(ctx, err)
		}
		h.wake(vnis)
	}
	return stopped(ctx, store.ErrClosed)
}

// stopped is nil when the error comes from the end of ctx.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow maps: %w", err)
}

// changedSince lists the VNIs whose last change is behind a place in the list, and
// gives the place of the last one.
func changedSince(tx store.Tx, last uint64) ([]uint32, uint64, error) {
	var vnis []uint32
	for it, err := range tx.Scan(changedPrefix, changedKey(last)) {
		if err != nil {
			return nil, last, err
		}
		vni, err := strconv.ParseUint(string(it.Value), 10, 32)
		if err != nil {
			return nil, last, fmt.Errorf("decode %q: %w", it.Key, err)
		}
		vnis = append(vnis, uint32(vni))
		if last, err = strconv.ParseUint(it.Key[len(changedPrefix):], 16, 64); err != nil {
			return nil, last, fmt.Errorf("key %q: %w", it.Key, err)
		}
	}
	return vnis, last, nil
}

// Follow begins to follow VNIs. Follow first, then read with Changes, then wait: so
// nothing is missed. Close ends it.
func (h *Hub) Follow(vnis ...uint32) *Follower {
	f := &Follower{hub: h, vnis: slices.Clone(vnis), c: make(chan struct{}, 1), changed: make(map[uint32]struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, vni := range f.vnis {
		set := h.followers[vni]
		if set == nil {
			set = make(map[*Follower]struct{})
			h.followers[vni] = set
		}
		set[f] = struct{}{}
	}
	return f
}

// C receives when something changed since Changed was called last.
func (f *Follower) C() <-chan struct{} { return f.c }

// Changed gives the VNIs that changed since it was called last. It may name some
// that the follower knows already. After a first read of all its VNIs, a follower
// need read only these: a poll of 50 would otherwise read 50 for each change.
func (f *Follower) Changed() []uint32 {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	out := make([]uint32, 0, len(f.changed))
	for vni := range f.changed {
		out = append(out, vni)
	}
	clear(f.changed)
	slices.Sort(out)
	return out
}

// Close ends the following. It may be called more than once.
func (f *Follower) Close() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	for _, vni := range f.vnis {
		delete(f.hub.followers[vni], f)
		if len(f.hub.followers[vni]) == 0 {
			delete(f.hub.followers, vni)
		}
	}
}

func (h *Hub) wake(vnis []uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, vni := range vnis {
		for f := range h.followers[vni] {
			f.tell(vni)
		}
	}
}

func (h *Hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for vni, set := range h.followers {
		for f := range set {
			f.tell(vni)
		}
	}
}

// tell is called with hub.mu held.
func (f *Follower) tell(vni uint32) {
	f.changed[vni] = struct{}{}
	select {
	case f.c <- struct{}{}:
	default: // it has not taken the last one yet, and will see this with it
	}
}
