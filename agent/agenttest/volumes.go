package agenttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// volumeFile is where the bytes of a volume are, in the folder with its files.
const volumeFile = "volume"

// resize sets the size of a volume. ZFS shrinks one too, and what was behind is lost: the
// agent never asks for that.
func (w *World) resize(name string, d *dataset, text string) error {
	size, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil || d.volume == 0 || size%512 != 0:
		return fmt.Errorf("cannot set property for '%s': volume size must be a multiple of volume block size", name)
	case size < d.volume:
		return fmt.Errorf("agenttest: volume %s is to shrink from %d to %d bytes", name, d.volume, size)
	}
	d.volume = size
	return nil
}

// OpenVolume implements storage.Volumes: it opens the file that holds the volume's bytes.
// What is written there and no command followed is lost when power is cut.
func (w *World) OpenVolume(ctx context.Context, name string) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, d, err := w.find(name)
	if err != nil {
		return nil, err
	}
	switch {
	case d.volume == 0:
		return nil, fmt.Errorf("open volume %s: it is a file system", name)
	case d.props["volmode"] != "dev" || d.props["readonly"] == "on":
		return nil, fmt.Errorf("open volume %s: it has no device, or may not be written to", name)
	case w.Full:
		return nil, fmt.Errorf("open volume %s: %w", name, syscall.ENOSPC)
	}
	dir := w.back(p, name, "")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, volumeFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(int64(d.volume)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d.dirty = true
	return f, nil
}
