package enter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Times of Run.
const (
	startLimit = 20 * time.Second // until Inside is ready
	hangup     = 5 * time.Second  // from SIGHUP to SIGKILL, when nobody listens any more
	tail       = 2 * time.Second  // for what children of a program that has ended still write
)

// namespaces are those that nsenter joins; Inside joins the mount namespace.
var namespaces = []string{"user", "cgroup", "ipc", "uts", "net", "pid"}

// Run does what a Request says in the zone whose first process is leader, by a program
// that calls Inside. It waits until that has ended; when ctx ends, it is hung up, and
// killed. The status is that of the program, or 128 and the number of the signal that
// ended it. Run closes stdin.
func Run(ctx context.Context, program string, leader int, r Request, stdin io.ReadCloser, stdout, stderr io.Writer, resize <-chan Size) (status int, err error) {
	defer stdin.Close()
	z, err := open(leader)
	if err != nil {
		return statusFailed, fmt.Errorf("enter zone: %w", err)
	}
	defer z.close()
	r.Bounds = z.bounds
	s, err := start(program, z, r, stdout, stderr)
	if err != nil {
		return statusFailed, fmt.Errorf("enter zone: %w", err)
	}
	return s.see(ctx, stdin, stdout, resize)
}

// zone is what is needed to enter one.
type zone struct {
	mount  *os.File
	others []*os.File // in the order of namespaces
	cgroup *os.File
	bounds uint64
}

func (z *zone) close() {
	for _, f := range append(z.others, z.mount, z.cgroup) {
		if f != nil {
			_ = f.Close() // nothing was written
		}
	}
}

// open opens what is a process's, and makes sure that it was the same one all the time.
func open(leader int) (_ *zone, err error) {
	pidfd, err := unix.PidfdOpen(leader, 0)
	if err != nil {
		return nil, fmt.Errorf("its first process %d: %w", leader, err)
	}
	defer unix.Close(pidfd)
	z := &zone{}
	defer func() {
		if err != nil {
			z.close()
		}
	}()
	proc := filepath.Join("/proc", strconv.Itoa(leader))
	if z.mount, err = os.Open(filepath.Join(proc, "ns", "mnt")); err != nil {
		return nil, err
	}
	for _, ns := range namespaces {
		f, err := os.Open(filepath.Join(proc, "ns", ns))
		if err != nil {
			return nil, err
		}
		z.others = append(z.others, f)
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return nil, err
	}
	if z.bounds, err = boundsOf(status); err != nil {
		return nil, err
	}
	if z.cgroup, err = openGroup(proc); err != nil {
		return nil, err
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return nil, fmt.Errorf("its first process %d: %w", leader, err)
	}
	return z, nil
}

// openGroup opens the control group of a process, in the one hierarchy of version 2
// (Documentation/admin-guide/cgroup-v2.rst).
func openGroup(proc string) (*os.File, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	groups, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(groups)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for mount := range strings.Lines(string(mounts)) {
			if f := strings.Fields(mount); ok && len(f) > 2 && f[2] == "cgroup2" {
				return os.Open(filepath.Join(f[1], group))
			}
		}
	}
	return nil, errors.New("the server has no control groups of version 2")
}

// boundsOf reads the bounding set in /proc/PID/status.
func boundsOf(status []byte) (uint64, error) {
	for line := range bytes.Lines(status) {
		if digits, ok := bytes.CutPrefix(line, []byte("CapBnd:")); ok {
			return strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 64)
		}
	}
	return 0, errors.New("its first process has no CapBnd in /proc")
}

// running is a program in a zone.
type running struct {
	cmd  *exec.Cmd
	in   io.WriteCloser // its standard input; nil: a terminal's
	tty  *os.File       // of a program with a terminal; else nil
	proc int            // a pidfd
	pid  int
}

// start starts Inside and waits until it is ready: it has all it needs from here.
func start(program string, z *zone, r Request, stdout, stderr io.Writer) (_ *running, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		theirs.Close()
		return nil, err
	}
	args := []string{}
	for i, ns := range namespaces {
		args = append(args, fmt.Sprintf("--%s=/proc/self/fd/%d", ns, 5+i))
	}
	// The agent is spared when memory is short, and a zone's program is not, nor may it say
	// so itself: choom sets the lowest score that it can give itself along with its score,
	// which is done with the server's own capabilities alone (proc_pid_oom_score_adj(5)).
	args = append([]string{"-n", "0", "--", "nsenter"}, args...)
	cmd := exec.Command("choom", append(args, "--", program, "inside")...)
	cmd.ExtraFiles = append([]*os.File{theirs, z.mount}, z.others...) // 3, 4, 5 ...
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(z.cgroup.Fd()), Setsid: true}
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", tail
	s := &running{cmd: cmd, proc: -1}
	var why firstLine // of an Inside that does not get ready
	if r.TTY == nil {
		cmd.Stdout, cmd.Stderr = stdout, io.MultiWriter(stderr, &why)
		if s.in, err = cmd.StdinPipe(); err != nil {
			theirs.Close()
			return nil, err
		}
	} else {
		cmd.Stderr = &why
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, err
	}
	if err := s.ready(ours, r); err != nil {
		_ = cmd.Process.Kill() // it has ended, or it does now
		_ = cmd.Wait()
		s.close()
		if text := why.String(); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return nil, err
	}
	return s, nil
}

