package sysinfo

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxKernelLog bounds what is read of the kernel's log, in bytes.
const maxKernelLog = 8 << 20

// switchedOff reports whether the kernel said that firmware switched virtualisation off.
// The end of its log is an error, and no wait.
func (t tree) switchedOff() bool {
	fd, err := unix.Open(filepath.Join(t.Dev, "kmsg"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	record := make([]byte, 8<<10)
	for read := 0; read < maxKernelLog; {
		n, err := unix.Read(fd, record) // one record (Documentation/ABI/testing/dev-kmsg)
		switch {
		case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR): // overwritten: the next one is there
			read++
			continue
		case err != nil || n <= 0:
			return false
		case offRE.Match(record[:n]):
			return true
		}
		read += n
	}
	return false
}
