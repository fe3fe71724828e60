package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// dropped are module directories, below kernel/, that no server in a rack has
// hardware for: sound, television, radio, desktop graphics, sensors of phones.
// Everything else of the kernel package stays.
var dropped = []string{
	"sound", "drivers/media", "drivers/staging", "drivers/iio", "drivers/comedi", "drivers/bluetooth", "drivers/nfc",
	"drivers/net/wireless", "drivers/net/ieee802154", "drivers/net/arcnet", "drivers/net/hamradio", "drivers/net/wwan", "drivers/net/can",
	"drivers/gpu/drm/amd", "drivers/gpu/drm/i915", "drivers/gpu/drm/nouveau", "drivers/gpu/drm/radeon", "drivers/gpu/drm/xe", "drivers/gpu/drm/gma500",
	"drivers/input/joystick", "drivers/input/tablet", "drivers/input/touchscreen", "drivers/isdn", "drivers/parport", "drivers/pcmcia",
	"drivers/soundwire", "drivers/accel", "drivers/mmc", "drivers/memstick", "drivers/usb/gadget", "drivers/video", "drivers/auxdisplay", "drivers/w1",
	"net/bluetooth", "net/mac80211", "net/wireless", "net/mac802154", "net/ieee802154", "net/nfc", "net/ax25", "net/rose", "net/netrom", "net/can", "net/appletalk", "net/6lowpan",
	"fs/affs", "fs/befs", "fs/hfs", "fs/hfsplus", "fs/jffs2", "fs/ubifs", "fs/ocfs2", "fs/gfs2", "fs/f2fs", "fs/nilfs2", "fs/jfs", "fs/ufs", "fs/minix", "fs/omfs", "fs/orangefs", "fs/bcachefs",
}

// kernelTree unpacks the kernel package: OUT/vmlinuz, OUT/tree/usr/lib/modules/RELEASE
// with plain .ko files (a squashfs packs them better than xz does one by one, and
// loading one costs a third), ZFS below updates/, and what depmod makes of it.
func (b *build) kernelTree(ctx context.Context, mods made) (made, error) {
	pkgs := b.pkgs["kernel"]
	inputs := append([]string{"recipe 1", "dropped " + strings.Join(dropped, " ")}, digests(pkgs)...)
	for _, name := range zfsModules {
		f, err := mods.digest(name + ".ko")
		if err != nil {
			return made{}, err
		}
		inputs = append(inputs, f.Name+" "+f.SHA256)
	}
	st := stage{name: "kernel-tree", what: "kernel " + b.list.Kernel + " and its modules", inputs: inputs, packages: pkgs}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		if err := b.debs.fetch(ctx, r, pkgs); err != nil {
			return err
		}
		deb := filepath.Join(scratch, "deb")
		for _, p := range pkgs {
			if err := r.run(ctx, "dpkg-deb", "-x", b.debs.path(p), deb); err != nil {
				return fmt.Errorf("unpack %s: %w", p.Name, err)
			}
		}
		if err := os.Rename(filepath.Join(deb, "boot", "vmlinuz-"+b.list.Kernel), filepath.Join(out, "vmlinuz")); err != nil {
			return err
		}
		return b.plantModules(ctx, r, deb, out, mods)
	}
	return b.stages.do(ctx, st)
}

func (b *build) plantModules(ctx context.Context, r *runner, deb, out string, mods made) error {
	rel := filepath.Join("usr/lib/modules", b.list.Kernel)
	dst := filepath.Join(out, "tree", rel)
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	src := filepath.Join(deb, rel)
	if _, err := os.Stat(src); errors.Is(err, fs.ErrNotExist) {
		src = filepath.Join(deb, "lib/modules", b.list.Kernel)
	}
	if err := os.Rename(src, dst); err != nil {
		return err
	}
	for _, d := range dropped {
		if err := os.RemoveAll(filepath.Join(dst, "kernel", d)); err != nil {
			return err
		}
	}
	for _, link := range []string{"build", "source"} {
		if err := os.RemoveAll(filepath.Join(dst, link)); err != nil {
			return err
		}
	}
	if err := unpackModules(ctx, r, dst); err != nil {
		return err
	}
	updates := filepath.Join(dst, "updates")
	if err := os.MkdirAll(updates, 0o755); err != nil {
		return err
	}
	for _, name := range zfsModules {
		if err := linkOrCopy(mods.file(name+".ko"), filepath.Join(updates, name+".ko")); err != nil {
			return err
		}
	}
	// depmod looks below BASE/lib/modules; the link is for it alone, as a layer
	// with a directory /lib would hide the base's link of that name.
	link := filepath.Join(out, "tree", "lib")
	if err := os.Symlink("usr/lib", link); err != nil {
		return err
	}
	if err := r.run(ctx, "depmod", "-b", filepath.Join(out, "tree"), b.list.Kernel); err != nil {
		return fmt.Errorf("index modules: %w", err)
	}
	return os.Remove(link)
}

// unpackModules replaces every .ko.xz below dir by its plain .ko.
func unpackModules(ctx context.Context, r *runner, dir string) error {
	var packed []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.HasSuffix(p, ".ko.xz") {
			packed = append(packed, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	const perRun = 400
	for len(packed) > 0 {
		n := min(perRun, len(packed))
		if err := r.run(ctx, "xz", append([]string{"-d"}, packed[:n]...)...); err != nil {
			return fmt.Errorf("unpack modules: %w", err)
		}
		packed = packed[n:]
	}
	return nil
}

// kernelLayer packs the module tree.
func (b *build) kernelLayer(ctx context.Context, tree made) (made, error) {
	epoch, err := b.epochOf("kernel")
	if err != nil {
		return made{}, err
	}
	st := stage{
		name: "kernel", what: "kernel.squashfs: the modules",
		inputs: append([]string{"tree " + tree.key, fmt.Sprint("epoch ", epoch)}, squashOptions...),
	}
	st.run = func(ctx context.Context, r *runner, _, out string) error {
		return squash(ctx, r, filepath.Join(tree.dir, "tree"), filepath.Join(out, "kernel.squashfs"), epoch)
	}
	return b.stages.do(ctx, st)
}
