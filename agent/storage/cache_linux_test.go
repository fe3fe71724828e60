package storage

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

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
		t.Fatal(err)
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
