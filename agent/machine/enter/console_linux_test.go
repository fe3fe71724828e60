package enter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type parts chan string

func (l parts) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }

// TestConsole reads a log, and goes on through a change of logs.
func TestConsole(t *testing.T) {
	log := filepath.Join(t.TempDir(), "zone.log")
	var all strings.Builder
	if err := Console(t.Context(), log, false, &all, nil); err != nil || all.Len() > 0 {
		t.Errorf("of no log: %q, %v", all.String(), err)
	}
	add := func(path, text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	add(log+".1", "old\n")
	add(log, "new\n")
	if err := Console(t.Context(), log, false, &all, nil); err != nil || all.String() != "old\nnew\n" {
		t.Errorf("of two logs: %q, %v", all.String(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(parts)
	ended := make(chan error)
	go func() { ended <- Console(ctx, log, true, got, got) }()
	want := ""
	wait := func(text string) {
		t.Helper()
		want += text
		for all.Reset(); len(want) > 0; {
			part := <-got
			if !strings.HasPrefix(want, part) {
				t.Fatalf("read %q: want %q", part, want)
			}
			want = want[len(part):]
		}
	}
	wait("old\nnew\n")
	add(log, "more\n")
	wait("more\n")
	add(log, "last\n")
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	add(log, "begun anew\n")
	wait("last\nbegun anew\n")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
