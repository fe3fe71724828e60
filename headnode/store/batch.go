package store

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// A batch is committed without waiting for more once it has this many Updates or
// bytes; it bounds how long an Update waits and the memory a batch takes.
const (
	batchUpdates = 1024
	batchBytes   = 8 << 20
)

// batch is one bbolt transaction that several Updates share.
type batch struct {
	tx     *bolt.Tx
	bucket *bolt.Bucket
	n      int                 // Updates in it that wrote something
	front  bool                // one that does not go behind others waits for it
	size   int                 // bytes they wrote
	keys   map[string]struct{} // keys they wrote or deleted
	failed error               // set when the transaction cannot be committed
	err    error               // outcome, once done is closed
	done   chan struct{}
}

// Update runs fn in a transaction and returns when it is on disk; see Store.
func (s *Bolt) Update(ctx context.Context, fn func(Tx) error) error {
	if err := s.enter(ctx); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	defer s.leave()
	if err := s.takeTurn(ctx, IsBehind(ctx)); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	b, err := s.run(ctx, fn)
	if b == nil {
		return err // it saw nothing that is not on disk already
	}
	// Also an Update that failed, or only read, waits: it may have seen, and
	// decided by, writes of the same batch.
	<-b.done
	if err == nil && b.err != nil {
		err = fmt.Errorf("write store: %w", b.err)
	}
	return err
}

type behindKey struct{}

// Behind marks Updates that go after all others, such as those that anybody on the
// network may cause: an Update that is not marked waits for one of them and for one
// commit, however many there are.
func Behind(ctx context.Context) context.Context {
	return context.WithValue(ctx, behindKey{}, true)
}

// IsBehind says whether Behind marked a context: it is for backends.
func IsBehind(ctx context.Context) bool {
	b, _ := ctx.Value(behindKey{}).(bool)
	return b
}

// takeTurn waits until this Update is the only one that runs.
func (s *Bolt) takeTurn(ctx context.Context, behind bool) error {
	s.mu.Lock()
	s.waiting++
	if !behind {
		s.front++
	}
	s.mu.Unlock()
	mine := s.waitTurn(ctx, behind)
	s.mu.Lock()
	s.waiting--
	if !behind {
		s.front--
	}
	if mine {
		s.mu.Unlock()
		return nil
	}
	if s.waiting == 0 {
		// Somebody may have left the batch to this Update to commit. When the turn
		// is not free its holder sees that nobody waits, and commits.
		select {
		case s.turn <- struct{}{}:
			mine = true
		default:
		}
	}
	s.mu.Unlock()
	if mine {
		s.giveTurn()
	}
	return ctx.Err()
}

// waitTurn reports whether the turn came before ctx ended. Of those that go behind
// others only one at a time stands among them.
func (s *Bolt) waitTurn(ctx context.Context, behind bool) bool {
	if behind {
		select {
		case s.gate <- struct{}{}:
			defer func() { <-s.gate }()
		case <-ctx.Done():
			return false
		}
	}
	select {
	case s.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// giveTurn lets the next Update run. When none waits, or the batch is full, or those
// that wait may not be waited for, it commits the batch first.
func (s *Bolt) giveTurn() {
	s.mu.Lock()
	b := s.batch
	if b != nil && (s.waiting == 0 || b.front && s.front == 0 || b.n >= batchUpdates || b.size >= batchBytes || b.failed != nil) {
		s.mu.Unlock()
		s.finish(b)
		s.batch = nil
		s.mu.Lock()
	}
	<-s.turn
	s.mu.Unlock()
}

// finish commits a batch and tells those who wait for it.
func (s *Bolt) finish(b *batch) {
	defer close(b.done)
	switch {
	case b.failed != nil:
		b.err = b.failed
	case b.n == 0:
		b.err = b.tx.Rollback()
		return
	default:
		b.err = s.commit(b.tx)
	}
	if b.err == nil {
		s.watch.changed(b.keys)
		return
	}
	b.tx.Rollback() // its error is only "ended already"
	if isNoSpace(b.err) {
		b.err = fmt.Errorf("%w: %w; free some and try again", ErrNoSpace, b.err)
		return
	}
	// What reached the disk is unknown now, and the kernel reports a failed
	// write-back only once: going on could acknowledge what is lost.
	b.err = fmt.Errorf("%w: %w; check the disk below %s, then restart the head node", ErrBroken, b.err, s.path)
	s.broken = b.err
}

// isNoSpace tells full disks, quotas and file size limits from failing ones.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// run runs fn with the turn held, adds what it wrote to the batch, and gives the
// turn back, also when fn panics. The batch returned is to be waited for.
func (s *Bolt) run(ctx context.Context, fn func(Tx) error) (*batch, error) {
	defer s.giveTurn()
	if s.broken != nil {
		return nil, fmt.Errorf("write store: %w", s.broken)
	}
	if s.batch == nil {
		btx, err := s.db.Begin(true)
		if err != nil {
			return nil, fmt.Errorf("write store: %w", err)
		}
		s.batch = &batch{tx: btx, bucket: btx.Bucket([]byte(bucketName)), keys: make(map[string]struct{}), done: make(chan struct{})}
	}
	b := s.batch
	b.front = b.front || !IsBehind(ctx)
	t := &tx{ctx: ctx, base: b.bucket, writes: make(map[string]write)}
	err := t.call(fn)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		b.apply(t)
	} else if b.n == 0 {
		return nil, err
	}
	return b, err
}

// apply makes the writes of a transaction in the batch. One that fails halfway
// fails the batch: it cannot be told apart from the others any more.
func (b *batch) apply(t *tx) {
	if len(t.writes) == 0 {
		return
	}
	b.failed = errors.New("write was interrupted")
	b.n++
	for _, k := range t.keys {
		w := t.writes[k]
		b.keys[k] = struct{}{}
		b.size += len(k) + len(w.value)
		var err error
		if w.deleted {
			err = b.bucket.Delete([]byte(k))
		} else {
			err = b.bucket.Put([]byte(k), w.value)
		}
		if err != nil {
			b.failed = fmt.Errorf("put %q: %w", k, err)
			return
		}
	}
	b.failed = nil
}
