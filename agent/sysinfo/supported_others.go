//go:build !linux

package sysinfo

import (
	"errors"
	"fmt"
	"runtime"
)

// supported reports whether the running system has /sys.
func supported() error {
	return fmt.Errorf("%w: %s has no /sys; inventory is read on Linux only", errors.ErrUnsupported, runtime.GOOS)
}
