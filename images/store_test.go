package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
)

func digestOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantEmpty(t *testing.T, s *Store) {
	t.Helper()
	for _, sub := range []string{"files", "partial"} {
		ents, err := os.ReadDir(filepath.Join(s.dir, sub))
		if err != nil || len(ents) != 0 {
			t.Errorf("%s: %v, %v; want it empty", sub, ents, err)
		}
	}
}

func TestStoreAppendAndRead(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	data := pattern(700_000)
	d := digestOf(data)

	if _, err := s.Open(ctx, d); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open before: %v", err)
	}
	have, done, err := s.Append(ctx, d, int64(len(data)), 0, bytes.NewReader(data))
	if err != nil || !done || have != int64(len(data)) {
		t.Fatalf("append: %d %v %v", have, done, err)
	}
	f, err := s.Open(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read back: %d bytes, %v", len(got), err)
	}
	if err := s.Verify(ctx, d); err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm() != 0o444 {
		t.Errorf("mode %v, %v; want 0444", fi.Mode(), err)
	}
	// The same end again is no error: an answer may have been lost.
	if _, done, err := s.Append(ctx, d, int64(len(data)), int64(len(data)), strings.NewReader("")); err != nil || !done {
		t.Errorf("append to complete file: %v %v", done, err)
	}
	var off *OffsetError
	if _, done, err := s.Append(ctx, d, int64(len(data)), 0, bytes.NewReader(data)); !errors.As(err, &off) || !done || off.Have != int64(len(data)) {
		t.Errorf("append at 0 to complete file: %v %v", done, err)
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 1 || list[0].SHA256 != d || list[0].Partial {
		t.Errorf("list: %+v, %v", list, err)
	}
	for range 2 {
		if err := s.Remove(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, s)
	if len(s.uploads) != 0 {
		t.Errorf("%d uploads remembered; want none", len(s.uploads))
	}
}

// An upload in three parts, the daemon restarted between them, one part cut by
// the network.
func TestStoreResume(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	data := pattern(900_000)
	d, total := digestOf(data), int64(len(data))

	have, done, err := s.Append(ctx, d, total, 0, bytes.NewReader(data[:300_000]))
	if err != nil || done || have != 300_000 {
		t.Fatalf("first part: %d %v %v", have, done, err)
	}
	cut := io.MultiReader(bytes.NewReader(data[300_000:500_000]), iotest.ErrReader(io.ErrUnexpectedEOF))
	have, done, err = s.Append(ctx, d, total, 300_000, cut)
	if !errors.Is(err, io.ErrUnexpectedEOF) || done || have != 500_000 {
		t.Fatalf("cut part: %d %v %v", have, done, err)
	}
	s, err = OpenStore(s.dir) // as after a restart: nothing in memory
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Stat(d); err != nil || !e.Partial || e.Size != 500_000 {
		t.Fatalf("stat: %+v %v", e, err)
	}
	if s.Has(d) {
		t.Error("a partial upload counts as there")
	}
	var off *OffsetError
	if have, _, err := s.Append(ctx, d, total, 400_000, bytes.NewReader(data[400_000:])); !errors.As(err, &off) || off.Have != 500_000 || have != 500_000 {
		t.Fatalf("wrong offset: %d %v", have, err)
	}
	have, done, err = s.Append(ctx, d, total, 500_000, bytes.NewReader(data[500_000:]))
	if err != nil || !done || have != total {
		t.Fatalf("last part: %d %v %v", have, done, err)
	}
	if err := s.Verify(ctx, d); err != nil {
		t.Fatal(err)
	}
}

func TestStoreRefuses(t *testing.T) {
	data := pattern(1000)
	d := digestOf(data)
	wrong := bytes.Clone(data)
	wrong[500] ^= 1
	full := func(s *Store) { s.copy = func(*os.File, []byte) (int, error) { return 0, syscall.ENOSPC } }
	nofree := func(s *Store) { s.free = func(string) (int64, error) { return 999, nil } }
	for _, tt := range []struct {
		name  string
		setup func(*Store)
		data  []byte
		total int64
		at    int64
		want  any
	}{
		{name: "wrong bytes", data: wrong, total: 1000, want: new(*DigestError)},
		{name: "too many bytes", data: append(bytes.Clone(data), 'x'), total: 1000, want: new(*SizeError)},
		{name: "starts in the middle", data: data[10:], total: 1000, at: 10, want: new(*OffsetError)},
		{name: "no total", data: data, total: 0, want: new(*SizeError)},
		{name: "offset behind total", data: data, total: 1000, at: 1001, want: new(*SizeError)},
		{name: "disk full while writing", setup: full, data: data, total: 1000, want: new(*NoSpaceError)},
		{name: "disk too small from the start", setup: nofree, data: data, total: 1000, want: new(*NoSpaceError)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			if tt.setup != nil {
				tt.setup(s)
			}
			_, done, err := s.Append(t.Context(), d, tt.total, tt.at, bytes.NewReader(tt.data))
			if done || !errors.As(err, tt.want) {
				t.Fatalf("done %v, error %v; want a %T", done, err, tt.want)
			}
			wantEmpty(t, s)
		})
	}
}

