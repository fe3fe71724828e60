//go:build !linux

package storage

import (
	"errors"
	"fmt"
	"runtime"
)

// supported reports whether pools can be driven here.
func supported() error {
	return fmt.Errorf("%w: the JSON output of zpool and zfs is read, which %s does not have", errors.ErrUnsupported, runtime.GOOS)
}

// reread makes the kernel look at the partition table again.
func (d *device) reread() {}

// fresh drops what the kernel remembers of the disk's blocks.
func (d *device) fresh() {}
