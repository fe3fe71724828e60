package enter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Type types what can be read at the console of a zone, until that or ctx ends. find gives
// the process of the zone's systemd-nspawn, which has the console's terminal: it is taken
// from there (pidfd_getfd(2)), so that nothing of the zone depends on who types. A zone
// that started anew goes on being typed at; what is typed while there is none is lost. A
// zone that does not read holds up who types, and nobody else.
func Type(ctx context.Context, find func() (pid int, err error), in io.Reader, size *Size, resize <-chan Size) {
	k := &keyboard{find: find, size: size}
	defer k.let()
	stop := context.AfterFunc(ctx, k.let)
	defer stop()
	var sizing sync.WaitGroup
	defer sizing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sizing.Go(func() {
		for {
			select {
			case s := <-resize:
				k.resize(s)
			case <-ctx.Done():
				return
			}
		}
	})
	buf := make([]byte, 4<<10)
	for ctx.Err() == nil {
		n, err := in.Read(buf)
		if n > 0 {
			k.press(ctx, buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// keyboard is a console's terminal, from the other end.
type keyboard struct {
	find func() (int, error)

	mu       sync.Mutex
	size     *Size
	terminal *os.File // nil: it was not found
	over     bool
}

// take gives the terminal of now. again says that the one before is gone.
func (k *keyboard) take(again bool) *os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	if again && k.terminal != nil {
		k.terminal.Close()
		k.terminal = nil
	}
	if k.terminal != nil || k.over {
		return k.terminal
	}
	pid, err := k.find()
	if err != nil {
		return nil
	}
	if k.terminal, err = consoleOf(pid); err != nil {
		k.terminal = nil
		return nil
	}
	if k.size != nil {
		setSize(k.terminal, *k.size)
	}
	return k.terminal
}

func (k *keyboard) press(ctx context.Context, b []byte) {
	for again := range 2 {
		t := k.take(again > 0)
		if t == nil {
			return
		}
		n, err := t.Write(b)
		if b = b[n:]; err == nil || ctx.Err() != nil {
			return
		}
	}
}

func (k *keyboard) resize(s Size) {
	t := k.take(false)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.size = &s
	if t != nil && t == k.terminal {
		setSize(t, s)
	}
}

// let lets go of the terminal for good. It also ends a write that waits.
func (k *keyboard) let() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	if k.terminal != nil {
		k.terminal.Close()
		k.terminal = nil
	}
}

// consoleOf takes the console's terminal from a systemd-nspawn: the one that it has beside
// its standard input.
func consoleOf(pid int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("take console from process %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("take console: %w", err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil || n <= 2 {
			continue
		}
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err != nil || !strings.Contains(to, "ptmx") {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			return nil, fmt.Errorf("take console from process %d: %w", pid, err)
		}
		if _, err := unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			unix.Close(fd)
			continue
		}
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil { // nspawn has it so too
			unix.Close(fd)
			return nil, fmt.Errorf("take console: %w", err)
		}
		return os.NewFile(uintptr(fd), "console"), nil
	}
	return nil, fmt.Errorf("take console: %w", errors.New("systemd-nspawn has no terminal"))
}
