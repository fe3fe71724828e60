package storage

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestCacheLimit: ZFS's cache has what the instances and the platform leave, within
// bounds.
func TestCacheLimit(t *testing.T) {
	const gib, mib = int64(1) << 30, int64(1) << 20
	for _, c := range []struct{ memory, sold, want int64 }{
		{memory: 64 * gib, sold: 0, want: 48 * gib},                    // nothing runs: three quarters
		{memory: 64 * gib, sold: 40 * gib, want: 24*gib - 512*mib},     // what is left
		{memory: 64 * gib, sold: 63 * gib, want: 4 * gib},              // a sixteenth stays
		{memory: 64 * gib, sold: 200 * gib, want: 4 * gib},             // given out more than once
		{memory: 2 * gib, sold: 512 * mib, want: gib},                  //
		{memory: 512 * mib, sold: 512 * mib, want: 64 * mib},           // ZFS takes no less
		{memory: 1 << 50, sold: 1 << 49, want: 1<<49 - int64(512*mib)}, // no overflow
	} {
		if got := CacheLimit(c.memory, c.sold); got != c.want {
			t.Errorf("CacheLimit(%d MiB, %d MiB) = %d MiB, want %d MiB", c.memory/mib, c.sold/mib, got/mib, c.want/mib)
		}
	}
}

// TestFitCache: the bound is written where it differs, and a server without the module
// says so.
func TestFitCache(t *testing.T) {
	s := &Storage{Root: t.TempDir()}
	if err := s.FitCache(0); err == nil {
		t.Error("no error without the module")
	}
	path := filepath.Join(s.Root, maxCacheFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	memory, err := memoryBytes()
	if err != nil {
		t.Skip("the size of memory is known on Linux only:", err)
	}
	for _, sold := range []int64{0, memory / 2, memory} {
		if err := s.FitCache(sold); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if want := strconv.FormatInt(CacheLimit(memory, sold), 10); err != nil || string(b) != want {
			t.Errorf("with %d bytes given out the bound is %q, want %s (%v)", sold, b, want, err)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := s.FitCache(memory); err != nil { // it is so already, and is not written
		t.Error(err)
	}
}
