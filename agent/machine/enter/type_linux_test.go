package enter

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holder is a process that has the end of a terminal as descriptor 3, as systemd-nspawn
// has its zone's console. It gives the other end.
func holder(t *testing.T) (pid int, console *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if errno != 0 {
		t.Fatal(errno)
	}
	nspawn := exec.Command("sleep", "1000")
	nspawn.ExtraFiles = []*os.File{master}
	if err := nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nspawn.Process.Kill(); nspawn.Wait() })
	console = os.NewFile(fd, "console")
	if err := console.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { console.Close() })
	return nspawn.Process.Pid, console
}

// TestType: what is typed comes to the console of now, with the terminal's size; one
// that reads nothing holds up only who types, who can go at any time.
func TestType(t *testing.T) {
	pid, console := holder(t)
	find := func() (int, error) { return pid, nil }
	in, type_ := io.Pipe()
	resize := make(chan Size)
	done := make(chan struct{})
	go func() {
		Type(t.Context(), find, in, &Size{Rows: 30, Columns: 100}, resize)
		close(done)
	}()
	press := func(s string) {
		t.Helper()
		if _, err := io.WriteString(type_, s); err != nil {
			t.Fatal(err)
		}
	}
	read := func(f *os.File, want string) {
		t.Helper()
		buf := make([]byte, 100)
		if n, err := f.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("%q, %v; want %q", buf[:n], err, want)
		}
	}
	press("ls\n")
	read(console, "ls\n")
	size, err := unix.IoctlGetWinsize(int(console.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row != 30 || size.Col != 100 {
		t.Errorf("%+v, %v", size, err)
	}
	resize <- Size{Rows: 40, Columns: 120}
	resize <- Size{Rows: 41, Columns: 121} // the first one is done
	if size, err := unix.IoctlGetWinsize(int(console.Fd()), unix.TIOCGWINSZ); err != nil || size.Row < 40 {
		t.Errorf("%+v, %v", size, err)
	}
	// Nobody reads: who types waits, and may go.
	go func() { _, _ = io.WriteString(type_, strings.Repeat(strings.Repeat("x", 100)+"\n", 10000)) }()
	type_.CloseWithError(errors.New("gone"))
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("who types cannot go")
	}
}
