package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"nereid/agent/machine/qmp"
)

// diskLimit bounds the wait for the device manager to name a volume.
const diskLimit = 30 * time.Second

// Run becomes the QEMU of the machine whose folder is dir: it opens what only root may
// open (taps, the log), waits for its disks, and lets go of all privileges. It returns
// only when it cannot. before is called last, with what it prepared still root's.
func Run(ctx context.Context, dir, program string, before func(Start) error) error {
	s, err := Read(dir)
	if err == nil {
		err = s.run(ctx, dir, program, before)
	}
	return fmt.Errorf("start machine: %w", err)
}

func (s Start) run(ctx context.Context, dir, program string, before func(Start) error) error {
	if s.UID == 0 {
		return errors.New("QEMU never runs as root")
	}
	if err := s.clear(); err != nil {
		return err
	}
	groups, err := s.disks(ctx)
	if err != nil {
		return err
	}
	more, err := s.firmware(ctx, OVMFVars)
	if err != nil {
		return err
	}
	for _, g := range more {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	if s.KVM {
		gid, _, err := groupOf("/dev/kvm")
		if err != nil {
			return err
		}
		groups = append(groups, gid)
	}
	if s.Log != "" {
		fd, err := unix.Open(s.Log, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("open log %s: %w", s.Log, err)
		}
		s.LogFD = fd
	}
	for i := range s.NICs {
		n := &s.NICs[i]
		err := n.open()
		if err == nil {
			err = inherit(n.FD)
		}
		if err == nil && n.Vhost {
			err = inherit(n.VhostFD)
		}
		if err != nil {
			return fmt.Errorf("NIC %s: %w", n.MAC, err)
		}
	}
	if s.TPM != nil {
		if err := await(ctx, tpmSocket(s.Dir)); err != nil {
			return fmt.Errorf("wait for the TPM: %w", err)
		}
	}
	args, err := s.Arguments()
	if err != nil {
		return err
	}
	if err := before(s); err != nil {
		return err
	}
	// What is dropped is this thread's, which is the one that becomes QEMU.
	runtime.LockOSThread()
	if err := drop(int(s.UID), int(s.UID), groups); err != nil {
		return err
	}
	env := []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + s.Dir, "TMPDIR=" + s.Dir}
	if err := unix.Exec(program, append([]string{program}, args...), env); err != nil {
		return fmt.Errorf("execute %s: %w", program, err)
	}
	return nil
}

// inherit leaves a file open for the program that this process becomes.
func inherit(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("keep a file open: %w", err)
	}
	return nil
}

// clear makes the folder of the sockets, with none of an earlier run in it.
func (s Start) clear() error {
	for _, name := range []string{Monitor, SideMonitor, Console, Metadata, GuestAgent, Screen} {
		if err := os.Remove(filepath.Join(s.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	return os.Chown(s.Dir, int(s.UID), int(s.UID))
}

// disks waits for the machine's disks, and gives the groups that may open those that are
// devices. The unit has no other devices of them.
func (s Start) disks(ctx context.Context) (groups []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, diskLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range s.Disks {
		d := &s.Disks[i]
		for {
			gid, block, err := groupOf(d.Path)
			if err == nil {
				if d.Block = block; block && !slices.Contains(groups, gid) {
					groups = append(groups, gid)
				}
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, fmt.Errorf("disk %s: there is no %s after %v; is its volume there, and systemd-udevd (systemctl status systemd-udevd)?", d.Name, d.Path, diskLimit)
			}
		}
	}
	return groups, nil
}

// Wait waits for the disks of the machine whose folder is dir: they are named some time
// after they are made. A unit that starts before is not allowed to open them.
func Wait(ctx context.Context, dir string) error {
	s, err := Read(dir)
	if err == nil {
		_, err = s.disks(ctx)
	}
	if err == nil {
		_, err = Start{Machine: Machine{Disks: s.beside()}}.disks(ctx)
	}
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	return nil
}

// groupOf is the group of a file, and whether that is a block device.
func groupOf(path string) (gid int, block bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, false, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return int(st.Gid), st.Mode&unix.S_IFMT == unix.S_IFBLK, nil
}

// drop gives this thread a user and its groups, and no privileges for good.
func drop(uid, gid int, groups []int) error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	// Of this thread alone, as the kernel has it: Go's own calls are of all threads.
	list := make([]uint32, len(groups)+1)
	for i, g := range groups {
		list[i] = uint32(g)
	}
	list[len(groups)] = uint32(gid)
	if err := setgroups(list); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
		return fmt.Errorf("set group: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return fmt.Errorf("set user: %w", errno)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep privileges dropped: %w", err)
	}
	unix.Umask(0o077)
	return nil
}

// Button presses a machine's power button, again and again, until its QEMU has ended or
// ctx has.
func Button(ctx context.Context, dir string) error {
	c, err := qmp.Dial(ctx, filepath.Join(RunDir(dir), SideMonitor))
	if err != nil {
		return fmt.Errorf("press power button: %w", err)
	}
	defer c.Close()
	tick := time.NewTicker(ButtonPause)
	defer tick.Stop()
	for {
		if err := c.Call(ctx, "system_powerdown", nil, nil); err != nil && !errors.Is(err, qmp.ErrClosed) {
			return fmt.Errorf("press power button: %w", err)
		}
		select {
		case <-c.Done():
			return nil
		case <-ctx.Done():
			return fmt.Errorf("press power button: the guest did not turn itself off: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Answers waits until a machine's QEMU answers at its monitor. Before that it has no
// sockets.
func Answers(ctx context.Context, dir string) error {
	path := filepath.Join(RunDir(dir), SideMonitor)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := qmp.Dial(ctx, path)
		if err == nil {
			_ = c.Close()
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for QEMU: %w", errors.Join(ctx.Err(), err))
		}
	}
}
