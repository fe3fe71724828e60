package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openIn(ctx context.Context, dir string) (store.Store, error) {
	return store.OpenBolt(ctx, filepath.Join(dir, "nereid.db"), store.BoltOptions{})
}

func TestBolt(t *testing.T) { storetest.Run(t, openIn) }

func open(t testing.TB, path string) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(t.Context(), path, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path).Close()
	for _, mode := range []os.FileMode{0o600, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		open(t, path).Close()
		fi, err := os.Stat(path)
		if err != nil || fi.Mode() != 0o600 {
			t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
		}
	}
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	_, err := store.OpenBolt(t.Context(), path, store.BoltOptions{Wait: time.Millisecond})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "stop the head node") {
		t.Errorf("error is %v", err)
	}
}

func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "db")
	s := open(t, whole)
	err := s.Update(t.Context(), func(tx store.Tx) error {
		for i := range 200 {
			if err := tx.Put(fmt.Sprint("k", i), make([]byte, 2000)); err != nil {
				return err
			}
		}
		return nil
	})
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"cut in the middle": b[:100_000],
		"first page only":   b[:4096],
		"another file":      bytes.Repeat([]byte("hello "), 5000),
		"short file":        []byte("hello"),
		"zeroed":            make([]byte, len(b)),
	} {
		path := filepath.Join(dir, "damaged")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenBolt(t.Context(), path, store.BoltOptions{})
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: error is %v", name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, damaged) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "db"))
	put := func(k string) error {
		return s.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.Put("a/"+k, nil), tx.Put("b/"+k, nil))
		})
	}
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := put(fmt.Sprint(i)); err != nil {
				t.Errorf("put: %v", err)
			}
		}
	})
	var buf bytes.Buffer
	n, err := s.Backup(t.Context(), &buf)
	stop()
	wg.Wait()
	if err != nil || n != int64(buf.Len()) {
		t.Fatalf("backup: %d of %d bytes, %v", n, buf.Len(), err)
	}
	copied := filepath.Join(dir, "copy")
	if err := os.WriteFile(copied, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	err = open(t, copied).View(t.Context(), func(tx store.Tx) error {
		var a, b []string
		for it, err := range tx.Scan("", "") {
			if err != nil {
				return err
			}
			if strings.HasPrefix(it.Key, "a/") {
				a = append(a, it.Key[2:])
			} else {
				b = append(b, it.Key[2:])
			}
		}
		if len(a) == 0 || strings.Join(a, " ") != strings.Join(b, " ") {
			t.Errorf("copy holds half an update: %v and %v", a, b)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := s.Backup(ctx, &buf); !errors.Is(err, context.Canceled) {
		t.Errorf("backup with an ended context: %v", err)
	}
}

func benchmark(b *testing.B, writers int) {
	s := open(b, filepath.Join(b.TempDir(), "db"))
	left := make(chan int, b.N)
	for i := range b.N {
		left <- i
	}
	close(left)
	value := make([]byte, 500)
	b.ResetTimer()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range left {
				err := s.Update(b.Context(), func(tx store.Tx) error { return tx.Put(fmt.Sprintf("k%06d", i%10000), value) })
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}

func BenchmarkUpdate1(b *testing.B)  { benchmark(b, 1) }
func BenchmarkUpdate64(b *testing.B) { benchmark(b, 64) }
