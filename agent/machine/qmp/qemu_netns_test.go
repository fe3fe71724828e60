//go:build netns

package qmp

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestNetNSQEMU: a real QEMU is asked, is given a file, tells its events, serves a second
// client when the first one has gone, and ends when it is told to.
func TestNetNSQEMU(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "qmp.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := ln.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,accel=tcg", "-m", "16", "-S",
		"-chardev", "socket,id=mon,fd=3,server=on,wait=off", "-mon", "chardev=mon,mode=control")
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{socket}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = socket.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	var status struct {
		Status  string `json:"status"`
		Running bool   `json:"running"`
	}
	if err := c.Call(ctx, "query-status", nil, &status); err != nil || status.Status != "prelaunch" || status.Running {
		t.Errorf("status %+v, %v", status, err)
	}
	var refused *Error
	if err := c.Call(ctx, "device_del", map[string]string{"id": "nothing"}, nil); !errors.As(err, &refused) || refused.Class != "DeviceNotFound" {
		t.Errorf("what is not there: %v", err)
	}
	disk, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	var set struct {
		ID int `json:"fdset-id"`
		FD int `json:"fd"`
	}
	if err := c.CallFiles(ctx, "add-fd", map[string]any{"fdset-id": 7}, &set, int(disk.Fd())); err != nil || set.ID != 7 || set.FD == 0 {
		t.Errorf("a file: %+v, %v", set, err)
	}
	// A second client waits.
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if _, err := Dial(short, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second client: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if c, err = Dial(ctx, path); err != nil {
		t.Fatal(err)
	}
	if err := c.Call(ctx, "cont", nil, nil); err != nil {
		t.Error(err)
	}
	for e := range c.Events() {
		if e.Name == "RESUME" {
			break
		}
	}
	if err := c.Call(ctx, "quit", nil, nil); err != nil && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	var last string
	for e := range c.Events() {
		last = e.Name + " " + string(e.Data)
	}
	if want := `SHUTDOWN {"guest": false, "reason": "host-qmp-quit"}`; last != want {
		t.Errorf("the last event is %s, want %s", last, want)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("QEMU ended with %v", err)
	}
	_ = c.Close()
}