// ready hands the request over and waits for Inside: its process, and its terminal.
func (s *running) ready(ours *os.File, r Request) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(text) > maxRequest {
		return fmt.Errorf("the request has %d bytes: at most %d are passed", len(text), maxRequest)
	}
	fd := int(ours.Fd())
	limit := unix.NsecToTimeval(startLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	if err := unix.Send(fd, text, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("hand over the request: %w", err)
	}
	word, control := make([]byte, 64), make([]byte, 256)
	var n, cn int
	for {
		n, cn, _, _, err = unix.Recvmsg(fd, word, control, unix.MSG_CMSG_CLOEXEC)
		// With a time limit the kernel does not go on by itself after a signal (signal(7)),
		// and Go's runtime sends its threads signals.
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("wait until the program can start: %w", err)
	}
	parts, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil {
		return fmt.Errorf("wait until the program can start: %w", err)
	}
	for _, m := range parts {
		if c, err := unix.ParseUnixCredentials(&m); err == nil {
			s.pid = int(c.Pid)
		}
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, d := range fds {
				s.keepTerminal(d)
			}
		}
	}
	if n == 0 || s.pid <= 1 {
		return errors.New("the program did not start")
	}
	s.proc, err = unix.PidfdOpen(s.pid, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) { // one that has ended already needs no watching
		return fmt.Errorf("watch the program: %w", err)
	}
	if r.TTY != nil && s.tty == nil {
		return errors.New("the zone gave no terminal")
	}
	return nil
}

// keepTerminal takes a descriptor that came from a zone, if it is the upper end of a
// terminal and nothing else.
func (s *running) keepTerminal(fd int) {
	var st unix.Stat_t
	if s.tty != nil || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.SetNonblock(fd, true) != nil {
		unix.Close(fd)
		return
	}
	if _, err := unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil || unix.Major(st.Rdev) != 5 {
		unix.Close(fd)
		return
	}
	s.tty = os.NewFile(uintptr(fd), "terminal")
}

func (s *running) close() {
	if s.tty != nil {
		_ = s.tty.Close() // nothing is kept in it
	}
	if s.proc >= 0 {
		unix.Close(s.proc)
	}
}

// see passes input and output on until the program has ended.
func (s *running) see(ctx context.Context, stdin io.ReadCloser, stdout io.Writer, resize <-chan Size) (int, error) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.hangUp(ctx, ended) })
	var printing sync.WaitGroup
	if s.tty == nil {
		wg.Go(func() {
			_, _ = io.Copy(s.in, stdin) // a program that does not read its input is no error
			_ = s.in.Close()
		})
	} else {
		wg.Go(func() { _, _ = io.Copy(s.tty, stdin) })
		wg.Go(func() { s.resize(ended, resize) })
		printing.Go(func() { _, _ = io.Copy(stdout, s.tty) }) // EIO when the last program has closed it
	}
	err := s.cmd.Wait()
	close(ended)
	_ = stdin.Close()
	if s.tty != nil {
		_ = s.tty.SetReadDeadline(time.Now().Add(tail))
	}
	printing.Wait()
	s.closeAfter(&wg)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return statusFailed, ctx.Err()
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case !errors.As(err, &exit):
		return statusFailed, fmt.Errorf("enter zone: %w", err)
	}
	if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// closeAfter lets go of everything once nobody uses it.
func (s *running) closeAfter(wg *sync.WaitGroup) {
	if s.tty != nil {
		_ = s.tty.SetWriteDeadline(time.Now())
	}
	wg.Wait()
	s.close()
}

// hangUp ends the program, and what it left in its session, when ctx ends.
func (s *running) hangUp(ctx context.Context, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	s.signal(unix.SIGHUP)
	s.signal(unix.SIGCONT)
	t := time.NewTimer(hangup)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
		s.signal(unix.SIGKILL)
		_ = s.cmd.Process.Kill() // nsenter, should it wait for something else
	}
}

// signal sends a signal to the program's process group, as long as the program is there.
func (s *running) signal(sig unix.Signal) {
	if unix.PidfdSendSignal(s.proc, 0, nil, 0) == nil {
		_ = unix.Kill(-s.pid, sig) // it may have none, or have ended just now
		_ = unix.PidfdSendSignal(s.proc, sig, nil, 0)
	}
}

// resize tells the terminal its sizes.
func (s *running) resize(ended <-chan struct{}, resize <-chan Size) {
	for {
		select {
		case <-ended:
			return
		case size := <-resize:
			setSize(s.tty, size)
		}
	}
}

// setSize sets the size of a terminal; one that has ended has none.
func setSize(tty *os.File, size Size) {
	if raw, err := tty.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
		})
	}
}

// firstLine keeps the first line of what is written.
type firstLine struct {
	mu sync.Mutex
	b  []byte
}

func (t *firstLine) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[:min(len(p), 512-len(t.b))]...)
	return len(p), nil
}

func (t *firstLine) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	line, _, _ := bytes.Cut(t.b, []byte("\n"))
	return string(line)
}
