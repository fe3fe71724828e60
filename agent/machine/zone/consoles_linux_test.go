package zone

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConsoles: what zones print is kept, of a zone that comes later too and after the
// keeper began anew; its end is there when it is more than is kept; a zone that goes is
// forgotten, and none waits for a disk that takes nothing.
func TestConsoles(t *testing.T) {
	dir, logs := t.TempDir(), t.TempDir()
	if err := os.Symlink(logs, filepath.Join(dir, Logs)); err != nil {
		t.Fatal(err)
	}
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- KeepConsoles(ctx, dir) }()
		return func() {
			t.Helper()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	open := func(name string) *os.File {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := makePipe(path); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	has := func(name, text string) {
		t.Helper()
		for {
			b, _ := os.ReadFile(filepath.Join(logs, Log(name))) // it may not be there yet
			if bytes.HasSuffix(b, []byte(text)) {
				return
			}
			select {
			case <-t.Context().Done():
				t.Fatalf("%s has %d bytes", name, len(b))
			case <-time.After(time.Millisecond):
			}
		}
	}
	say := func(f *os.File, text string) {
		t.Helper()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	a := open("a")
	say(a, "before\n")
	stop := start()
	has("a", "before\n")
	b := open("b")
	say(b, "came later\n")
	has("b", "came later\n")
	stop()
	say(a, "while nobody read\n")
	stop = start()
	has("a", "before\nwhile nobody read\n")
	if err := os.Remove(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(logs, Log("a"))
	for range 2 {
		if err := appendLog(path, bytes.Repeat([]byte("x"), consoleLog)); err != nil {
			t.Fatal(err)
		}
	}
	say(a, "the end\n")
	has("a", "the end\n")
	if info, err := os.Stat(path + ".1"); err != nil || info.Size() < consoleLog {
		t.Errorf("the log before it: %v, %v", info, err)
	}
	if err := os.Chmod(logs, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, Logs)); err != nil {
		t.Fatal(err)
	}
	for range 40 { // more than a pipe holds
		if err := a.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		say(a, string(make([]byte, 4096)))
	}
	stop()
}
