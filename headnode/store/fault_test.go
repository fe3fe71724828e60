package store

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func faulty(t *testing.T) *Bolt {
	s, err := OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s *Bolt, key string) error {
	return s.Update(t.Context(), func(tx Tx) error { return tx.Put(key, nil) })
}

func has(t *testing.T, s *Bolt, key string) (found bool) {
	err := s.View(t.Context(), func(tx Tx) (err error) { found, err = Has(tx, key); return err })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDiskFull(t *testing.T) {
	s := faulty(t)
	if err := put(t, s, "a"); err != nil {
		t.Fatal(err)
	}
	w := s.Watch(t.Context(), "")
	s.commit = func(*bolt.Tx) error { return syscall.ENOSPC }
	if err := put(t, s, "b"); !errors.Is(err, ErrNoSpace) {
		t.Errorf("error is %v, want ErrNoSpace", err)
	}
	if !has(t, s, "a") || has(t, s, "b") || len(w) != 0 {
		t.Error("a failed commit left something behind")
	}
	s.commit = (*bolt.Tx).Commit
	if err := put(t, s, "c"); err != nil {
		t.Errorf("after space was freed: %v", err)
	}
}

// TestDiskFails: after a failed fsync nothing more is acknowledged.
func TestDiskFails(t *testing.T) {
	s := faulty(t)
	if err := put(t, s, "a"); err != nil {
		t.Fatal(err)
	}
	s.commit = func(*bolt.Tx) error { return syscall.EIO }
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := put(t, s, "b"); !errors.Is(err, ErrBroken) || !errors.Is(err, syscall.EIO) {
				t.Errorf("error is %v", err)
			}
		})
	}
	wg.Wait()
	s.commit = (*bolt.Tx).Commit
	err := put(t, s, "c")
	if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "restart") {
		t.Errorf("error is %v, want ErrBroken until a restart", err)
	}
	if !has(t, s, "a") || has(t, s, "b") {
		t.Error("reads are wrong after a failed commit")
	}
}

// TestShareFsync: Updates that wait together are committed together.
func TestShareFsync(t *testing.T) {
	s := faulty(t)
	commits := 0
	s.commit = func(tx *bolt.Tx) error { commits++; return tx.Commit() }
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Update(t.Context(), func(tx Tx) error { close(inside); <-goOn; return tx.Put("first", nil) })
	})
	<-inside
	for i := range 50 {
		wg.Go(func() {
			if err := put(t, s, string(rune('a'+i))); err != nil {
				t.Error(err)
			}
		})
	}
	for waiting := 0; waiting < 50; { // no event says that they all wait
		s.mu.Lock()
		waiting = s.waiting
		s.mu.Unlock()
	}
	close(goOn)
	wg.Wait()
	if commits != 1 {
		t.Errorf("51 updates took %d commits, want 1", commits)
	}
}
