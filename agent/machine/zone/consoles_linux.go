package zone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What is kept of a console: a log, and the one before it. One that prints more than
// consoleRate waits, and nobody else.
const (
	consoleLog  = 1 << 20 // bytes of a log when the next is begun
	consoleRate = 1 << 20 // bytes a second
)

// KeepConsoles reads all pipes in a folder, and those that come, and keeps the end of
// what came out of each. It ends with ctx. While there is no folder for the logs, what
// came is let go.
func KeepConsoles(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep consoles: %w", err)
	}
	k := &keeper{dir: dir, open: map[string]*os.File{}}
	defer k.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.logs = func() { k.work.Go(func() { k.trim(ctx) }) }
	err := follow(ctx, dir, k.all, func(name string, gone bool) {
		if gone {
			k.drop(name)
		} else {
			k.add(name)
		}
	})
	if err != nil {
		return fmt.Errorf("keep consoles: %w", err)
	}
	return nil
}

// keeper has the pipes that are read.
type keeper struct {
	dir  string
	mu   sync.Mutex
	open map[string]*os.File
	logs func() // begins to trim the logs in the folder that is there now
	to   string // that folder; empty: none. Guarded by mu
	work sync.WaitGroup
}

func (k *keeper) all() error {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return fmt.Errorf("keep consoles: %w", err)
	}
	for _, e := range entries {
		k.add(e.Name())
	}
	return nil
}

// add begins to read a pipe. It is open for writing too, so that it has no end.
func (k *keeper) add(name string) {
	path := filepath.Join(k.dir, name)
	if name == Logs {
		k.logs()
		return
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open[name] != nil {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return // it went again
	}
	k.open[name] = f
	k.work.Go(func() { k.keep(name, f) })
}

func (k *keeper) drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.open[name]; f != nil {
		f.Close()
		delete(k.open, name)
	}
}

func (k *keeper) end() {
	k.mu.Lock()
	for _, f := range k.open {
		f.Close()
	}
	k.mu.Unlock()
	k.work.Wait()
}

// keep writes what comes out of a pipe. What the disk does not take is lost: a zone
// never waits for a pool.
func (k *keeper) keep(name string, f *os.File) {
	buf := make([]byte, 16<<10)
	path := filepath.Join(k.dir, Logs, Log(name))
	for {
		n, err := f.Read(buf)
		if n > 0 {
			_ = appendLog(path, buf[:n])
			time.Sleep(time.Duration(n) * time.Second / consoleRate)
		}
		if err != nil {
			return
		}
	}
}

// appendLog adds to a log, and begins the next when it is long enough.
func appendLog(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	info, serr := f.Stat()
	if err = errors.Join(err, serr, f.Close()); err == nil && info.Size() >= consoleLog {
		err = os.Rename(path, path+".1")
	}
	return err
}
