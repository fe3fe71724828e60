//go:build netns

package enter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain is also what the tests start: a zone's first process, and Inside.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "inside":
			os.Exit(Inside())
		case "leader":
			leader()
		case "denied":
			os.Exit(tryDenied())
		}
	}
	goleak.VerifyTestMain(m)
}

// leader stands for a zone's first process: it mounts what every zone has, and waits.
func leader() {
	for _, m := range []struct{ kind, at, data string }{{"proc", "/proc", ""}, {"devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620"}, {"tmpfs", "/mnt", "mode=0755"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			fmt.Println(m, err)
			os.Exit(1)
		}
	}
	for c := range 64 { // as systemd-nspawn does
		if c == unix.CAP_MKNOD || c == unix.CAP_SYS_TIME {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0) // Run finds what is left
		}
	}
	signal.Ignore(unix.SIGCHLD) // what has lost its parent is buried, as an init does
	_ = unix.Sethostname([]byte("zone"))
	fmt.Println("up")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// tryDenied counts system calls that are not refused.
func tryDenied() int {
	for _, n := range []uintptr{unix.SYS_KEYCTL, unix.SYS_BPF, unix.SYS_IO_URING_SETUP, unix.SYS_USERFAULTFD, unix.SYS_ADD_KEY} {
		if _, _, errno := unix.RawSyscall(n, 0, 0, 0); errno != unix.EPERM {
			fmt.Println("system call", n, errno)
			return 1
		}
	}
	if _, _, errno := unix.RawSyscall(0x40000000|unix.SYS_GETPID, 0, 0, 0); errno != unix.ENOSYS {
		fmt.Println("x32", errno)
		return 1
	}
	return 0
}

// place is a zone that a test made, and the program that enters it.
type place struct {
	t       *testing.T
	leader  int
	program string
}

func newPlace(t *testing.T) place {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "enter")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "leader")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1 << 20, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	word := make([]byte, 200)
	if n, err := out.Read(word); err != nil || !strings.HasPrefix(string(word[:n]), "up") {
		t.Fatalf("the zone's first process says %q, %v", word[:n], err)
	}
	return place{t, cmd.Process.Pid, program}
}

// run has a request done and gives what came of it.
func (p place) run(r Request, stdin string) (status int, stdout, stderr string, err error) {
	p.t.Helper()
	var out, errs bytes.Buffer
	status, err = Run(p.t.Context(), p.program, p.leader, r, io.NopCloser(strings.NewReader(stdin)), &out, &errs, nil)
	return status, out.String(), errs.String(), err
}

func TestNetNSEnter(t *testing.T) {
	p := newPlace(t)
	defer unix.Umask(unix.Umask(0o077)) // of nereid-agent.service
	sh := func(line string) Request { return Request{Kind: Exec, Command: []string{"sh", "-c", line}} }
	for name, tt := range map[string]struct {
		r              Request
		stdin          string
		status         int
		stdout, stderr string // the whole; a part when it ends with ...
	}{
		"status":           {r: sh("exit 42"), status: 42},
		"signal":           {r: sh("kill -9 $$"), status: 137},
		"both outputs":     {r: sh("echo out; echo err >&2"), stdout: "out\n", stderr: "err\n"},
		"input, binary":    {r: Request{Kind: Exec, Command: []string{"cat"}}, stdin: "\x00\xff\r\n\x04" + strings.Repeat("x", 300000), stdout: "\x00\xff\r\n\x04" + strings.Repeat("x", 300000)},
		"its namespaces":   {r: sh("hostname; test $$ -lt 1000; echo $?; ip -o link | grep -vc lo:"), status: 1, stdout: "zone\n0\n0\n"},
		"no program":       {r: Request{Kind: Exec, Command: []string{"nothing-of-this-name"}}, status: 127, stderr: "nereid: nothing-of-this-name: executable file not found in $PATH..."},
		"no executable":    {r: Request{Kind: Exec, Command: []string{"/etc/hosts"}}, status: 126, stderr: "nereid: execute /etc/hosts..."},
		"login shell":      {r: Request{Kind: Exec, Env: []string{"HOME=/mnt"}}, stdin: "echo $0 $HOME $USER\n", stdout: "-bash /mnt root\n"},
		"user":             {r: Request{Kind: Exec, User: "nobody", Command: []string{"id"}}, stdout: "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n"},
		"user's rights":    {r: Request{Kind: Exec, User: "1", Command: []string{"sh", "-c", "grep CapEff /proc/self/status"}}, stdout: "CapEff:\t0000000000000000\n"},
		"number and group": {r: Request{Kind: Exec, User: "4711:4712", Command: []string{"sh", "-c", "id -u; id -g; id -G"}}, stdout: "4711\n4712\n4712\n"},
		"no user":          {r: Request{Kind: Exec, User: "nobody-of-this-name", Command: []string{"id"}}, status: 126, stderr: `nereid: find user "nobody-of-this-name"...`},
		"environment":      {r: Request{Kind: Exec, Env: []string{"A=b c", "PATH=/bin"}, Command: []string{"sh", "-c", "echo $A; echo $PATH"}}, stdout: "b c\n/bin\n"},
		"umask":            {r: sh("umask"), stdout: "0022\n"},
		"directory":        {r: Request{Kind: Exec, Dir: "/usr", Command: []string{"pwd"}}, stdout: "/usr\n"},
		"no directory":     {r: Request{Kind: Exec, Dir: "/none", Command: []string{"pwd"}}, status: 126, stderr: "nereid: go to /none: no such file or directory\n"},
		"capabilities":     {r: sh("mknod /mnt/null c 1 3; date -s @0 >/mnt/date"), status: 1, stderr: "mknod: /mnt/null: Operation not permitted..."},
		"system calls":     {r: Request{Kind: Exec, Command: []string{p.program, "denied"}}},
		"push":             {r: Request{Kind: Push, Path: "/mnt/file", Mode: 0o640}, stdin: "a\x00b"},
		"pull of none":     {r: Request{Kind: Pull, Path: "/mnt/none"}, status: 1, stderr: "nereid: pull: open /mnt/none: no such file or directory\n"},
		"pull of devices":  {r: Request{Kind: Pull, Path: "/dev/zero"}, status: 1, stderr: "nereid: pull: /dev/zero is no file\n"},
		"push on devices":  {r: Request{Kind: Push, Path: "/dev/null"}, status: 1, stderr: "nereid: push: /dev/null is there and is no file\n"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs, err := place{t, p.leader, p.program}.run(tt.r, tt.stdin)
			if err != nil || status != tt.status {
				t.Fatalf("status %d, %v: want %d\n%.300s\n%.300s", status, err, tt.status, out, errs)
			}
			same := func(got, want string) bool {
				part, cut := strings.CutSuffix(want, "...")
				return got == want || cut && strings.HasPrefix(got, part)
			}
			if !same(out, tt.stdout) || !same(errs, tt.stderr) {
				t.Errorf("it printed %.300q and %.300q: want %.300q and %.300q", out, errs, tt.stdout, tt.stderr)
			}
		})
	}
	if _, out, errs, err := p.run(Request{Kind: Push, Path: "/mnt/file", Mode: 0o640}, "a\x00b"); err != nil {
		t.Fatal(out, errs, err)
	}
	if _, out, _, err := p.run(Request{Kind: Pull, Path: "/mnt/file"}, ""); err != nil || out != "a\x00b" {
		t.Errorf("pull gives %q, %v", out, err)
	}
	if _, out, _, err := p.run(sh("stat -c %a.%u /mnt/file; rm -f /mnt/date; ls -A /mnt"), ""); err != nil || out != "640.0\nfile\n" {
		t.Errorf("what was pushed is %q, %v", out, err)
	}
	if _, err := os.Stat("/mnt/file"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is on the server too: %v", err)
	}
}

