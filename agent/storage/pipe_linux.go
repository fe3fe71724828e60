package storage

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// widen gives a pipe room for pipeBytes (F_SETPIPE_SZ of fcntl(2)). One that cannot have
// it keeps what it has.
func widen(pipe any) {
	f, ok := pipe.(syscall.Conn)
	if !ok {
		return
	}
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
}
