package stub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"nereid/images"
)

// Where things are in the initrd.
const (
	layersDir = "/layers"
	stackDir  = "/stack"
	panicFile = "/proc/sys/kernel/panic"
)

// Boot is the whole life of PID 1 in the initrd. It returns when the server is
// about to restart, or when it was started as an ordinary program.
func Boot(ctx context.Context) (err error) {
	if os.Getpid() != 1 {
		return errors.New("nereid-stub is the init of Nereid's initrd and does nothing when started as a program")
	}
	mountErr := mountEarly()
	console, closeConsoles := openConsoles("/sys/class/tty/console/active", "/dev")
	defer closeConsoles()
	k := &kernel{console: console}
	// A crash shows where, and the server starts again: here by ourselves, in a
	// goroutine by the kernel, whose panic (the death of PID 1) restarts in 30 s.
	oldPanic, perr := os.ReadFile(panicFile)
	if perr == nil {
		perr = os.WriteFile(panicFile, []byte("30"), 0)
		k.restore = func() error { return os.WriteFile(panicFile, oldPanic, 0) }
	}
	defer func() {
		if p := recover(); p != nil {
			console.Say("The stub broke (%v), which is a fault of Nereid. The server restarts in 30 s.", p)
			_, _ = os.Stderr.Write(debug.Stack())
			time.Sleep(finalPause)
			err = k.Reboot()
		}
	}()
	for _, e := range []error{mountErr, perr} {
		if e != nil {
			console.Say("%s", sentence(e))
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		console.Say("%s", sentence(fmt.Errorf("the kernel's arguments cannot be read: %w", err)))
	}
	k.args, err = parseCmdline(string(line))
	if err != nil {
		console.Say("%s", sentence(err)) // Run says it again, and what follows
	}
	s := &Stub{
		Kernel: k, Console: console, Cmdline: string(line), Client: client(),
		Machine: Machine{
			Uptime: uptime, UUID: productUUID, SetClock: setClock, Space: space, OpenDisk: openDisk,
			Meminfo: func() (string, error) { b, err := os.ReadFile("/proc/meminfo"); return string(b), err },
		},
		Paths:   Paths{Config: "/nereid/boot.json", Layers: layersDir, Run: "/run/nereid"},
		Backoff: images.Backoff{Min: time.Second, Max: time.Minute},
	}
	return s.Run(ctx)
}

// client speaks plain HTTP to the boot server.
func client() *plainHTTP {
	return &plainHTTP{dialer: net.Dialer{Timeout: 5 * time.Second}, header: 30 * time.Second}
}

// mountEarly mounts what everything else stands on.
func mountEarly() error {
	var errs []error
	for _, m := range []struct {
		dir, fs, opts string
		flags         uintptr
	}{
		{"/proc", "proc", "", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID},
		{"/run", "tmpfs", "mode=0755,size=20%", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		err := os.MkdirAll(m.dir, 0o755)
		if err == nil {
			err = unix.Mount(m.fs, m.dir, m.fs, m.flags, m.opts)
		}
		if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: is mounted
			errs = append(errs, fmt.Errorf("mount %s: %w", m.dir, err))
		}
	}
	// Go's own crash messages go to file 2.
	if fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0); err == nil {
		for std := range 3 {
			_ = unix.Dup3(fd, std, 0)
		}
		if fd > 2 {
			_ = unix.Close(fd)
		}
	}
	return errors.Join(errs...)
}

// openConsoles opens the consoles the kernel prints to, and tty0 and ttyS0 when
// they are there. active is /sys/class/tty/console/active.
func openConsoles(active, dev string) (*Console, func()) {
	b, _ := os.ReadFile(active) // without it: the usual two
	names := strings.Fields(string(b))
	for _, n := range []string{"tty0", "ttyS0"} {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	var screens []Screen
	var files []*os.File
	for _, n := range names {
		f, err := os.OpenFile(filepath.Join(dev, n), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		files = append(files, f)
		screens = append(screens, Screen{Writer: patient{f}, Width: width(f)})
	}
	return NewConsole(screens...), func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// patient gives a console half a second to take a line: a serial port with flow
// control and nobody behind it must not stop a boot.
type patient struct{ *os.File }

func (p patient) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)) // not every console can
	return p.File.Write(b)
}

// width is a terminal's columns: 80 when it does not know, 0 when it is none.
func width(f *os.File) int {
	c, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	cols := 0
	err = c.Control(func(fd uintptr) {
		if _, err := unix.IoctlGetTermios(int(fd), unix.TCGETS); err != nil {
			return
		}
		cols = 80
		if ws, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ); err == nil && ws.Col > 20 {
			cols = int(ws.Col)
		}
	})
	if err != nil {
		return 0
	}
	return cols
}

func uptime() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return float64(ts.Nano()) / 1e9
}

func productUUID() string {
	b, err := os.ReadFile("/sys/class/dmi/id/product_uuid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func setClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// space mounts a tmpfs for the layers, or makes the one there large enough.
func space(bytes int64) error {
	if err := os.MkdirAll(layersDir, 0o700); err != nil {
		return err
	}
	opts := fmt.Sprintf("mode=0700,size=%d", bytes)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat("/", &a), unix.Stat(layersDir, &b)); err != nil {
		return err
	}
	var flags uintptr
	if a.Dev != b.Dev {
		flags = unix.MS_REMOUNT
	}
	if err := unix.Mount("layers", layersDir, "tmpfs", flags, opts); err != nil {
		return fmt.Errorf("mount %s: %w", layersDir, err)
	}
	return nil
}

func openDisk(path string) (Disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return Disk{}, err
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return Disk{}, errors.Join(err, f.Close())
	}
	return Disk{ReaderAt: f, Closer: f, Size: size}, nil
}
