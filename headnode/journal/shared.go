package journal

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"

	"nereid/headnode/store"
)

// Bounds of what a Shared keeps: so many parts, each with a lock of its own, and the
// bytes and answers of a part.
const (
	sharedParts   = 16
	sharedBytes   = 2 << 20
	sharedAnswers = 256
)

// Shared keeps answers that were made of changes lately, in the form in which they
// travel, so that an answer is made once for all who lack the same, also when they ask
// at the same time. Any number of goroutines may use it.
//
// An answer belongs to what a follower has, and to the epoch and version of the set at
// which it was made, so it never gets old. A process has one store, in which a version
// means one thing.
type Shared[T any] struct {
	seed  maphash.Seed
	parts [sharedParts]sharedPart[T]
}

type sharedPart[T any] struct {
	mu    sync.Mutex
	made  map[sharedKey]*sharedAnswer[T]
	order []sharedKey // of those that are kept, the oldest first
	bytes int         // of those
}

// sharedKey is what a follower has of a set, and what the set is at.
type sharedKey struct {
	set     string
	has     Follow
	epoch   string
	version uint64
}

type sharedAnswer[T any] struct {
	ready chan struct{} // closed when the rest is there
	value T
	size  int
	err   error
}

// errUnmade is the error of an answer whose maker panicked.
var errUnmade = errors.New("the answer was not made")

// NewShared makes one that keeps nothing yet.
func NewShared[T any]() *Shared[T] {
	s := &Shared[T]{seed: maphash.MakeSeed()}
	for i := range s.parts {
		s.parts[i].made = map[sharedKey]*sharedAnswer[T]{}
	}
	return s
}

// Get gives what a follower lacks of a set: what fn makes of it, with its size in
// bytes, now or for another follower. Where there is nothing new, news is false and fn
// is not called. tx is that of a View, and ctx the one that the View was begun with.
func (s *Shared[T]) Get(ctx context.Context, tx store.Tx, set string, f Follow, fn func() (T, int, error)) (v T, size int, news bool, err error) {
	at, _, err := ReadState(tx, set)
	if err != nil || f.current(at) {
		return v, 0, false, err
	}
	key := sharedKey{set: set, has: f, epoch: at.Epoch, version: at.Version}
	p := &s.parts[maphash.Comparable(s.seed, key)%sharedParts]
	a, mine := p.claim(key)
	if mine {
		v, size, err = p.fill(key, a, fn)
		return v, size, err == nil, err
	}
	select {
	case <-a.ready:
	case <-ctx.Done():
		return v, 0, false, ctx.Err()
	}
	if a.err != nil { // the request that it was made for may have ended; this one did not
		v, size, err = fn()
		return v, size, err == nil, err
	}
	return a.value, a.size, true, nil
}

// claim gives the answer of a key, and whether the caller is to make it.
func (p *sharedPart[T]) claim(key sharedKey) (a *sharedAnswer[T], mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.made[key]; a != nil {
		return a, false
	}
	a = &sharedAnswer[T]{ready: make(chan struct{}), err: errUnmade}
	p.made[key] = a
	return a, true
}

// fill makes an answer, and keeps it when it is one that fits.
func (p *sharedPart[T]) fill(key sharedKey, a *sharedAnswer[T], fn func() (T, int, error)) (T, int, error) {
	defer func() { // also when fn panics
		close(a.ready)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.keep(key, a)
	}()
	a.value, a.size, a.err = fn()
	return a.value, a.size, a.err
}

// keep is called with p.mu held. The oldest answers give way.
func (p *sharedPart[T]) keep(key sharedKey, a *sharedAnswer[T]) {
	if a.err != nil || a.size > sharedBytes {
		delete(p.made, key)
		return
	}
	p.order = append(p.order, key)
	p.bytes += a.size
	for p.bytes > sharedBytes || len(p.order) > sharedAnswers {
		oldest := p.order[0]
		p.bytes -= p.made[oldest].size
		delete(p.made, oldest)
		p.order = p.order[1:]
	}
}
