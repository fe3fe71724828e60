package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// RunTPM becomes the TPM of the machine whose folder is dir. It begins as root, with what
// it takes to make a folder for its socket, and lets go of all privileges. It returns only
// when it cannot.
func RunTPM(ctx context.Context, dir, program string) error {
	s, err := Read(dir)
	if err == nil {
		err = s.runTPM(ctx, dir, program)
	}
	return fmt.Errorf("start the TPM of a machine: %w", err)
}

func (s Start) runTPM(ctx context.Context, dir, program string) error {
	switch {
	case s.UID == 0:
		return errors.New("a TPM never runs as root")
	case s.TPM == nil:
		return errors.New("the machine has none")
	}
	groups, err := Start{Machine: Machine{Disks: []Disk{*s.TPM}}}.disks(ctx)
	if err != nil {
		return err
	}
	socket := tpmSocket(s.Dir)
	// It is made anew: one of another run is another user's.
	if err := os.RemoveAll(filepath.Dir(socket)); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Dir(socket), 0o710); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Dir(socket), 0o710); err != nil { // whatever the unit's umask is
		return err
	}
	if err := os.Chown(filepath.Dir(socket), int(s.TPMUser()), int(s.UID)); err != nil {
		return err
	}
	args := []string{program, "socket", "--tpm2", "--tpmstate", "backend-uri=file://" + s.TPM.Path, "--ctrl", "type=unixio,path=" + socket + ",mode=0660", "--terminate"}
	// What is dropped is this thread's, which is the one that becomes swtpm.
	runtime.LockOSThread()
	if err := drop(int(s.TPMUser()), int(s.UID), groups); err != nil {
		return err
	}
	if err := unix.Exec(program, args, []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/", "TMPDIR=/tmp"}); err != nil {
		return fmt.Errorf("execute %s: %w", program, err)
	}
	return nil
}

// socketLimit bounds the wait for a program that was started to listen.
const socketLimit = 20 * time.Second

// await waits until a socket is there.
func await(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, socketLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := os.Lstat(path)
		if err == nil && st.Mode()&fs.ModeSocket != 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}
