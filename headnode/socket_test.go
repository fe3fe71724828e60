package headnode

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Two head nodes of one machine: the first is where the CLI looks, the second
// says where it is to be found. When the first is gone, the next one is found.
func TestSharedSocket(t *testing.T) {
	dir := t.TempDir()
	shared := filepath.Join(dir, "run", "headnode.sock")
	begin := func(name string) (open []*socket, log string) {
		t.Helper()
		var b bytes.Buffer
		s := &Server{cfg: Config{Socket: filepath.Join(dir, name), Shared: shared}, log: slog.New(slog.NewTextHandler(&b, nil))}
		open, err := s.sockets(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return open, b.String()
	}
	end := func(open []*socket) {
		t.Helper()
		for _, u := range open {
			if err := errors.Join(u.Close(), u.remove()); err != nil {
				t.Error(err)
			}
		}
	}
	one, log := begin("one.sock")
	if len(one) != 2 || one[1].path != shared || log != "" {
		t.Fatalf("the first has %d sockets and logs %q; want its own and the shared one", len(one), log)
	}
	if st, err := os.Stat(shared); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("shared socket: %v %v", st.Mode(), err)
	}
	two, log := begin("two.sock")
	if len(two) != 1 || !strings.Contains(log, "nereid --server "+filepath.Join(dir, "two.sock")) || !strings.Contains(log, "another head node has it") {
		t.Fatalf("the second has %d sockets and logs %q; want its own, and where it is to be found", len(two), log)
	}
	end(one)
	if _, err := os.Lstat(shared); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first left the shared socket: %v", err)
	}
	end(two)
	three, _ := begin("three.sock")
	if len(three) != 2 {
		t.Error("nobody has the shared socket, and the third does not get it")
	}
	end(three)
}

// A socket whose process was killed is replaced; one that answers is not, though
// its process knows of no lock; nor is a file that is no socket.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "headnode.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(t.Context(), path); !errors.Is(err, errSocketTaken) || !strings.Contains(err.Error(), path) {
		t.Errorf("a socket in use: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := listenUnix(t.Context(), path)
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	if _, err := listenUnix(t.Context(), path); !errors.Is(err, errSocketTaken) {
		t.Errorf("a socket in use: %v", err)
	}
	if err := errors.Join(s.Close(), s.remove(), os.WriteFile(path, []byte("notes"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(t.Context(), path); err == nil {
		t.Error("a file that is no socket was replaced")
	}
	if b, err := os.ReadFile(path); string(b) != "notes" {
		t.Errorf("a file that is no socket: %q %v", b, err)
	}
	if _, err := listenUnix(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 108))); err == nil || !strings.Contains(err.Error(), "107 bytes") {
		t.Errorf("a long path: %v", err)
	}
}
