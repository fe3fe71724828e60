package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// BoltOptions are what can be chosen for OpenBolt; the zero value is right.
type BoltOptions struct {
	// Wait is how long to wait for another process to close the file; zero
	// means a second, which bridges a restart.
	Wait time.Duration
}

// mmapSize is reserved address space, not memory: while the file is smaller, a
// growing file need not be mapped anew, which would wait for all readers to end.
const mmapSize = 1 << 30

// bucketName is the one bbolt bucket that all keys are in.
const bucketName = "nereid"

// Bolt is a Store in one bbolt file.
//
// Concurrent Updates share one fsync: each runs its function on top of the
// writes of those before it, in memory of its own, so that one that fails leaves
// no trace; the last one with nobody waiting behind it commits for all.
type Bolt struct {
	db    *bolt.DB
	path  string
	watch watchers

	life   sync.RWMutex // held for reading by every transaction, for writing by Close
	closed bool         // under life

	turn    chan struct{} // full while an Update runs its function or commits
	gate    chan struct{} // full while an Update that goes behind others is next, or nearly
	mu      sync.Mutex    // orders waiting against giving back the turn
	waiting int           // Updates that wait for their turn, under mu
	front   int           // those of them that do not go behind others, under mu
	batch   *batch        // open transaction; of the turn's holder
	broken  error         // why no Update is possible any more; of the turn's holder

	commit func(*bolt.Tx) error // tests make it fail
}

// OpenBolt opens or makes the bbolt file at path, mode 0600, for this process
// alone.
func OpenBolt(ctx context.Context, path string, o BoltOptions) (*Bolt, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if o.Wait <= 0 {
		o.Wait = time.Second
	}
	if d, ok := ctx.Deadline(); ok {
		o.Wait = max(time.Millisecond, min(o.Wait, time.Until(d)))
	}
	_, err := os.Stat(path)
	fresh := errors.Is(err, os.ErrNotExist)
	if !fresh {
		if err := checkLength(path, o.Wait); err != nil {
			return nil, openError(path, err)
		}
	}
	db, err := openBolt(path, &bolt.Options{
		Timeout:         o.Wait,
		NoFreelistSync:  true, // found again by a scan when opened
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: mmapSize,
	})
	if err != nil {
		return nil, openError(path, err)
	}
	s := &Bolt{db: db, path: path, turn: make(chan struct{}, 1), gate: make(chan struct{}, 1), commit: (*bolt.Tx).Commit}
	if err := s.prepare(fresh); err != nil {
		return nil, errors.Join(openError(path, err), db.Close())
	}
	return s, nil
}

// prepare makes mode, bucket and directory entry what they must be.
func (s *Bolt) prepare(fresh bool) error {
	if err := os.Chmod(s.path, 0o600); err != nil {
		return err
	}
	have := false
	if err := s.db.View(func(tx *bolt.Tx) error { have = tx.Bucket([]byte(bucketName)) != nil; return nil }); err != nil {
		return err
	}
	if !have {
		err := s.db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists([]byte(bucketName))
			return err
		})
		if err != nil {
			return err
		}
	}
	if !fresh {
		return nil
	}
	dir, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// openBolt is bolt.Open with its panics over damaged files made errors.
func openBolt(path string, o *bolt.Options) (db *bolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}()
	return bolt.Open(path, 0o600, o)
}

// checkLength finds a file that lost its end, which would be a SIGBUS later.
func checkLength(path string, wait time.Duration) error {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() == 0 {
		return err
	}
	if least := 4 * int64(os.Getpagesize()); fi.Size() < least { // what bbolt makes a file with
		return fmt.Errorf("%w: it has %d bytes and should have %d or more", ErrCorrupt, fi.Size(), least)
	}
	db, err := openBolt(path, &bolt.Options{ReadOnly: true, Timeout: wait})
	if err != nil {
		return err
	}
	err = db.View(func(tx *bolt.Tx) error {
		if fi, err = os.Stat(path); err != nil {
			return err
		}
		if fi.Size() < tx.Size() {
			return fmt.Errorf("%w: it has %d bytes and should have %d", ErrCorrupt, fi.Size(), tx.Size())
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// openError says what a failed open means and what to do.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, bolt.ErrTimeout):
		return fmt.Errorf("open store %s: %w: another process has it open; stop the head node that runs on this data directory first", path, ErrLocked)
	case errors.Is(err, bolt.ErrInvalid), errors.Is(err, bolt.ErrChecksum), errors.Is(err, bolt.ErrVersionMismatch):
		err = fmt.Errorf("%w (%w)", ErrCorrupt, err)
	}
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("open store %s: %w; put a backup in its place", path, err)
	}
	return fmt.Errorf("open store %s: %w", path, err)
}

// enter keeps the store open until leave.
func (s *Bolt) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return ErrClosed
	}
	return nil
}

func (s *Bolt) leave() { s.life.RUnlock() }

// View runs fn on a snapshot.
func (s *Bolt) View(ctx context.Context, fn func(Tx) error) error {
	if err := s.enter(ctx); err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	defer s.leave()
	btx, err := s.db.Begin(false)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	defer btx.Rollback() // ends a read transaction; its error is only "ended already"
	t := &tx{ctx: ctx, base: btx.Bucket([]byte(bucketName))}
	defer t.end()
	return fn(t)
}

// Watch tells of changes below prefix; see Store.
func (s *Bolt) Watch(ctx context.Context, prefix string) <-chan struct{} {
	return s.watch.add(ctx, prefix, nil)
}

// Feed tells which keys below prefix changed; see Store.
func (s *Bolt) Feed(ctx context.Context, prefix string) *Feed {
	return s.watch.feed(ctx, prefix)
}

// Close waits for all transactions to end and closes the file. A second Close
// does nothing.
func (s *Bolt) Close() error {
	s.watch.close()
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Backup writes a consistent copy of the whole store to w, while it is in use,
// and returns its size in bytes. The copy is itself a store that OpenBolt opens.
func (s *Bolt) Backup(ctx context.Context, w io.Writer) (int64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, fmt.Errorf("back up store: %w", err)
	}
	defer s.leave()
	var n int64
	err := s.db.View(func(tx *bolt.Tx) error {
		var err error
		n, err = tx.WriteTo(ctxWriter{ctx, w})
		return err
	})
	if err != nil {
		return n, fmt.Errorf("back up store: %w", err)
	}
	return n, nil
}

// ctxWriter stops a long copy when its context ends.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c ctxWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}
