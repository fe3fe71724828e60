package storage

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mount implements Mounts: a mount that is attached nowhere (fsmount(2)) ends with its
// descriptor, so that neither a crash nor a second process can leave it behind or hold
// the dataset by it.
func (ZFS) Mount(ctx context.Context, name string, readOnly bool) (*os.File, error) {
	dir, err := mountZFS(ctx, name, readOnly)
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", name, err)
	}
	return os.NewFile(uintptr(dir), name), nil
}

func mountZFS(ctx context.Context, name string, readOnly bool) (int, error) {
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	conf, err := unix.Fsopen("zfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(conf)
	attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOATIME
	if readOnly {
		attr |= unix.MOUNT_ATTR_RDONLY // of this mount: others may write
	}
	if err := unix.FsconfigSetString(conf, "source", name); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	if err := unix.FsconfigCreate(conf); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	dir, err := unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return dir, nil
}
