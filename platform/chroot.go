package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// excludes are the paths dpkg leaves out of a root that lives in RAM.
var excludes = []string{
	"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*",
	"/usr/share/lintian/*", "/usr/share/bug/*", "/usr/share/common-licenses/*",
	"/usr/share/bash-completion/*", "/usr/share/zsh/*", "/usr/share/fish/*",
	"/usr/share/i18n/*", "/usr/share/pixmaps/*", "/usr/share/icons/*", "/usr/share/applications/*",
	"/usr/lib/*/gconv/*", "/usr/share/initramfs-tools/*", "/usr/lib/udev/hwdb.d/*",
}

// bootstrap makes a Debian root in dir of exactly these packages: the essential
// set and the roots with what they need, from a local repository, so that no
// mirror takes part. trusted=yes is right there and only there: every file has
// been checked against the digest that Debian's signed lists gave for it.
func (d debs) bootstrap(ctx context.Context, r *runner, suite, scratch, dir string, pkgs []Package, roots, excludes []string) error {
	repo := filepath.Join(scratch, "repo")
	if err := d.repository(ctx, r, suite, pkgs, repo); err != nil {
		return fmt.Errorf("make local repository: %w", err)
	}
	epoch, err := d.epoch(pkgs)
	if err != nil {
		return err
	}
	args := []string{
		"--mode=root", "--variant=essential", "--format=directory", "--architectures=" + debArch,
		"--include=" + strings.Join(roots, ","),
		`--aptopt=APT::Install-Recommends "false"`, "--dpkgopt=force-unsafe-io",
	}
	for _, x := range excludes {
		args = append(args, "--dpkgopt=path-exclude="+x)
	}
	args = append(args, suite, dir, "deb [trusted=yes] copy:"+repo+" ./")
	inner := &runner{log: r.log, path: r.path, tick: r.tick, env: append(slices.Clone(r.env), epochEnv(epoch))}
	if err := inner.isolated(ctx, "mmdebstrap", args...); err != nil {
		return fmt.Errorf("make chroot: %w", err)
	}
	return os.RemoveAll(repo)
}

func epochEnv(epoch int64) string { return "SOURCE_DATE_EPOCH=" + strconv.FormatInt(epoch, 10) }

// squash packs dir into a squashfs that depends on nothing but its content.
func squash(ctx context.Context, r *runner, dir, file string, epoch int64) error {
	at := strconv.FormatInt(epoch, 10)
	args := append([]string{dir, file}, squashOptions...)
	args = append(args, "-mkfs-time", at, "-all-time", at)
	if err := r.run(ctx, "mksquashfs", args...); err != nil {
		return fmt.Errorf("pack %s: %w", filepath.Base(file), err)
	}
	return nil
}

// squashOptions: zstd, which the kernel unpacks fastest for its size; no NFS
// export table; files in the order of their names.
var squashOptions = []string{"-noappend", "-no-progress", "-reproducible", "-no-exports", "-comp", "zstd", "-Xcompression-level", "15", "-b", "131072"}
