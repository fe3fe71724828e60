package platform

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// qemuRoots are the packages of the qemu layer, installed without recommends.
var qemuRoots = []string{"qemu-system-x86", "qemu-utils", "ovmf", "seabios", "swtpm", "swtpm-tools"}

// firmwarePackages hold the blobs that network and storage adapters load.
var firmwarePackages = []string{
	"firmware-bnx2", "firmware-bnx2x", "firmware-cavium", "firmware-intel-misc", "firmware-misc-nonfree",
	"firmware-myricom", "firmware-netronome", "firmware-netxen", "firmware-qlogic", "firmware-realtek",
}

// firmware makes the layer of firmware blobs: of the packages, only the files that
// a module of this kernel names.
func (b *build) firmware(ctx context.Context, tree made) (made, error) {
	pkgs := b.pkgs["firmware"]
	inputs := append([]string{"recipe 1", "tree " + tree.key}, digests(pkgs)...)
	inputs = append(inputs, squashOptions...)
	st := stage{name: "firmware", what: "firmware.squashfs: what the kernel's drivers load into adapters", inputs: inputs, packages: pkgs}
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
		src := filepath.Join(deb, "usr/lib/firmware")
		if _, err := os.Stat(src); err != nil {
			src = filepath.Join(deb, "lib/firmware")
		}
		if err := pickFirmware(filepath.Join(tree.dir, "tree"), src, filepath.Join(out, "tree/usr/lib/firmware")); err != nil {
			return err
		}
		epoch, err := b.debs.epoch(pkgs)
		if err != nil {
			return err
		}
		return squash(ctx, r, filepath.Join(out, "tree"), filepath.Join(out, "firmware.squashfs"), epoch)
	}
	return b.stages.do(ctx, st)
}

// pickFirmware copies from src to dst the firmware that modules below tree name.
func pickFirmware(tree, src, dst string) error {
	names := map[string]bool{}
	err := filepath.WalkDir(tree, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.HasSuffix(p, ".ko") {
			return err
		}
		list, err := firmwareOf(p)
		for _, n := range list {
			names[n] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	taken := 0
	for _, n := range sortedKeys(names) {
		if !filepath.IsLocal(n) {
			continue
		}
		found, err := filepath.Glob(filepath.Join(src, n)) // some modules name patterns
		if err != nil {
			continue
		}
		for _, from := range found {
			rel, err := filepath.Rel(src, from)
			if err != nil {
				return err
			}
			data, err := os.ReadFile(from) // follows links: the layer holds plain files
			if err != nil {
				continue
			}
			to := filepath.Join(dst, rel)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(to, data, 0o644); err != nil {
				return err
			}
			taken++
		}
	}
	if taken == 0 {
		return fmt.Errorf("pick firmware: none of the %d files the modules name is in the firmware packages", len(names))
	}
	return nil
}

// qemuScript installs the packages of a directory into the overlay of base and an
// empty directory, and cleans up; what is in the upper directory then is the layer.
// It runs in a mount namespace of its own, so nothing has to be unmounted.
const qemuScript = `set -eu
base=$1 work=$2
mkdir -p "$work/lower" "$work/upper" "$work/overlay" "$work/root"
mount -t squashfs -o loop,ro "$base" "$work/lower"
mount -t overlay overlay -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/overlay" "$work/root"
mkdir -p "$work/root/tmp/debs"
mount -t proc proc "$work/root/proc"
mount -t tmpfs tmpfs "$work/root/dev"
mknod -m 666 "$work/root/dev/null" c 1 3
mknod -m 444 "$work/root/dev/urandom" c 1 9
mount --bind "$work/repo" "$work/root/tmp/debs"
chroot "$work/root" sh -c 'dpkg --force-unsafe-io "$@" --unpack /tmp/debs/*.deb && dpkg --force-unsafe-io "$@" --configure -a' sh %s
umount "$work/root/tmp/debs"
rmdir "$work/root/tmp/debs"
`

// qemu makes the layer that adds virtual machines to base.
func (b *build) qemu(ctx context.Context, base made) (made, error) {
	pkgs := b.pkgs["qemu"]
	inputs := append([]string{"recipe 1", "base " + base.key, qemuScript}, digests(pkgs)...)
	inputs = append(inputs, rootRecipe()...)
	inputs = append(inputs, squashOptions...)
	st := stage{name: "qemu", what: fmt.Sprintf("qemu.squashfs: QEMU and %d packages", len(pkgs)), inputs: inputs, packages: pkgs}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		if err := b.debs.fetch(ctx, r, pkgs); err != nil {
			return err
		}
		if err := b.debs.repository(ctx, r, b.Suite, pkgs, filepath.Join(scratch, "repo")); err != nil {
			return err
		}
		epoch, err := b.debs.epoch(slices.Concat(pkgs, b.pkgs["base"]))
		if err != nil {
			return err
		}
		var flags []string
		for _, x := range excludes {
			flags = append(flags, "--path-exclude='"+x+"'")
		}
		inner := &runner{log: r.log, path: r.path, tick: r.tick, env: append(slices.Clone(r.env), epochEnv(epoch))}
		script := fmt.Sprintf(qemuScript, strings.Join(flags, " "))
		if err := inner.isolated(ctx, "sh", "-c", script, "qemu-layer", base.file("base.squashfs"), scratch); err != nil {
			return fmt.Errorf("install QEMU over base: %w", err)
		}
		upper := filepath.Join(scratch, "upper")
		if err := clean(upper); err != nil {
			return err
		}
		return squash(ctx, r, upper, filepath.Join(out, "qemu.squashfs"), epoch)
	}
	return b.stages.do(ctx, st)
}
