package zone

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"nereid/agent/machine/mdata"
)

// A virtual machine has the same files in the run directory as a zone, and is answered for
// its metadata by the same program.

// EnterMachine notes that this process becomes the QEMU of a virtual machine, whose
// metadata is asked for at a socket that it makes.
func EnterMachine(dir, uuid, socket string) error {
	err := leaveProcess(Metadata, uuid, socket)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, enteredFile), nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note that the machine starts: %w", err)
	}
	return nil
}

// FailMachine keeps why a machine did not start for the agent to tell of.
func FailMachine(dir string, err error) error { return leaveReason(dir, err) }

// RanMachine notes that a virtual machine runs.
func RanMachine(dir string) error {
	err := os.WriteFile(filepath.Join(dir, startedFile), nil, 0o600)
	if err == nil {
		err = os.Remove(filepath.Join(dir, errorFile))
	}
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("note that the machine runs: %w", err)
	}
	return nil
}

// socketPause is between two looks for a machine's socket, which its QEMU makes.
const socketPause = 50 * time.Millisecond

// machine answers a virtual machine at its second serial port until its QEMU has ended.
// What the guest does not read it loses.
func (h *hall) machine(ctx context.Context, entry string, p process, src mdata.Source) {
	pause := time.NewTicker(socketPause)
	defer pause.Stop()
	for {
		_, pidfd, err := processOf(entry)
		if err != nil {
			return // it has ended
		}
		unix.Close(pidfd)
		if c, err := (&net.Dialer{}).DialContext(ctx, "unix", p.Socket); err == nil {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			_ = mdata.Serve(ctx, mdata.Line{Conn: c, Serial: true, Large: h.large}, src) // QEMU has ended, or does soon
			stop()
			c.Close()
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}
