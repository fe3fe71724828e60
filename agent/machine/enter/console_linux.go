package enter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Console writes what a zone printed until now to before: the log before the last one,
// which has ".1" behind its name, then the last one. With follow it writes what is printed
// from now on to to, until ctx ends. A zone that never printed has no log.
func Console(ctx context.Context, log string, follow bool, before, to io.Writer) error {
	c := &console{log: log, to: before}
	defer c.close()
	if !follow {
		return c.all()
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("follow console: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(log), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		return fmt.Errorf("follow console: watch %s: %w", filepath.Dir(log), err)
	}
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	if err := c.all(); err != nil {
		return err
	}
	c.to = to
	buf := make([]byte, 64<<10)
	for {
		if _, err := events.Read(buf); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return fmt.Errorf("follow console: %w", err)
		}
		if err := c.more(); err != nil {
			return err
		}
	}
}

// console is how far a log was read.
type console struct {
	log  string
	to   io.Writer
	file *os.File // the last log; nil: there was none
}

func (c *console) close() {
	if c.file != nil {
		_ = c.file.Close() // nothing was written
	}
}

// all writes what there is.
func (c *console) all() error {
	old, err := os.Open(c.log + ".1")
	if err == nil {
		_, err = io.Copy(c.to, old)
		_ = old.Close() // nothing was written
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read console: %w", err)
	}
	return c.more()
}

// more writes what came since. A log that was begun anew is read once its file is read to
// the end.
func (c *console) more() error {
	for {
		if c.file != nil {
			if err := c.shortened(); err != nil {
				return fmt.Errorf("read console: %w", err)
			}
			if _, err := io.Copy(c.to, c.file); err != nil {
				return fmt.Errorf("read console: %w", err)
			}
		}
		next, err := os.Open(c.log)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read console: %w", err)
		}
		if c.file != nil && same(c.file, next) {
			_ = next.Close() // nothing was written
			return nil
		}
		c.close()
		c.file = next
	}
}

// shortened begins a log anew that was shortened in place, as that of a virtual machine.
func (c *console) shortened() error {
	at, err := c.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	info, err := c.file.Stat()
	if err == nil && info.Size() < at {
		_, err = c.file.Seek(0, io.SeekStart)
	}
	return err
}

// same says whether two files are one.
func same(a, b *os.File) bool {
	x, err := a.Stat()
	y, berr := b.Stat()
	return err == nil && berr == nil && os.SameFile(x, y)
}
