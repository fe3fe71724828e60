package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"nereid/agent/machine/qmp"
	"nereid/agent/machine/screen"
)

// Screenshot is what is on the screen of a machine that runs, as PNG. One is made at a
// time; who waits for another one's gives up with ctx.
func (m *Machines) Screenshot(ctx context.Context, uuid string) (png []byte, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a picture of the screen: %w", err)
		}
	}()
	c, err := m.monitor(uuid)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.shooting == nil {
		m.shooting = make(chan struct{}, 1)
	}
	turn := m.shooting
	m.mu.Unlock()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	f, err := sheet()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := dump(ctx, c, f); err != nil {
		return nil, err
	}
	return screen.PNG(io.NewSectionReader(f, 0, screen.MaxBytes))
}

// dump has a QEMU write its screen to a file, of which it gets an end to write to and no
// name.
func dump(ctx context.Context, c *qmp.Client, f *os.File) error {
	end, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open sheet: %w", err)
	}
	var set struct {
		ID int64 `json:"fdset-id"`
	}
	err = c.CallFiles(ctx, "add-fd", nil, &set, end)
	_ = unix.Close(end) // QEMU has its own
	if err != nil {
		return err
	}
	err = c.Call(ctx, "screendump", map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", set.ID), "format": "ppm"}, nil)
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialPause)
	defer cancel()
	return errors.Join(err, c.Call(rctx, "remove-fd", map[string]any{"fdset-id": set.ID}, nil))
}

// sheet is a file in memory that has no name. What a QEMU writes to it, however much, is
// memory of its unit's.
func sheet() (*os.File, error) {
	fd, err := unix.MemfdCreate("screen", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make sheet: %w", err)
	}
	return os.NewFile(uintptr(fd), "screen"), nil
}
