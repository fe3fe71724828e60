package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is where the attempts put what they make.
const place = "/attempt"

func tryAll(datasets []string) {
	exit(os.MkdirAll(place, 0o755))
	report(slices.Concat(nodes(), mounts(datasets), writes(), reads(), calls(), cgroups(), limits(), others()), "")
	// What covers /proc and /sys was put there by the zone, which may take it away.
	again("bare", unix.CLONE_NEWNS, datasets)
	// A user namespace of its own gives a process all capabilities, in there.
	again("nested", unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWNET|unix.CLONE_NEWCGROUP, datasets)
	exit(os.RemoveAll(place))
	fmt.Println("end of attempts")
}

// again makes attempts in new namespaces.
func again(verb string, flags uintptr, datasets []string) {
	cmd := exec.Command("/proc/self/exe", append([]string{verb}, datasets...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1000}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings, cmd.SysProcAttr.GidMappingsEnableSetgroups = ids, ids, true
	}
	exit(cmd.Run())
}

// nested is what is tried with all capabilities of a user namespace in the zone's.
func nested(datasets []string) []attempt {
	return slices.Concat(nodes(), mounts(datasets), writes(), calls(), limits())
}

// bare is what is tried once nothing covers /proc and /sys any more.
func bare() []attempt {
	exit(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for range 3 {
		for _, p := range []string{"/sys", "/sys/fs/cgroup", "/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/sys/kernel/random/boot_id", "/proc/kmsg", "/proc/kcore", "/proc/kallsyms"} {
			_ = unix.Mount("", p, "", unix.MS_REMOUNT|unix.MS_BIND, "") // what is not taken away may be made writable
			unmount(p)
		}
	}
	return slices.Concat(writes(), reads())
}

// devices are the server's: memory, ports, disks, ZFS, KVM, the kernel's log.
var devices = []struct {
	name         string
	kind         uint32
	major, minor uint32
}{
	{"mem", unix.S_IFCHR, 1, 1}, {"port", unix.S_IFCHR, 1, 4}, {"kmsg", unix.S_IFCHR, 1, 11}, {"vda", unix.S_IFBLK, 254, 0}, {"sda", unix.S_IFBLK, 8, 0},
	{"loop-control", unix.S_IFCHR, 10, 237}, {"loop0", unix.S_IFBLK, 7, 0}, {"kvm", unix.S_IFCHR, 10, 232}, {"vhost-net", unix.S_IFCHR, 10, 238},
	{"zfs", unix.S_IFCHR, 10, 249}, {"mapper/control", unix.S_IFCHR, 10, 236}, {"ttyS0", unix.S_IFCHR, 4, 64}, {"console of the server", unix.S_IFCHR, 5, 1},
	{"watchdog", unix.S_IFCHR, 10, 130}, {"rtc0", unix.S_IFCHR, 252, 0}, {"cpu/0/msr", unix.S_IFCHR, 202, 0}, {"vport of the lab", unix.S_IFCHR, 244, 1},
}

func nodes() (all []attempt) {
	for _, d := range devices {
		dev := int(unix.Mkdev(d.major, d.minor))
		all = append(all, attempt{"make and open device " + d.name, func() error {
			path := filepath.Join(place, "node")
			defer os.Remove(path)
			if err := unix.Mknod(path, d.kind|0o600, dev); err != nil {
				return err
			}
			return open(path, os.O_RDONLY)
		}})
		if !strings.Contains(d.name, " ") {
			all = append(all, attempt{"open /dev/" + d.name, func() error { return open("/dev/"+d.name, os.O_RDONLY) }})
		}
	}
	return append(all, attempt{"make a device on a tmpfs", func() error {
		if err := unix.Mount("tmpfs", place, "tmpfs", 0, ""); err != nil {
			return err
		}
		defer unmount(place)
		return unix.Mknod(filepath.Join(place, "mem"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1)))
	}})
}

func open(path string, flags int) error {
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == nil {
		f.Close()
	}
	return err
}

func unmount(path string) { _ = unix.Unmount(path, unix.MNT_DETACH) }

// kinds are file systems that show the server's devices or its kernel, or of which an
// image could attack the kernel.
var kinds = []string{"devtmpfs", "debugfs", "tracefs", "securityfs", "configfs", "pstore", "efivarfs", "hugetlbfs", "nfsd", "rpc_pipefs", "selinuxfs", "fusectl", "resctrl"}

