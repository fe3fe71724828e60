package store

import (
	"context"
	"slices"
	"sync"
)

// Feed is a watch that keeps the keys that changed until they are taken. It holds
// each key once, so it is bounded by the number of keys below its prefix.
type Feed struct {
	C <-chan struct{} // receives when there are keys to take

	mu   sync.Mutex
	keys map[string]struct{}
}

// Take gives the keys that changed since it was called last, in order.
func (f *Feed) Take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]string, 0, len(f.keys))
	for k := range f.keys {
		keys = append(keys, k)
	}
	clear(f.keys)
	slices.Sort(keys)
	return keys
}

func (f *Feed) add(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[key] = struct{}{}
}

// watchers delivers "something under this prefix changed". The cost of a change
// grows with the number of different prefix lengths, not with that of watchers.
type watchers struct {
	mu       sync.Mutex
	closed   bool
	prefixes map[string]map[*watcher]struct{}
	lengths  map[int]int // prefix length -> prefixes of that length
}

type watcher struct {
	c    chan struct{}
	feed *Feed // what keeps the keys; nil for a watch
}

// feed registers a feed until ctx ends.
func (w *watchers) feed(ctx context.Context, prefix string) *Feed {
	f := &Feed{keys: make(map[string]struct{})}
	f.C = w.add(ctx, prefix, f)
	return f
}

// add registers a watcher until ctx ends.
func (w *watchers) add(ctx context.Context, prefix string, feed *Feed) <-chan struct{} {
	wt := &watcher{c: make(chan struct{}, 1), feed: feed}
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
				if wt.feed != nil {
					wt.feed.add(key)
				}
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
