package lab

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Inside runs f in the network namespace at path. Its thread is given back: the
// processes that were started from it are killed when it ends (PR_SET_PDEATHSIG).
func Inside(path string, f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer unix.Close(home)
	there, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(there, unix.CLONE_NEWNET)
		_ = unix.Close(there)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", path, err)
	}
	err = f()
	if herr := unix.Setns(home, unix.CLONE_NEWNET); herr != nil {
		return errors.Join(err, herr) // the thread is of no more use
	}
	runtime.UnlockOSThread()
	return err
}
