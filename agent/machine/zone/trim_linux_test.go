package zone

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTrim: what a machine prints without end takes at most two logs of the disk, and the
// last of it is there, whether its keeper was there from the start or came later.
func TestTrim(t *testing.T) {
	dir, logs := t.TempDir(), t.TempDir()
	path := filepath.Join(logs, Log("a"))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) // as QEMU does
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := func(n int) []byte {
		return append(bytes.Repeat([]byte{'.'}, 1000), fmt.Sprintf(" %06d\n", n)...)
	}
	print := func(from, to int) {
		for n := from; n < to; n++ {
			if _, err := f.Write(line(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	print(0, 3000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- KeepConsoles(ctx, dir) }()
	// The pool comes after the keeper.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(logs, filepath.Join(dir, Logs)); err != nil {
		t.Fatal(err)
	}
	for _, last := range []int{3000, 6000} {
		for {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() < consoleLog {
				break
			}
			select {
			case <-t.Context().Done():
				t.Fatalf("the log has %d bytes", info.Size())
			case <-time.After(time.Millisecond):
			}
		}
		old, err := os.ReadFile(path + ".1")
		now, nerr := os.ReadFile(path)
		if err != nil || nerr != nil || len(old) > consoleLog || !bytes.HasSuffix(append(old, now...), line(last-1)) {
			t.Errorf("of %d lines there are %d and %d bytes (%v, %v)", last, len(old), len(now), err, nerr)
		}
		if last == 3000 {
			print(3000, 6000)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
