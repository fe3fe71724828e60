//go:build netns

package images

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk that is really full, found out in the middle of an upload: another
// program takes the space that was free when it began.
func TestNetNSStoreDiskFull(t *testing.T) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		t.Fatalf("the netns tier needs root and mount namespaces: %v", err)
	}
	dir := t.TempDir()
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("small", dir, "tmpfs", 0, "size=4m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	data := pattern(6 << 20)
	d := digestOf(data)
	var full *NoSpaceError
	if _, _, err := s.Append(t.Context(), d, int64(len(data)), 0, bytes.NewReader(data)); !errors.As(err, &full) || full.Free == 0 {
		t.Errorf("too large from the start: %v", err)
	}
	wantEmpty(t, s)
	s.free = func(string) (int64, error) { return 1 << 30, nil }
	if _, _, err := s.Append(t.Context(), d, int64(len(data)), 0, bytes.NewReader(data)); !errors.As(err, &full) || full.Free != 0 {
		t.Errorf("full on the way: %v", err)
	}
	wantEmpty(t, s)
	small := data[:1<<20]
	if _, done, err := s.Append(t.Context(), digestOf(small), int64(len(small)), 0, bytes.NewReader(small)); err != nil || !done {
		t.Errorf("what fits: %v %v", done, err)
	}
}
