package stub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Assemble stacks the layers under a tmpfs. Of its mounts only the root
// filesystem stays in sight; the others live as long as that does.
func (k *kernel) Assemble(ctx context.Context, layers []string, upper int64) (string, error) {
	root, err := stack(ctx, stackDir, layers, upper)
	if err != nil {
		return "", err
	}
	if err := unix.Unmount(layersDir, unix.MNT_DETACH); err != nil {
		k.console.Say("The layers stay in sight: %v.", err)
	}
	return root, nil
}

// stack mounts layers (files, lowest first) read-only below dir, a tmpfs of at
// most upper bytes above them, and returns the directory of the whole.
func stack(ctx context.Context, dir string, layers []string, upper int64) (root string, err error) {
	var mounted []string
	defer func() {
		// Overlay holds its layers by itself; a failed one holds nothing.
		for i := len(mounted) - 1; i >= 0; i-- {
			err = errors.Join(err, unix.Unmount(mounted[i], unix.MNT_DETACH))
		}
	}()
	mount := func(source, at, fs string, flags uintptr, opts string) error {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, at, fs, flags, opts); err != nil {
			return fmt.Errorf("mount %s: %w", fs, err)
		}
		mounted = append(mounted, at)
		return nil
	}
	var lower []string
	for i, layer := range layers {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		loop, err := attachLoop(layer)
		if err != nil {
			return "", fmt.Errorf("layer %d: %w", i, err)
		}
		at := filepath.Join(dir, fmt.Sprint(i))
		// The loop device goes with its last user: LO_FLAGS_AUTOCLEAR.
		err = errors.Join(mount(loop.Name(), at, "squashfs", unix.MS_RDONLY|unix.MS_NODEV, ""), loop.Close())
		if err != nil {
			return "", fmt.Errorf("layer %d: %w", i, err)
		}
		lower = append(lower, at)
	}
	rw := filepath.Join(dir, "rw")
	if err := mount("root", rw, "tmpfs", unix.MS_NODEV, fmt.Sprintf("mode=0755,size=%d", upper)); err != nil {
		return "", err
	}
	up, work := filepath.Join(rw, "upper"), filepath.Join(rw, "work")
	if err := errors.Join(os.Mkdir(up, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return "", err
	}
	root = filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	opts, err := overlayOptions(lower, up, work)
	if err != nil {
		return "", err
	}
	if err := unix.Mount("root", root, "overlay", 0, opts); err != nil {
		return "", fmt.Errorf("mount overlay: %w", err)
	}
	return root, nil
}

// overlayOptions writes the options of an overlay; lower is lowest first, while
// lowerdir= wants the highest first. Mount options end at a page (mount(2)).
func overlayOptions(lower []string, upper, work string) (string, error) {
	var dirs []string
	for i := len(lower) - 1; i >= 0; i-- {
		dirs = append(dirs, lower[i])
	}
	for _, d := range append([]string{upper, work}, dirs...) {
		if strings.ContainsAny(d, `,:\`) {
			return "", fmt.Errorf("overlay options: directory %q: want no comma, colon or backslash", d)
		}
	}
	opts := "lowerdir=" + strings.Join(dirs, ":") + ",upperdir=" + upper + ",workdir=" + work
	if len(opts) >= 4096 {
		return "", fmt.Errorf("overlay options: %d bytes: want less than 4096", len(opts))
	}
	return opts, nil
}

// attachLoop makes a file readable as a block device. It goes through the page
// cache, as direct I/O to a tmpfs is not possible.
func attachLoop(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		conf := unix.LoopConfig{Fd: uint32(file.Fd())}
		conf.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
		copy(conf.Info.File_name[:len(conf.Info.File_name)-1], filepath.Base(path))
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &conf)
		if err == nil {
			return dev, nil
		}
		err = errors.Join(fmt.Errorf("configure %s: %w", dev.Name(), err), dev.Close())
		if !errors.Is(err, unix.EBUSY) { // EBUSY: somebody else took it
			return nil, err
		}
	}
}
