package zone

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trimPause is how long a log may grow before it is looked at again.
const trimPause = 100 * time.Millisecond

// trim shortens the logs that others write without a bound, as QEMU does those of virtual
// machines: what is in one that is long enough becomes the log before it. It ends with ctx,
// or when the folder of the logs is another.
func (k *keeper) trim(ctx context.Context) {
	folder, err := filepath.EvalSymlinks(filepath.Join(k.dir, Logs))
	if err != nil {
		return // told of again when it is there
	}
	k.mu.Lock()
	was := k.to
	k.to = folder
	k.mu.Unlock()
	if was == folder {
		return
	}
	look := func(name string, gone bool) {
		uuid, log := strings.CutSuffix(name, logSuffix)
		k.mu.Lock()
		ours := k.open[uuid] != nil
		k.mu.Unlock()
		if !gone && log && !ours {
			_ = trimLog(filepath.Join(folder, name)) // tried again when it grows
		}
	}
	_ = watch(ctx, folder, unix.IN_MODIFY, func() error { // it ends with ctx, or with its folder
		entries, err := os.ReadDir(folder)
		for _, e := range entries {
			look(e.Name(), false)
		}
		return err
	}, func(name string, gone bool) {
		look(name, gone)
		pause := time.NewTimer(trimPause)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.to == folder {
		k.to = ""
	}
}

// trimLog makes a log of consoleLog bytes and more the one before it, and begins it anew
// in place: who writes has it open, and appends.
func trimLog(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() // what was written was written
	info, err := f.Stat()
	if err != nil || info.Size() < consoleLog {
		return err
	}
	next := path + ".1" + nextSuffix
	old, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(old, io.NewSectionReader(f, max(0, info.Size()-consoleLog), consoleLog))
	if err = errors.Join(err, old.Close()); err == nil {
		err = os.Rename(next, path+".1")
	}
	if err != nil { // the disk is full: what was printed last stays, and no more than it may have
		_ = os.Remove(next)
	}
	return errors.Join(err, f.Truncate(0))
}
