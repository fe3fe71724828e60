package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OpenVolume implements Volumes. Links below /dev/zvol are udev's: they come late, and one
// that is left of a volume before may lead to another's device. The kernel says whose
// device it is.
func (ZFS) OpenVolume(ctx context.Context, name string) (_ *os.File, err error) {
	path := filepath.Join(volumeDir, name)
	if err := awaitDevice(ctx, path); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	whose, err := volumeName(f)
	if err == nil && whose != name {
		err = fmt.Errorf("%s leads to the device of %s", path, whose)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open volume %s: %w", name, err), f.Close())
	}
	return f, nil
}

// awaitDevice waits until udev has made a link to a device (udevadm(8), wait).
func awaitDevice(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "udevadm", "wait", "--timeout=60", path)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("wait for %s: %s (%w)", path, strings.Join(strings.Fields(string(out)), " "), err)
	}
	return nil
}

// volumeName asks the kernel of which volume a device is: BLKZNAME, which is
// _IOR(0x12, 125, char[256]) (include/sys/zvol.h, ZFS_MAX_DATASET_NAME_LEN).
func volumeName(f *os.File) (string, error) {
	const blkzname = 2<<30 | 256<<16 | 0x12<<8 | 125
	var name [256]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkzname, uintptr(unsafe.Pointer(&name))); errno != 0 {
		return "", fmt.Errorf("ask of which volume it is: %w", errno)
	}
	text, _, _ := bytes.Cut(name[:], []byte{0})
	return string(text), nil
}
