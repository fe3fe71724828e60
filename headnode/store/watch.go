package store

import (
	"context"
	"sync"
)

// watchers delivers "something under this prefix changed". The cost of a change
// grows with the number of different prefix lengths, not with that of watchers.
type watchers struct {
	mu       sync.Mutex
	closed   bool
	prefixes map[string]map[*watcher]struct{}
	lengths  map[int]int // prefix length -> prefixes of that length
}

type watcher struct{ c chan struct{} }

// add registers a watcher until ctx ends.
func (w *watchers) add(ctx context.Context, prefix string) <-chan struct{} {
	wt := &watcher{c: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || ctx.Err() != nil {
		close(wt.c)
		return wt.c
	}
	if w.prefixes == nil {
		w.prefixes = make(map[string]map[*watcher]struct{})
		w.lengths = make(map[int]int)
	}
	set := w.prefixes[prefix]
	if set == nil {
		set = make(map[*watcher]struct{})
		w.prefixes[prefix] = set
		w.lengths[len(prefix)]++
	}
	set[wt] = struct{}{}
	context.AfterFunc(ctx, func() { w.remove(prefix, wt) })
	return wt.c
}

func (w *watchers) remove(prefix string, wt *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	set := w.prefixes[prefix]
	if _, ok := set[wt]; !ok {
		return // closed before
	}
	delete(set, wt)
	if len(set) == 0 {
		delete(w.prefixes, prefix)
		if w.lengths[len(prefix)]--; w.lengths[len(prefix)] == 0 {
			delete(w.lengths, len(prefix))
		}
	}
	close(wt.c)
}

// changed tells the watchers of all prefixes of the keys.
func (w *watchers) changed(keys map[string]struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.prefixes) == 0 {
		return
	}
	for key := range keys {
		for n := range w.lengths {
			if n > len(key) {
				continue
			}
			for wt := range w.prefixes[key[:n]] {
				select {
				case wt.c <- struct{}{}:
				default: // it has not read the last one yet
				}
			}
		}
	}
}

// close ends all watches.
func (w *watchers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, set := range w.prefixes {
		for wt := range set {
			close(wt.c)
		}
	}
	w.prefixes, w.lengths = nil, nil
}
