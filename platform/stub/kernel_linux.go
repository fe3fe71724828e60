package stub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// kernel is Linux as PID 1 sees it.
type kernel struct {
	console *Console
	args    cmdline
	restore func() error // undoes what Boot changed of the kernel's settings
	drivers *drivers
}

// needed are the modules a root filesystem is made of.
var needed = []string{"loop", "squashfs", "overlay"}

// Drivers loads drivers for every device there is.
func (k *kernel) Drivers(ctx context.Context) error {
	if k.drivers == nil {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return fmt.Errorf("uname: %w", err)
		}
		release := unix.ByteSliceToString(u.Release[:])
		m, err := readModules(filepath.Join("/lib/modules", release))
		if err != nil {
			return &final{problem("The drivers for kernel "+release+" cannot be read", err.Error(), "kernel and initrd may be of different platforms", err)}
		}
		k.drivers = &drivers{
			modules: m, args: k.args, bus: "/sys/bus", insert: insertModule,
			tried: map[string]bool{}, seen: map[string]bool{},
			failed: func(module string, err error) { k.console.Say("Driver %s: %v; going on without it.", module, err) },
		}
	}
	if err := k.drivers.walk(ctx); err != nil {
		return err
	}
	for _, m := range needed {
		if err := k.drivers.named(m); err != nil {
			return problem("The initrd lacks what a root filesystem needs", err.Error(), "build the platform again", err)
		}
	}
	return nil
}

// insertModule is finit_module(2). The kernel unpacks compressed modules itself
// (CONFIG_MODULE_DECOMPRESS).
func insertModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), params, flags)
}

// Network configures the NIC the server booted from, while drivers for late
// devices are still being loaded.
func (k *kernel) Network(ctx context.Context, n api.BootNetwork) error {
	return configure(ctx, n, k.console, patience{nic: 30 * time.Second, carrier: 30 * time.Second}, k.hotplug)
}

// hotplug loads the driver of a device that appeared.
func (k *kernel) hotplug(ctx context.Context, modalias string) error {
	if modalias == "" {
		return k.drivers.walk(ctx)
	}
	k.drivers.device(modalias)
	return nil
}

// Reboot restarts the server.
func (k *kernel) Reboot() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// Enter switches root and becomes /sbin/init.
func (k *kernel) Enter(root string) error {
	if k.restore != nil {
		if err := k.restore(); err != nil {
			k.console.Say("%s", sentence(err))
		}
	}
	for _, m := range []string{"/dev", "/proc", "/sys", "/run"} {
		to := filepath.Join(root, m)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
		if err := unix.Mount(m, to, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
	}
	old, err := os.Open("/")
	if err != nil {
		return err
	}
	defer old.Close()
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	if err := unix.Access("/sbin/init", unix.X_OK); err != nil {
		return fmt.Errorf("/sbin/init: %w", err)
	}
	if err := emptyInitramfs(old); err != nil {
		k.console.Say("The initrd's memory could not all be freed: %v.", err)
	}
	return unix.Exec("/sbin/init", append([]string{"/sbin/init"}, os.Args[1:]...), os.Environ())
}

// emptyInitramfs deletes the files of the old root, which is memory. Anything that
// is not a RAM filesystem is left alone.
func emptyInitramfs(old *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(old.Fd()), &st); err != nil {
		return err
	}
	if os.Getpid() != 1 || st.Type != unix.RAMFS_MAGIC && st.Type != unix.TMPFS_MAGIC {
		return errors.New("the old root is not an initramfs")
	}
	var dev unix.Stat_t
	if err := unix.Fstat(int(old.Fd()), &dev); err != nil {
		return err
	}
	return empty(int(old.Fd()), dev.Dev)
}

// empty deletes what is in a directory, staying on its filesystem.
func empty(dir int, dev uint64) error {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	errs := []error{err}
	for _, n := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Dev != dev {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			errs = append(errs, unix.Unlinkat(fd, n, 0))
			continue
		}
		sub, err := unix.Openat(fd, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, empty(sub, dev), unix.Close(sub))
		_ = unix.Unlinkat(fd, n, unix.AT_REMOVEDIR) // a mount point stays
	}
	return errors.Join(errs...)
}
