package platform

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func sample(t *testing.T, epoch int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	c := newCpio(&buf, epoch)
	c.dir("dev", 0o755)
	c.char("dev/console", 0o600, 5, 1)
	c.file("init", 0o755, []byte("#!/bin/sh\n"))
	c.file("lib/modules/6.12/kernel/a.ko", 0o644, []byte("abcde"))
	c.file("lib/modules/6.12/modules.dep", 0o644, nil)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestCpioIsTheSameEachTimeAndAligned(t *testing.T) {
	a, b := sample(t, 1700000000), sample(t, 1700000000)
	if !bytes.Equal(a, b) {
		t.Error("same content, different bytes")
	}
	if len(a)%4 != 0 {
		t.Errorf("length %d is not a multiple of 4: the kernel would miss the archive behind it", len(a))
	}
	if bytes.Equal(a, sample(t, 1700000001)) {
		t.Error("the epoch is not in the archive")
	}
}

// TestCpioIsReadByCpio lets cpio(1) read what we write.
func TestCpioIsReadByCpio(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-idm", "--quiet", "--nonmatching", "dev/console")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(sample(t, 1700000000))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio (Debian package cpio): %v\n%s", err, out)
	}
	for name, want := range map[string]string{"init": "#!/bin/sh\n", "lib/modules/6.12/kernel/a.ko": "abcde", "lib/modules/6.12/modules.dep": ""} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	fi, err := os.Stat(filepath.Join(dir, "init"))
	if err != nil || fi.Mode().Perm() != 0o755 || fi.ModTime().Unix() != 1700000000 {
		t.Errorf("init: %v, %v; want mode 0755 and the epoch's time", fi, err)
	}
}

func TestPadFile(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	for size, want := range map[int]int64{0: 0, 1: 4, 3: 4, 4: 4, 5: 8} {
		if err := os.WriteFile(p, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := padFile(p, 4); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(p); err != nil || fi.Size() != want {
			t.Errorf("%d bytes padded: %v, %v; want %d", size, fi.Size(), err, want)
		}
	}
}
