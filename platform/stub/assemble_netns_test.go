//go:build netns

package stub

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// squash packs files (path -> content) as a layer.
func squash(t *testing.T, dir, name string, files map[string]string) string {
	t.Helper()
	tree := filepath.Join(dir, name+".d")
	for p, content := range files {
		p = filepath.Join(tree, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, name)
	if b, err := exec.Command("mksquashfs", tree, out, "-noappend", "-quiet", "-no-progress", "-comp", "zstd").CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v\n%s", err, b)
	}
	return out
}

// inMountns gives the test a mount namespace of its own.
func inMountns(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		t.Fatalf("the netns tier needs root and mount namespaces: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

func mounts(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/mountinfo", os.Getpid(), unix.Gettid()))
	if err != nil {
		t.Fatal(err)
	}
	var in []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir) {
			in = append(in, strings.TrimPrefix(f[4], dir))
		}
	}
	return strings.Join(in, " ")
}

// Real loop devices, squashfs and overlay: later layers are on top, the top is
// writable and bounded, and nothing but the root stays in sight.
func TestNetNSStack(t *testing.T) {
	inMountns(t)
	dir := t.TempDir()
	layers := []string{
		squash(t, dir, "base", map[string]string{"etc/a": "base", "etc/b": "base", "sbin/init": "init"}),
		squash(t, dir, "kernel", map[string]string{"etc/b": "kernel", "lib/modules/x": "kernel"}),
		squash(t, dir, "nereid", map[string]string{"etc/c": "nereid", "lib/modules/x": "nereid"}),
	}
	at := filepath.Join(dir, "stack")
	root, err := stack(t.Context(), at, layers, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	for _, l := range layers { // the loop devices hold what they need
		if err := os.Remove(l); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[string]string{"etc/a": "base", "etc/b": "kernel", "etc/c": "nereid", "lib/modules/x": "nereid"} {
		if b, err := os.ReadFile(filepath.Join(root, p)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v; want %q", p, b, err, want)
		}
	}
	if got := mounts(t, at); got != "/root" {
		t.Errorf("mounts in sight: %q", got)
	}
	if err := leaveIdentity(root, "x", "", "cn-1"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/a"), []byte("mine"), 0o644); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(root, "big"), make([]byte, 2<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("2 MiB on a top of 1 MiB: %v", err)
	}
}

// A layer that is no squashfs is told, leaves nothing mounted, and a second try works.
func TestNetNSStackBadLayer(t *testing.T) {
	inMountns(t)
	dir := t.TempDir()
	good := squash(t, dir, "base", map[string]string{"etc/a": "base"})
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "stack")
	if _, err := stack(t.Context(), at, []string{good, bad}, 1<<20); err == nil || !strings.Contains(err.Error(), "layer 1: mount squashfs") {
		t.Errorf("bad layer: %v", err)
	}
	if got := mounts(t, at); got != "" {
		t.Errorf("left mounted: %q", got)
	}
	root, err := stack(t.Context(), at, []string{good}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(root, 0); err != nil {
		t.Error(err)
	}
}
