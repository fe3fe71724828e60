package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are system calls that no argument makes allowed: with none that makes sense the
// kernel says something else than EPERM of those that it carries out.
var denied = map[string]uintptr{
	"io_uring_setup": unix.SYS_IO_URING_SETUP, "io_uring_enter": unix.SYS_IO_URING_ENTER, "io_uring_register": unix.SYS_IO_URING_REGISTER,
	"userfaultfd": unix.SYS_USERFAULTFD, "bpf": unix.SYS_BPF, "perf_event_open": unix.SYS_PERF_EVENT_OPEN, "keyctl": unix.SYS_KEYCTL,
	"add_key": unix.SYS_ADD_KEY, "request_key": unix.SYS_REQUEST_KEY, "open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "fanotify_init": unix.SYS_FANOTIFY_INIT,
	"kexec_load": unix.SYS_KEXEC_LOAD, "init_module": unix.SYS_INIT_MODULE, "finit_module": unix.SYS_FINIT_MODULE, "delete_module": unix.SYS_DELETE_MODULE,
	"swapon": unix.SYS_SWAPON, "swapoff": unix.SYS_SWAPOFF, "acct": unix.SYS_ACCT, "quotactl": unix.SYS_QUOTACTL, "iopl": unix.SYS_IOPL, "ioperm": unix.SYS_IOPERM,
}

func calls() (all []attempt) {
	for _, name := range sorted(denied) {
		all = append(all, attempt{"system call " + name, func() error {
			args := [6]uintptr{}
			switch name {
			case "iopl":
				args[0] = 3
			case "ioperm":
				args = [6]uintptr{0x70, 2, 1}
			case "add_key":
				args[4] = ^uintptr(1) // a keyring
			}
			_, _, errno := unix.RawSyscall6(denied[name], args[0], args[1], args[2], args[3], args[4], args[5])
			switch errno {
			case unix.EPERM, unix.ENOSYS, unix.EACCES:
				return errno
			}
			fmt.Printf("# %s: %v\n", name, errno)
			return nil
		}})
	}
	return append(all, attempt{"read the kernel's log", func() error {
		_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 100))
		return err
	}}, attempt{"set the clock", func() error {
		t := unix.NsecToTimeval(time.Now().UnixNano())
		return unix.Settimeofday(&t)
	}}, attempt{"adjust the clock", func() error {
		_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_STATUS})
		return err
	}}, attempt{"switch Ctrl-Alt-Del off", func() error {
		return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	}}, attempt{"map the server's root into a user namespace", func() error {
		pid, err := nestedChild("/bin/sleep", "5")
		if err != nil {
			return err
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGKILL); _, _ = syscall.Wait4(pid, nil, 0, nil) }()
		return write(fmt.Sprintf("/proc/%d/uid_map", pid), "0 4294901760 1\n")
	}})
}

// nestedChild starts a program in a user namespace without maps.
func nestedChild(args ...string) (int, error) {
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}})
	if err != nil {
		return 0, err
	}
	return p.Pid, nil
}

// families are those that the kernel would load a module for. What a module of a server
// gives is there already, and none comes.
var families = map[string][3]int{
	"AX.25": {3, unix.SOCK_SEQPACKET, 0}, "IPX": {4, unix.SOCK_DGRAM, 0}, "AppleTalk": {5, unix.SOCK_DGRAM, 0}, "NET/ROM": {6, unix.SOCK_SEQPACKET, 0}, "X.25": {9, unix.SOCK_SEQPACKET, 0},
	"ROSE": {11, unix.SOCK_SEQPACKET, 0}, "RDS": {21, unix.SOCK_SEQPACKET, 0}, "PPPoX": {24, unix.SOCK_STREAM, 0}, "LLC": {26, unix.SOCK_STREAM, 0},
	"CAN": {29, unix.SOCK_RAW, 1}, "TIPC": {30, unix.SOCK_RDM, 0}, "Bluetooth": {31, unix.SOCK_RAW, 1}, "RxRPC": {33, unix.SOCK_DGRAM, 2},
	"Phonet": {35, unix.SOCK_DGRAM, 0}, "IEEE 802.15.4": {36, unix.SOCK_DGRAM, 0}, "CAIF": {37, unix.SOCK_SEQPACKET, 0}, "AF_ALG": {38, unix.SOCK_SEQPACKET, 0},
	"NFC": {39, unix.SOCK_SEQPACKET, 0}, "vsock": {40, unix.SOCK_STREAM, 0}, "KCM": {41, unix.SOCK_DGRAM, 0}, "QRTR": {42, unix.SOCK_DGRAM, 0}, "SMC": {43, unix.SOCK_STREAM, 0},
	"SCTP": {unix.AF_INET, unix.SOCK_STREAM, 132}, "DCCP": {unix.AF_INET, unix.SOCK_DCCP, 33}, "L2TP": {unix.AF_INET, unix.SOCK_DGRAM, 115},
}

// moduleMounts and links make the kernel look for a module before it asks whether one may.
var moduleMounts = []string{"btrfs", "cifs", "nfs", "hfs", "ufs", "jfs", "reiserfs", "ceph", "9p", "afs", "gfs2", "ocfs2"}

