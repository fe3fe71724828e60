package vm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setgroups sets this thread's groups (setgroups(2)).
func setgroups(list []uint32) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return errno
	}
	return nil
}
