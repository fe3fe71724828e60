package platform

import (
	"os/exec"
	"syscall"
)

// tie makes cmd and all it starts end with this process: its own process group,
// which cancelling kills, and SIGKILL from the kernel should this process die.
// The caller keeps its OS thread until cmd has ended (PR_SET_PDEATHSIG, prctl(2),
// goes by thread).
func tie(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// flock takes an exclusive lock on fd without waiting; false when another has it.
func flock(fd uintptr) (bool, error) {
	err := syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		return false, nil
	}
	return err == nil, err
}
