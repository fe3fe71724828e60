//go:build netns

package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"nereid/headnode/store"
)

// TestNetNSRealDiskFull fills a real, small file system: Updates that do not fit are
// refused as such, and nothing that was acknowledged is lost.
func TestNetNSRealDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatalf("mount a small tmpfs (this tier runs as root): %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	path := filepath.Join(dir, "db")
	s := open(t, path)
	put := func(k string) error {
		return s.Update(t.Context(), func(tx store.Tx) error { return tx.Put(k, make([]byte, 40_000)) })
	}
	key := func(i int) string { return fmt.Sprintf("k%03d", i) }
	acked := 0
	var err error
	for ; acked < 1000 && err == nil; acked++ {
		err = put(key(acked))
	}
	acked--
	if !errors.Is(err, store.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full disk: error is %v", err)
	}
	check := func(from int) {
		t.Helper()
		err := s.View(t.Context(), func(tx store.Tx) error {
			for i := from; i < acked; i++ {
				if v, err := tx.Get(key(i)); err != nil || len(v) != 40_000 {
					return fmt.Errorf("acknowledged, and lost: %s (%d bytes, %w)", key(i), len(v), err)
				}
			}
			if has, err := store.Has(tx, key(acked)); has || err != nil {
				return fmt.Errorf("refused, and there: %v %w", has, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	check(0)
	for range 3 {
		if err := put(key(acked)); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("still full: error is %v", err)
		}
	}
	check(0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	check(0)
	// Room made on the disk helps at once.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	if err := put(key(acked)); err != nil {
		t.Errorf("after the disk grew: %v", err)
	}
	acked++
	check(0)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}
