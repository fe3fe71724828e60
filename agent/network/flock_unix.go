//go:build unix && !illumos && !solaris

package network

import (
	"os"

	"golang.org/x/sys/unix"
)

// flock waits until nobody else has a file locked (flock(2)).
func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}
