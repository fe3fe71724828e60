package enter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Descriptors that Run hands to Inside.
const (
	talkFD  = 3
	mountFD = 4
	lastFD  = mountFD + 6 // of the other namespaces
)

// Inside is what Run starts: it does what a Request says, and gives the exit status. A
// program it becomes.
func Inside() int {
	runtime.LockOSThread() // capabilities and filters are a thread's, the one that executes
	status, err := inside()
	if err != nil {
		fmt.Fprintf(os.Stderr, "nereid: %v\n", err)
	}
	return status
}

func inside() (int, error) {
	// Root in the zone could trace a process that may be dumped, and use what it has.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return statusFailed, fmt.Errorf("keep other processes out: %w", err)
	}
	for fd := talkFD; fd <= lastFD; fd++ {
		unix.CloseOnExec(fd)
	}
	r, err := hear()
	if err != nil {
		return statusFailed, err
	}
	if err := joinMounts(); err != nil {
		return statusFailed, err
	}
	if _, err := unix.Setsid(); err != nil && !errors.Is(err, unix.EPERM) {
		return statusFailed, fmt.Errorf("begin a session: %w", err)
	}
	var upper *os.File
	if r.TTY != nil {
		if upper, err = terminal(*r.TTY); err != nil {
			return statusFailed, err
		}
	}
	if err := confine(r.Bounds); err != nil {
		return statusFailed, err
	}
	if err := ready(upper); err != nil {
		return statusFailed, err
	}
	switch r.Kind {
	case Push:
		return outcome(push(r.Path, os.FileMode(r.Mode), os.Stdin))
	case Pull:
		return outcome(pull(r.Path, os.Stdout))
	}
	return become(r)
}

func outcome(err error) (int, error) {
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// hear reads what is to be done.
func hear() (r Request, err error) {
	buf := make([]byte, maxRequest)
	n, err := unix.Read(talkFD, buf)
	if err == nil {
		err = json.Unmarshal(buf[:n], &r)
	}
	if err != nil {
		return r, fmt.Errorf("read what is wanted: %w", err)
	}
	return r, nil
}

// joinMounts makes the zone's file system the one of this thread. A thread that shares
// its working directory with others may not (setns(2)).
func joinMounts() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("join the zone's mounts: %w", err)
	}
	if err := unix.Setns(mountFD, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("join the zone's mounts: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("join the zone's mounts: %w", err)
	}
	return nil
}

// terminal opens a terminal of the zone's own, so that programs find its name, and makes
// its lower end standard input and output.
func terminal(size Size) (*os.File, error) {
	fd, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns}); err != nil {
		return nil, fmt.Errorf("set size of a terminal: %w", err)
	}
	// The lower end is had by the upper one, whatever the zone has at its name (ioctl_tty(2)).
	peer, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, fmt.Errorf("open lower end of a terminal: %w", errno)
	}
	lower := int(peer)
	if err := unix.IoctlSetInt(lower, unix.TIOCSCTTY, 0); err != nil {
		return nil, fmt.Errorf("take a terminal: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(lower, fd, 0); err != nil {
			return nil, fmt.Errorf("use a terminal: %w", err)
		}
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}

// confine gives up what the zone's own processes have not.
func confine(bounds uint64) error {
	for c := 0; c <= 63; c++ {
		if bounds&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	if err := deny(); err != nil {
		return fmt.Errorf("give up system calls: %w", err)
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(bounds), uint32(bounds>>32)
	data := [2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}
	if err := unix.Capset(&h, &data[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	return nil
}

// ready says so, with the upper end of the terminal.
func ready(upper *os.File) error {
	var rights []byte
	if upper != nil {
		rights = unix.UnixRights(int(upper.Fd()))
	}
	if err := unix.Sendmsg(talkFD, []byte("ready"), rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("say that the program can start: %w", err)
	}
	return nil
}

// become executes the program.
func become(r Request) (int, error) {
	a, err := account(r.User)
	if err != nil {
		return statusFailed, err
	}
	env := a.environment(r.Env)
	argv := r.Command
	if len(argv) == 0 {
		argv = []string{"-" + filepath.Base(a.shell)}
	}
	if err := a.take(); err != nil {
		return statusFailed, err
	}
	dir := r.Dir
	if dir == "" {
		dir = a.home
	}
	if err := unix.Chdir(dir); err != nil {
		if r.Dir != "" {
			return statusFailed, fmt.Errorf("go to %s: %w", dir, err)
		}
		_ = unix.Chdir("/") // as a login without a home does
	}
	unix.Umask(0o022) // the agent's is stricter, and a login's own business
	path := a.shell
	if len(r.Command) > 0 {
		if path, err = find(r.Command[0], env); err != nil {
			return statusNotFound, err
		}
	}
	err = syscall.Exec(path, argv, env)
	if errors.Is(err, unix.ENOENT) {
		return statusNotFound, fmt.Errorf("%s: no such program, or its interpreter is missing", path)
	}
	return statusFailed, fmt.Errorf("execute %s: %w", path, err)
}

// find looks a program up in the PATH of an environment.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(value(env, "PATH")) {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w in PATH=%s", name, exec.ErrNotFound, value(env, "PATH"))
}

// push writes a file, which appears when it is whole.
func push(path string, mode os.FileMode, from io.Reader) error {
	if mode == 0 {
		mode = 0o644
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("push: %s is there and is no file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	done := false
	defer func() {
		if !done {
			_ = f.Close() // it goes
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, from); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	done = true
	return nil
}

// pull copies a file out.
func pull(path string, to io.Writer) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("pull: %s is no file", path), err)
	}
	if _, err := io.Copy(to, f); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	return nil
}
