package stub

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOverlayOptions(t *testing.T) {
	got, err := overlayOptions([]string{"/s/0", "/s/1", "/s/2"}, "/s/rw/upper", "/s/rw/work")
	if want := "lowerdir=/s/2:/s/1:/s/0,upperdir=/s/rw/upper,workdir=/s/rw/work"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, bad := range [][]string{{"/a:b"}, {"/a,b"}, {`/a\b`}, {"/" + strings.Repeat("x", 4096)}} {
		if _, err := overlayOptions(bad, "/u", "/w"); err == nil {
			t.Errorf("%.20q accepted", bad)
		}
	}
}

func TestOpenConsoles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("active", "tty0 ttyS1\n")
	write("tty0", "")
	write("ttyS0", "")
	write("ttyS1", "")
	write("ttyS2", "")
	c, closeAll := openConsoles(filepath.Join(dir, "active"), dir)
	c.Say("hello")
	closeAll()
	for name, want := range map[string]string{"tty0": "nereid: hello\n", "ttyS0": "nereid: hello\n", "ttyS1": "nereid: hello\n", "ttyS2": ""} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
}

// The stub deletes the old root only as PID 1 and only when that is memory.
func TestEmptyInitramfsRefuses(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := emptyInitramfs(d); err == nil {
		t.Error("it did not refuse")
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
	if err := Boot(t.Context()); err == nil || !strings.Contains(err.Error(), "does nothing when started as a program") {
		t.Errorf("Boot as a program: %v", err)
	}
	// What it deletes when it may.
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(filepath.Join(dir, "a/b/c"), nil, 0o600), os.Symlink("/etc", filepath.Join(dir, "a/link"))); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := empty(int(d.Fd()), deviceOf(st)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v %v", left, err)
	}
	if _, err := os.Stat("/etc"); err != nil {
		t.Error(err)
	}
}

func deviceOf(fi os.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Dev }
