package enter

import (
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// setGroups sets the supplementary groups of this thread (setgroups(2)).
func setGroups(groups []int) error {
	ids := make([]uint32, len(groups)+1) // one more, so that there is a first
	for i, g := range groups {
		ids[i] = uint32(g)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&ids[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Machines of system calls (linux/audit.h, AUDIT_ARCH_*).
const (
	archX8664 = 0xc000003e
	archI386  = 0x40000003
)

// x32 marks system calls of the x32 ABI (syscall(2)).
const x32 = 0x40000000

// denied are the system calls that no program in a zone has, on x86-64 and on i386:
// those that systemd-nspawn denies and that are not denied by the user namespace anyway,
// and those of package zone. The numbers are the kernel's (syscall_64.tbl, syscall_32.tbl).
var denied = []struct{ x8664, i386 uint32 }{
	{unix.SYS_KEYCTL, 288}, {unix.SYS_ADD_KEY, 286}, {unix.SYS_REQUEST_KEY, 287},
	{unix.SYS_BPF, 357}, {unix.SYS_PERF_EVENT_OPEN, 336}, {unix.SYS_USERFAULTFD, 374},
	{unix.SYS_IO_URING_SETUP, 425}, {unix.SYS_IO_URING_ENTER, 426}, {unix.SYS_IO_URING_REGISTER, 427},
	{unix.SYS_OPEN_BY_HANDLE_AT, 342}, {unix.SYS_FANOTIFY_INIT, 338}, {unix.SYS_FANOTIFY_MARK, 339},
	{unix.SYS_KEXEC_LOAD, 283}, {unix.SYS_KEXEC_FILE_LOAD, ^uint32(0)}, {unix.SYS_SWAPON, 87}, {unix.SYS_SWAPOFF, 115},
	{unix.SYS_QUOTACTL, 131}, {unix.SYS_QUOTACTL_FD, 443}, {unix.SYS_ACCT, 51},
	{unix.SYS_INIT_MODULE, 128}, {unix.SYS_FINIT_MODULE, 350}, {unix.SYS_DELETE_MODULE, 129},
	{unix.SYS_IOPL, 110}, {unix.SYS_IOPERM, 101}, {unix.SYS_SYSLOG, 103},
	{unix.SYS_SETTIMEOFDAY, 79}, {unix.SYS_CLOCK_SETTIME, 264}, {unix.SYS_ADJTIMEX, 124}, {unix.SYS_CLOCK_ADJTIME, 343},
	{unix.SYS_PKEY_MPROTECT, 380}, {unix.SYS_PKEY_ALLOC, 381}, {unix.SYS_PKEY_FREE, 382},
	{^uint32(0), 404}, {^uint32(0), 405}, // clock_settime64, clock_adjtime64
}

// filter is a program for seccomp(2): denied system calls fail with EPERM, those of the
// x32 ABI and of other machines with ENOSYS.
func filter() ([]bpf.RawInstruction, error) {
	numbers := func(of func(i int) uint32) []bpf.Instruction {
		var p []bpf.Instruction
		for i := range denied {
			if n := of(i); n != ^uint32(0) {
				p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: n, SkipTrue: 1}, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
			}
		}
		return append(p, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW})
	}
	wide := numbers(func(i int) uint32 { return denied[i].x8664 })
	narrow := numbers(func(i int) uint32 { return denied[i].i386 })
	// struct seccomp_data: the number at 0, the machine at 4 (linux/seccomp.h).
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: archX8664, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: archI386, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		bpf.Jump{Skip: uint32(len(wide) + 3)}, // i386
		bpf.LoadAbsolute{Off: 0, Size: 4},     // x86-64
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	}
	p = append(p, wide...)
	p = append(p, bpf.LoadAbsolute{Off: 0, Size: 4})
	return bpf.Assemble(append(p, narrow...))
}

// deny makes this thread's system calls, and those of what it executes, pass the filter.
func deny() error {
	raw, err := filter()
	if err != nil {
		return err
	}
	p := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		p[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return errno
	}
	return nil
}