// TestNetNSTerminal has a program on a terminal of the zone's own, whose size changes.
func TestNetNSTerminal(t *testing.T) {
	p := newPlace(t)
	stdin, keys := io.Pipe()
	resize := make(chan Size)
	out := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		status, err := Run(t.Context(), p.program, p.leader, Request{Kind: Exec, TTY: &Size{24, 80}, Command: []string{"sh", "-c", "tty; stty size; read x; stty size; exit 3"}}, stdin, chanWriter(out), io.Discard, resize)
		if err == nil && status != 3 {
			err = fmt.Errorf("status %d: want 3", status)
		}
		close(out)
		ended <- err
	}()
	all := ""
	wait := func(want string) {
		t.Helper()
		for !strings.Contains(all, want) {
			s, more := <-out
			if all += s; !more {
				t.Fatalf("it printed %q: want %q", all, want)
			}
		}
	}
	wait("/dev/pts/")
	wait("24 80")
	for range 2 { // the first is set when the second is taken
		resize <- Size{50, 132}
	}
	if _, err := io.WriteString(keys, "go on\n"); err != nil {
		t.Fatal(err)
	}
	wait("50 132")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

type chanWriter chan<- string

func (c chanWriter) Write(b []byte) (int, error) { c <- string(b); return len(b), nil }

// TestNetNSHangUp ends a program, and what it started, when nobody listens any more.
func TestNetNSHangUp(t *testing.T) {
	p := newPlace(t)
	for name, r := range map[string]Request{
		"plain":        {Kind: Exec, Command: []string{"sh", "-c", "sleep 1000 & echo on; wait"}},
		"takes no HUP": {Kind: Exec, Command: []string{"sh", "-c", "trap '' HUP; echo on; while :; do sleep 1000; done"}},
		"terminal":     {Kind: Exec, TTY: &Size{24, 80}, Command: []string{"sh", "-c", "echo on; sleep 1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			stdin, keys := io.Pipe()
			defer keys.Close()
			out := make(chan string, 10)
			ended := make(chan error, 1)
			go func() {
				_, err := Run(ctx, p.program, p.leader, r, stdin, chanWriter(out), io.Discard, nil)
				ended <- err
			}()
			<-out
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
			// They have been killed, and end at once.
			gone := Request{Kind: Exec, Command: []string{"timeout", "10", "sh", "-c", "while pgrep -x sleep; do :; done"}}
			if status, left, _, err := (place{t, p.leader, p.program}).run(gone, ""); err != nil || status != 0 {
				t.Errorf("programs are left, %v:\n%.200s", err, left)
			}
		})
	}
}

// TestNetNSInterrupted: signals for this program's threads, such as Go's runtime sends
// them, end no session before its program starts.
func TestNetNSInterrupted(t *testing.T) {
	p := newPlace(t)
	ctx, cancel := context.WithCancel(t.Context())
	var storm sync.WaitGroup
	storm.Go(func() {
		for ctx.Err() == nil {
			threads, _ := os.ReadDir("/proc/self/task")
			for _, th := range threads {
				if id, err := strconv.Atoi(th.Name()); err == nil {
					_ = unix.Tgkill(os.Getpid(), id, unix.SIGURG)
				}
			}
		}
	})
	defer storm.Wait()
	defer cancel()
	for range 5 {
		if status, out, errs, err := p.run(Request{Kind: Exec, Command: []string{"echo", "here"}}, ""); err != nil || status != 0 || out != "here\n" {
			t.Fatalf("status %d, %v: %q %q", status, err, out, errs)
		}
	}
}
