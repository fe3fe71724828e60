package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// zfsModules are the two modules OpenZFS has consisted of since 2.2.
var zfsModules = []string{"spl", "zfs"}

// moduleRoots is what the builder chroot holds besides the essential packages.
func moduleRoots(headers string) []string {
	return []string{headers, "zfs-dkms", "dkms", "build-essential", "kmod", "xz-utils", "ca-certificates"}
}

// modules compiles ZFS for one kernel. The key is the kernel's headers and the
// source of ZFS: a newer compiler or library of the same suite does not cost the
// minutes again; packages.json says with which the modules were made.
func (b *build) modules(ctx context.Context) (made, error) {
	pkgs := b.pkgs["modules"]
	headers := "linux-headers-" + b.list.Kernel
	h, err := find(pkgs, headers)
	if err != nil {
		return made{}, err
	}
	z, err := find(pkgs, "zfs-dkms")
	if err != nil {
		return made{}, err
	}
	b.zfs = upstream(z.Version)
	inputs := []string{"recipe 1", "flavour " + b.Flavour}
	for _, p := range pkgs {
		if strings.HasPrefix(p.Name, "linux-headers-") || strings.HasPrefix(p.Name, "linux-kbuild-") || p.Name == "zfs-dkms" {
			inputs = append(inputs, digests([]Package{p})...)
		}
	}
	st := stage{
		name: "modules", what: fmt.Sprintf("ZFS %s for Linux %s, compiled once; the next build takes it from the cache", b.zfs, b.list.Kernel),
		inputs: inputs, packages: pkgs,
	}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		if err := b.debs.fetch(ctx, r, pkgs); err != nil {
			return err
		}
		root := filepath.Join(scratch, "root")
		w := b.watchCompile(root, len(pkgs))
		b.show.follow(w.look)
		if err := b.debs.bootstrap(ctx, r, b.Suite, scratch, root, pkgs, moduleRoots(h.Name), nil); err != nil {
			return err
		}
		b.show.follow(nil) // nobody looks any more
		if err := w.keep(b.Cache); err != nil {
			return err
		}
		return b.takeModules(ctx, r, root, out)
	}
	return b.stages.do(ctx, st)
}

// watchCompile follows what the packages do in the chroot, whose time an earlier
// build may forecast.
func (b *build) watchCompile(root string, packages int) *compileWatch {
	earlier, err := readFigures(b.Cache)
	if err != nil {
		b.show.say("%-12s   %v; it is made again", "", err)
	}
	return &compileWatch{root: root, packages: packages, now: b.Now, earlier: earlier}
}

// takeModules copies the compiled modules out of the builder chroot, without
// debug data and without DKMS's signature, whose key is made anew in each chroot.
func (b *build) takeModules(ctx context.Context, r *runner, root, out string) error {
	for _, name := range zfsModules {
		rel := filepath.Join("usr/lib/modules", b.list.Kernel, "updates/dkms", name+".ko")
		if _, err := os.Stat(filepath.Join(root, rel+".xz")); err == nil {
			if err := r.run(ctx, "xz", "-d", filepath.Join(root, rel+".xz")); err != nil {
				return err
			}
		}
		if err := r.run(ctx, "chroot", root, "strip", "--strip-debug", "/"+rel); err != nil {
			return fmt.Errorf("take module %s from DKMS: %w", name, err)
		}
		if err := os.Rename(filepath.Join(root, rel), filepath.Join(out, name+".ko")); err != nil {
			return err
		}
	}
	return nil
}

// upstream returns the upstream part of a Debian version: [epoch:]upstream[-revision].
func upstream(version string) string {
	if _, rest, ok := strings.Cut(version, ":"); ok {
		version = rest
	}
	if i := strings.LastIndexByte(version, '-'); i > 0 {
		version = version[:i]
	}
	return version
}
