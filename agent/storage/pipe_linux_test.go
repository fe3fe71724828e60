package storage

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWiden: the pipe that a stream goes through has the room that it is to have.
func TestWiden(t *testing.T) {
	pipe, err := exec.CommandContext(t.Context(), "true").StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	widen(pipe)
	f, ok := pipe.(interface{ Fd() uintptr })
	if !ok {
		t.Fatalf("a program's input is a %T, and no file", pipe)
	}
	if size, err := unix.FcntlInt(f.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || size < pipeBytes {
		t.Errorf("the pipe has room for %d bytes, %v: want %d", size, err, pipeBytes)
	}
}