var links = []string{"vcan", "ipip", "gre", "wireguard", "batadv", "nlmon", "vrf", "geneve", "team"}

func modules() (all []attempt) {
	for _, name := range sorted(families) {
		all = append(all, attempt{"a socket of " + name, func() error {
			f := families[name]
			fd, err := unix.Socket(f[0], f[1], f[2])
			if err == nil {
				unix.Close(fd)
			}
			return err
		}})
	}
	for _, kind := range moduleMounts {
		all = append(all, attempt{"mount " + kind, func() error { return unix.Mount("none", place, kind, 0, "") }})
	}
	for _, kind := range links {
		all = append(all, attempt{"a link of " + kind, func() error { return addLink(kind) }})
	}
	return all
}

// addLink asks for a link of a kind (RTM_NEWLINK with IFLA_LINKINFO).
func addLink(kind string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attr := func(t uint16, b []byte) []byte {
		n := unix.SizeofRtAttr + len(b)
		out := make([]byte, (n+3)&^3)
		*(*unix.RtAttr)(unsafe.Pointer(&out[0])) = unix.RtAttr{Len: uint16(n), Type: t}
		copy(out[unix.SizeofRtAttr:], b)
		return out
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	body = append(body, attr(unix.IFLA_IFNAME, []byte("att0\x00"))...)
	body = append(body, attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte(kind)))...)
	msg := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	*(*unix.NlMsghdr)(unsafe.Pointer(&msg[0])) = unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(body)), Type: unix.RTM_NEWLINK,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL}
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return errors.New("an answer that is none")
	}
	if code := *(*int32)(unsafe.Pointer(&answer[unix.SizeofNlMsghdr])); code < 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// cgroups: the zone's own limits are not its to raise, and there is no way above it.
func cgroups() (all []attempt) {
	const at = "/sys/fs/cgroup"
	for file, text := range map[string]string{"memory.max": "max", "memory.swap.max": "max", "pids.max": "max", "cpu.max": "max 100000", "cpu.weight": "10000", "cgroup.freeze": "0",
		"cgroup.kill": "1", "io.weight": "10000"} {
		all = append(all, attempt{"write its own " + file, func() error { return write(filepath.Join(at, file), text) }})
	}
	return append(all, attempt{"see cgroups above its own", func() error {
		for _, p := range []string{"init.scope", "system.slice", "machine.slice", "../machine.slice"} {
			if _, err := os.Stat(filepath.Join(at, p, "cgroup.procs")); err == nil && p != "init.scope" && p != "system.slice" {
				return nil
			}
		}
		b, err := os.ReadFile("/proc/1/cgroup")
		if strings.Contains(string(b), "nereid-zone-") || strings.Contains(string(b), "machine.slice") {
			fmt.Printf("# %q\n", b)
			return nil
		}
		return errors.Join(err, errors.New("there is none"))
	}}, attempt{"write limits of a new mount of its cgroups", func() error {
		if err := unix.Mount("cgroup2", place, "cgroup2", 0, ""); err != nil {
			return err
		}
		defer unmount(place)
		if err := write(filepath.Join(place, "memory.max"), "max"); err == nil {
			return nil
		}
		return write(filepath.Join(place, "../cgroup.procs"), "1")
	}})
}

func limits() []attempt {
	return []attempt{{"raise a hard limit", func() error {
		var r unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
			return err
		}
		r.Max++
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &r)
	}}, {"a priority of real time", func() error {
		param := struct{ priority int32 }{1}
		_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param)))
		if errno != 0 {
			return errno
		}
		return nil
	}}, {"a better priority", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -5) }},
		{"be spared when memory is short", func() error { return write("/proc/self/oom_score_adj", "-500") }}}
}

// others are the ways out that were one once.
func others() []attempt {
	return append(modules(), attempt{"leave by a root that is changed twice", func() error {
		// The working directory stays above the new root, and ".." leads up from there.
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // the thread ends with this: nobody else gets its root
			done <- leave()
		}()
		return <-done
	}}, attempt{"be in a namespace that is not the zone's", func() error {
		for _, ns := range []string{"mnt", "net", "pid", "user", "cgroup", "ipc", "uts"} {
			first, err1 := os.Readlink("/proc/1/ns/" + ns)
			own, err2 := os.Readlink("/proc/thread-self/ns/" + ns) // an attempt before this may have changed another thread's
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			if first != own {
				return nil
			}
		}
		return errors.New("it is in none")
	}}, attempt{"trace a process of the server", func() error {
		b, err := os.ReadFile("/proc/2/comm")
		if err == nil && strings.TrimSpace(string(b)) == "kthreadd" {
			return nil
		}
		_, err = unix.PtracePeekData(1<<22-1, 0, make([]byte, 8))
		return err
	}})
}

// leave changes the root and climbs from where it was before.
func leave() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	var before, after unix.Stat_t
	if err := unix.Stat("/", &before); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(place+"/jail", 0o755), unix.Chroot(place+"/jail")); err != nil {
		return err
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := errors.Join(unix.Chroot("."), unix.Stat("/", &after)); err != nil {
		return err
	}
	if before.Dev == after.Dev && before.Ino == after.Ino {
		return errors.New("above its root is its root")
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	var all []string
	for name := range m {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