// After a full disk the same upload works from its beginning.
func TestStoreDiskFullThenSpace(t *testing.T) {
	s := newStore(t)
	data := pattern(1000)
	d := digestOf(data)
	if _, _, err := s.Append(t.Context(), d, 1000, 0, bytes.NewReader(data[:400])); err != nil {
		t.Fatal(err)
	}
	write := s.copy
	s.copy = func(*os.File, []byte) (int, error) { return 0, syscall.ENOSPC }
	var full *NoSpaceError
	if _, _, err := s.Append(t.Context(), d, 1000, 400, bytes.NewReader(data[400:])); !errors.As(err, &full) {
		t.Fatalf("want a full disk, got %v", err)
	}
	wantEmpty(t, s)
	s.copy = write
	if _, done, err := s.Append(t.Context(), d, 1000, 0, bytes.NewReader(data)); err != nil || !done {
		t.Fatalf("again: %v %v", done, err)
	}
}

func TestStoreVerifyFindsDamage(t *testing.T) {
	s := newStore(t)
	data := pattern(5000)
	d := digestOf(data)
	if _, _, err := s.Append(t.Context(), d, 5000, 0, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	data[4999] ^= 0x80
	if err := os.Chmod(s.file(d), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file(d), data, 0o644); err != nil {
		t.Fatal(err)
	}
	var de *DigestError
	if err := s.Verify(t.Context(), d); !errors.As(err, &de) || de.Want != d {
		t.Fatalf("verify damaged file: %v", err)
	}
}

func TestStoreNames(t *testing.T) {
	s := newStore(t)
	good := digestOf(nil)
	for _, name := range []string{"", "..", "../../etc/passwd", good[:63], good + "0", strings.ToUpper(good),
		strings.Repeat("/", 64), good[:61] + "/..", good[:63] + "\x00", "../" + good[3:]} {
		var ne *NameError
		if _, err := s.Open(t.Context(), name); !errors.As(err, &ne) {
			t.Errorf("open %q: %v", name, err)
		}
		if _, _, err := s.Append(t.Context(), name, 1, 0, strings.NewReader("x")); !errors.As(err, &ne) {
			t.Errorf("append %q: %v", name, err)
		}
		if err := s.Remove(t.Context(), name); !errors.As(err, &ne) {
			t.Errorf("remove %q: %v", name, err)
		}
		if _, err := s.Stat(name); !errors.As(err, &ne) {
			t.Errorf("stat %q: %v", name, err)
		}
	}
	wantEmpty(t, s)
}

// Two uploads of one file at once: one wins, the other is told where it is.
func TestStoreConcurrent(t *testing.T) {
	s := newStore(t)
	data := pattern(400_000)
	d := digestOf(data)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		wg.Go(func() {
			_, done, err := s.Append(t.Context(), d, int64(len(data)), 0, bytes.NewReader(data))
			mu.Lock()
			defer mu.Unlock()
			var off *OffsetError
			if err == nil && done {
				won++
			} else if !errors.As(err, &off) {
				t.Errorf("loser: %v", err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d uploads won; want 1", won)
	}
	if err := s.Verify(t.Context(), d); err != nil {
		t.Error(err)
	}
}

func TestStoreWaiterGivesUp(t *testing.T) {
	s := newStore(t)
	d := digestOf([]byte("x"))
	pr, pw := io.Pipe()
	started := make(chan struct{})
	finished := make(chan error, 1)
	go func() {
		_, _, err := s.Append(t.Context(), d, 1, 0, io.MultiReader(readFunc(func([]byte) (int, error) { close(started); return 0, io.EOF }), pr))
		finished <- err
	}()
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Append(ctx, d, 1, 0, strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("waiter: %v", err)
	}
	if _, err := pw.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pw.Close(), <-finished); err != nil {
		t.Fatal(err)
	}
	if !s.Has(d) {
		t.Error("file is not there")
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// A store of images: a file has a UUID for a name, and its digest is compared all the
// same. Two images may have the same bytes.
func TestStoreNamed(t *testing.T) {
	ctx := t.Context()
	s, err := OpenNamed(filepath.Join(t.TempDir(), "i"))
	if err != nil {
		t.Fatal(err)
	}
	data := pattern(1000)
	d := digestOf(data)
	const a, b = "0d9e5e6c-7c1e-4c9c-8a75-6f2f39ab9a9a", "1d9e5e6c-7c1e-4c9c-8a75-6f2f39ab9a9a"
	var wrong *DigestError
	if _, _, err := s.AppendNamed(ctx, a, digestOf(nil), 1000, 0, bytes.NewReader(data)); !errors.As(err, &wrong) {
		t.Errorf("other bytes: %v", err)
	}
	wantEmpty(t, s)
	for _, name := range []string{a, b} {
		if have, done, err := s.AppendNamed(ctx, name, d, 1000, 0, bytes.NewReader(data[:400])); err != nil || done || have != 400 {
			t.Fatalf("%d %v %v", have, done, err)
		}
		if _, done, err := s.AppendNamed(ctx, name, d, 1000, 400, bytes.NewReader(data[400:])); err != nil || !done {
			t.Fatalf("%v %v", done, err)
		}
	}
	if err := s.Remove(ctx, a); err != nil {
		t.Fatal(err)
	}
	if s.Has(a) || s.VerifyNamed(ctx, b, d) != nil {
		t.Error("removing one image took the other's bytes")
	}
	if fi, err := os.Stat(s.dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", fi.Mode(), err)
	}
	for _, name := range []string{d, "", strings.ToUpper(a), a[:35] + "/", "../" + a[3:]} {
		var ne *NameError
		if _, _, err := s.AppendNamed(ctx, name, d, 1000, 0, bytes.NewReader(data)); !errors.As(err, &ne) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}