func mounts(datasets []string) (all []attempt) {
	mount := func(what, from, kind, data string, flags uintptr) {
		all = append(all, attempt{"mount " + what, func() error {
			err := unix.Mount(from, place, kind, flags, data)
			if err == nil {
				unmount(place)
			}
			return err
		}})
	}
	for _, k := range kinds {
		mount(k, k, k, "", 0)
	}
	for _, d := range datasets {
		mount("dataset "+d, d, "zfs", "", 0)
	}
	for _, k := range []string{"ext4", "xfs", "btrfs", "iso9660", "squashfs"} {
		mount("a disk as "+k, "/dev/vda", k, "", 0)
	}
	mount("a new hierarchy of cgroups", "none", "cgroup", "none,name=attempt", 0)
	mount("the cgroups of version 1", "none", "cgroup", "memory", 0)
	for _, p := range []string{"/run/nereid", "/run/nereid/init"} {
		all = append(all, attempt{"remount " + p + " to write", func() error {
			return unix.Mount("", p, "", unix.MS_REMOUNT|unix.MS_BIND, "")
		}}, attempt{"unmount " + p, func() error { return unix.Unmount(p, 0) }})
	}
	return append(all, attempt{"write a parameter of a new sysfs", func() error {
		if err := unix.Mount("sysfs", place, "sysfs", 0, ""); err != nil {
			return err
		}
		defer unmount(place)
		return write(filepath.Join(place, "module/zfs/parameters/zfs_txg_timeout"), "6")
	}}, attempt{"read what ZFS tells of, in a new proc", func() error {
		if err := unix.Mount("proc", place, "proc", 0, ""); err != nil {
			return err
		}
		defer unmount(place)
		_, err := os.ReadDir(filepath.Join(place, "spl"))
		return err
	}}, attempt{"write a sysctl of a new proc", func() error {
		if err := unix.Mount("proc", place, "proc", 0, ""); err != nil {
			return err
		}
		defer unmount(place)
		return write(filepath.Join(place, "sys/kernel/core_pattern"), "core")
	}}, attempt{"write a sysctl of a bound proc", func() error {
		if err := unix.Mount("/proc", place, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		defer unmount(place)
		return write(filepath.Join(place, "sys/kernel/panic"), "31")
	}})
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// written is what would change the server. The values do no harm.
var written = map[string]string{
	"/proc/sysrq-trigger": "h", "/proc/sys/kernel/core_pattern": "core", "/proc/sys/kernel/modprobe": "/bin/true", "/proc/sys/kernel/panic": "31",
	"/proc/sys/kernel/sysrq": "1", "/proc/sys/kernel/hotplug": "x", "/proc/sys/kernel/kptr_restrict": "0", "/proc/sys/kernel/dmesg_restrict": "0",
	"/proc/sys/kernel/randomize_va_space": "0", "/proc/sys/kernel/keys/maxkeys": "9", "/proc/sys/kernel/pid_max": "4194304", "/proc/sys/vm/drop_caches": "1",
	"/proc/sys/vm/overcommit_memory": "1", "/proc/sys/fs/file-max": "999999", "/proc/sys/fs/inotify/max_user_watches": "9", "/proc/sys/fs/suid_dumpable": "1",
	"/proc/sys/net/core/bpf_jit_enable": "1", "/proc/irq/default_smp_affinity": "1", "/proc/timer_list": "x",
	"/sys/module/zfs/parameters/zfs_txg_timeout": "6", "/sys/kernel/uevent_helper": "/x", "/sys/kernel/mm/transparent_hugepage/enabled": "never",
	"/sys/power/state": "x", "/sys/bus/pci/rescan": "1", "/sys/class/net/net0/../../../../bus/pci/rescan": "1", "/sys/block/vda/queue/read_ahead_kb": "128",
	"/sys/fs/cgroup/../../kernel/profiling": "0", "/run/nereid/init": "x", "/run/nereid/zone.json": "{}", "/dev/kmsg": "attempt",
}

func writes() (all []attempt) {
	for path, text := range written {
		all = append(all, attempt{"write " + path, func() error { return write(path, text) }})
	}
	slices.SortFunc(all, func(a, b attempt) int { return strings.Compare(a.name, b.name) })
	return all
}

// reads is what tells of the server or of other zones.
func reads() (all []attempt) {
	for _, path := range []string{"/proc/kcore", "/proc/kmsg", "/proc/kpagecount", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/spl/kstat/zfs/dbgmsg",
		"/proc/spl/kstat/zfs/arcstats", "/sys/kernel/debug/zsmalloc", "/sys/class/dmi/id/product_serial", "/sys/class/dmi/id/product_uuid", "/sys/firmware/acpi/tables/DSDT",
		"/sys/kernel/security/lsm", "/sys/kernel/tracing/trace"} {
		all = append(all, attempt{"read " + path, func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a pipe without an end
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			n, err := unix.Read(fd, make([]byte, 1))
			if err == nil && n == 0 {
				return errors.New("nothing is in it")
			}
			return err
		}})
	}
	return append(all, attempt{"list what ZFS tells of", func() error {
		_, err := os.ReadDir("/proc/spl")
		return err
	}}, attempt{"read addresses of the kernel", func() error {
		b, err := os.ReadFile("/proc/kallsyms")
		if err == nil && len(b) > 0 && !bytes.HasPrefix(b, []byte("0000000000000000")) && !bytes.HasPrefix(b, []byte("00000000 ")) {
			return nil
		}
		return errors.Join(err, errors.New("all are 0"))
	}}, attempt{"see keys that are not the zone's", func() error {
		b, err := os.ReadFile("/proc/keys")
		if strings.TrimSpace(string(b)) != "" {
			fmt.Printf("# keys: %q\n", b)
			return nil
		}
		return errors.Join(err, errors.New("there is none"))
	}}, attempt{"see processes that are not the zone's", func() error {
		names, err := filepath.Glob("/proc/[0-9]*/comm")
		for _, n := range names {
			switch b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) { // it may have ended
			case "nereid-agent", "kthreadd", "systemd-nspawn", "systemd-machine":
				return nil
			}
		}
		return errors.Join(err, errors.New("there is none"))
	}}, attempt{"get at the server's files by what the first process has open", func() error {
		fds, err := os.ReadDir("/proc/1/fd")
		for _, fd := range fds {
			to, err := os.Readlink("/proc/1/fd/" + fd.Name())
			if err != nil {
				continue
			}
			if strings.HasPrefix(to, "/") && to != "/dev/null" && to != "/dev/console" && to != "/dev/ptmx" {
				fmt.Printf("# the first process has %s\n", to)
				if _, err := os.ReadFile("/proc/1/fd/" + fd.Name() + "/../nereid-agent"); err == nil {
					return nil
				}
			}
		}
		return errors.Join(err, errors.New("nothing leads there"))
	}})
}
