//go:build netns

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/agent/machine/qmp"
)

// TestNetNSGuest: a guest boots from its disk, speaks and hears on its serial port, has
// the disk and the NIC that were wanted, gets another disk while it runs, and turns
// itself off at the power button.
func TestNetNSGuest(t *testing.T) {
	dir := t.TempDir()
	guest, err := os.ReadFile("../../../fixtures/guest/boot.bin")
	if err != nil {
		t.Fatal(err)
	}
	m := small(dir)
	for _, name := range []string{m.Disks[0].Path, dir + "/more"} {
		if err := errors.Join(os.WriteFile(name, guest, 0o600), os.Truncate(name, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	args, err := m.Arguments()
	if err != nil {
		t.Fatal(err)
	}
	listens := created(t, dir, Screen) // after the monitors'
	args = append([]string{"-n", "sh", "-c", `ip tuntap add ` + m.NICs[0].Tap + ` mode tap && exec "$@"`, "sh", "qemu-system-x86_64"}, args...)
	cmd := exec.Command("unshare", append(args, "-S")...) // the guest waits for cont
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	select {
	case <-listens:
	case err := <-ended:
		t.Fatalf("QEMU ended with %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := qmp.Dial(ctx, filepath.Join(dir, Monitor))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	call := func(command string, args any) string {
		t.Helper()
		var out json.RawMessage
		if err := c.Call(ctx, command, args, &out); err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	console, err := net.Dial("unix", filepath.Join(dir, Console))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	_ = console.SetReadDeadline(time.Now().Add(time.Minute))
	lines := bufio.NewReader(console)
	call("cont", nil)
	if s, err := lines.ReadString('\n'); err != nil || !strings.HasSuffix(s, "guest: up\r\n") {
		t.Fatalf("the guest says %q, %v", s, err)
	}
	if _, err := console.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if s, err := lines.ReadString('\n'); err != nil || s != "hello\n" {
		t.Fatalf("the guest echoes %q, %v", s, err)
	}
	if s := call("query-block", nil); !strings.Contains(s, `"qdev": "/machine/peripheral/dev-disk0/virtio-backend"`) && !strings.Contains(s, `"node-name": "disk0"`) {
		t.Errorf("disks: %s", s)
	}
	if s := call("query-rx-filter", nil); !strings.Contains(s, `"main-mac": "90:b8:d0:00:00:01"`) {
		t.Errorf("NICs: %s", s)
	}
	call("blockdev-add", map[string]any{"driver": "raw", "node-name": "more", "file": map[string]any{"driver": "file", "filename": dir + "/more"}})
	call("device_add", map[string]any{"driver": "virtio-blk-pci", "id": "dev-more", "drive": "more", "bus": "slot7", "serial": "more"})
	call("system_powerdown", nil)
	if s, err := lines.ReadString('\n'); err != nil || s != "guest: power button\r\n" {
		t.Errorf("at the power button the guest says %q, %v", s, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("QEMU ended with %v", err)
	}
	var last string
	for e := range c.Events() {
		if e.Name == "SHUTDOWN" {
			last = string(e.Data)
		}
	}
	if want := `{"guest": true, "reason": "guest-shutdown"}`; last != want {
		t.Errorf("it ended for %s, want %s", last, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, ConsoleLog)); err != nil || !strings.Contains(string(b), "guest: up\r\nhello\nguest: power button\r\n") {
		t.Errorf("its log is %q, %v", b, err)
	}
}

// created is closed when a file of that name appears in dir.
func created(t *testing.T, dir, name string) <-chan struct{} {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { _ = events.Close() })
	there := make(chan struct{})
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := events.Read(b)
			if err != nil {
				return
			}
			if strings.Contains(string(b[:n]), name+"\x00") {
				close(there)
				return
			}
		}
	}()
	return there
}
