package storage

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// memoryBytes is the server's memory (sysinfo(2)).
func memoryBytes() (int64, error) {
	var i unix.Sysinfo_t
	if err := unix.Sysinfo(&i); err != nil {
		return 0, fmt.Errorf("read the size of memory: %w", err)
	}
	return int64(i.Totalram) * int64(i.Unit), nil
}
