package platform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"nereid/api"
)

// zoneRemoved are paths of a zone's root, as patterns, that would differ from build to
// build, hold an identity that clones must not share, or are caches.
var zoneRemoved = []string{
	"etc/ssh/ssh_host_*", "etc/.pwd.lock", "etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
	"etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/99mmdebstrap",
	"etc/resolv.conf", "etc/machine-id", "etc/hostname", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
	"var/lib/systemd/credential.secret", "var/lib/apt/lists/*", "var/lib/dpkg/*-old", "var/lib/dpkg/lock*", "var/lib/dpkg/triggers/Lock",
	"var/lib/dpkg/available", "var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/log/*", "var/tmp/*", "tmp/*", "run/*", "dev/*",
	"root/.*", "boot/*", "usr/lib/udev/hwdb.bin", "etc/udev/hwdb.bin",
	"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian",
}

// zoneMasked are systemd units that a zone has no use for: what they set belongs to the
// host, or was set before the first process.
var zoneMasked = []string{
	"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udev-trigger.service",
	"systemd-hwdb-update.service", "systemd-modules-load.service", "systemd-firstboot.service",
	"systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service", "systemd-network-generator.service",
	"systemd-timesyncd.service", "systemd-pstore.service", "systemd-rfkill.service", "systemd-rfkill.socket",
	"getty@.service", "getty-static.service", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
	"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount", "dev-mqueue.mount",
}

// zoneFiles is what an image holds besides packages.
var zoneFiles = map[string][]rootFile{
	ImageDebian: {
		{path: "etc/machine-id"}, // empty: systemd makes one for each clone
		{path: "etc/hosts", text: "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
		{path: "etc/fstab", text: "# The root file system is the zone's dataset.\n"},
		{path: "etc/localtime", link: "/usr/share/zoneinfo/Etc/UTC"},
		{path: "etc/apt/sources.list", text: "# deb http://MIRROR/debian SUITE main\n# deb http://MIRROR/debian-security SUITE-security main\n"},
		{path: "etc/systemd/system/default.target", link: "/usr/lib/systemd/system/multi-user.target"},
		{path: "etc/systemd/journald.conf.d/nereid.conf", text: "[Journal]\nRuntimeMaxUse=16M\nSystemMaxUse=64M\nReadKMsg=no\nAudit=no\n"},
		{path: "etc/motd", text: "A Nereid zone.\n"},
		{path: "etc/systemd/system/nereid-user-script.service", text: userScriptUnit},
		{path: "etc/systemd/system/multi-user.target.wants/nereid-user-script.service", link: "../nereid-user-script.service"},
	},
	ImageTiny: {
		{path: "etc/passwd", text: "root:*:0:0:root:/root:/bin/sh\nnobody:*:65534:65534:nobody:/:/bin/false\n"},
		{path: "etc/group", text: "root:x:0:\nnogroup:x:65534:\n"},
		{path: "etc/shadow", text: "root:*:19000:0:99999:7:::\n"},
		{path: "etc/os-release", text: "ID=busybox\nNAME=BusyBox\nPRETTY_NAME=\"BusyBox zone\"\n"},
		{path: "etc/hosts", text: "127.0.0.1 localhost\n::1 localhost\n"},
		// Messages go to the console; what waits there asks for nothing.
		{path: "etc/inittab", text: "::sysinit:/etc/rc\n::respawn:/bin/sleep 86400\n::shutdown:/bin/true\n"},
		{path: "etc/rc", text: "#!/bin/sh\nhostname -F /etc/hostname 2>/dev/null\necho \"zone $(hostname) is up\" >/dev/console\n" +
			"[ -x /run/nereid/user-script ] && /run/nereid/user-script >/dev/console 2>&1 &\n"},
	},
}

// zonePrograms are the programs by which a zone asks for its metadata. Nereid brings
// them, at each start, to where these links lead.
var zonePrograms = []string{"mdata-get", "mdata-put", "mdata-delete", "mdata-list"}

// userScriptUnit runs what the customer wants run at each start, beside all else.
const userScriptUnit = `[Unit]
Description=Scripts of the instance's metadata (sdc:operator-script, user-script)
ConditionPathExists=/run/nereid/user-script
After=local-fs.target network.target

[Service]
Type=exec
ExecStart=/run/nereid/user-script
StandardOutput=journal+console
StandardError=journal+console
`

// tinyDirs are the folders of the tiny image that no file is in.
var tinyDirs = []string{"dev", "proc", "sys", "run", "tmp", "root", "var/log", "var/tmp", "sbin", "usr/bin", "usr/sbin"}

// tinyTree unpacks busybox and links its commands to it.
func (b *build) tinyTree(ctx context.Context, r *runner, root string, pkgs []Package) error {
	unpacked := root + ".deb"
	if len(pkgs) != 1 {
		return fmt.Errorf("%d packages instead of busybox-static alone", len(pkgs))
	}
	if err := r.run(ctx, "dpkg-deb", "-x", b.debs.path(pkgs[0]), unpacked); err != nil {
		return err
	}
	defer os.RemoveAll(unpacked)
	busybox := ""
	for _, at := range []string{"usr/bin/busybox", "bin/busybox"} {
		if _, err := os.Stat(filepath.Join(unpacked, at)); err == nil {
			busybox = filepath.Join(unpacked, at)
			break
		}
	}
	if busybox == "" {
		return errors.New("the package busybox-static has no busybox")
	}
	list, err := r.output(ctx, busybox, "--list-full")
	if err != nil {
		return err
	}
	for _, d := range append(slices.Clone(tinyDirs), "bin") {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := linkOrCopy(busybox, filepath.Join(root, "bin", "busybox")); err != nil {
		return err
	}
	for name := range strings.FieldsSeq(list) {
		if name == "bin/busybox" || strings.Contains(name, "..") || strings.HasPrefix(name, "/") {
			continue
		}
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("/bin/busybox", p); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return errors.Join(os.Chmod(filepath.Join(root, "bin", "busybox"), 0o755), os.Chmod(filepath.Join(root, "tmp"), os.ModeSticky|0o777),
		os.Chmod(filepath.Join(root, "var/tmp"), os.ModeSticky|0o777), os.Chmod(filepath.Join(root, "root"), 0o700))
}

// furnishZone turns a fresh tree into an image's: caches, identities and logs gone, our
// files in, units masked, no password that anybody knows.
func furnishZone(name, root string) error {
	if err := cleanPaths(root, zoneRemoved); err != nil {
		return err
	}
	for _, f := range zoneFiles[name] {
		if err := putFile(root, f); err != nil {
			return err
		}
	}
	for _, p := range zonePrograms {
		if err := putFile(root, rootFile{path: "usr/sbin/" + p, link: "/run/nereid/" + p}); err != nil {
			return err
		}
	}
	if name == ImageTiny {
		return errors.Join(os.Chmod(filepath.Join(root, "etc/rc"), 0o755), os.Chmod(filepath.Join(root, "etc/shadow"), 0o600), lockRoot(filepath.Join(root, "etc/shadow")))
	}
	for _, u := range zoneMasked {
		if err := putFile(root, rootFile{path: "etc/systemd/system/" + u, link: "/dev/null"}); err != nil {
			return err
		}
	}
	return lockRoot(filepath.Join(root, "etc/shadow"))
}

// zoneTarOptions make a tar that depends on the tree alone: names sorted, one time at
// most, owners by number, capabilities kept.
var zoneTarOptions = []string{
	"--format=posix", "--sort=name", "--numeric-owner", "--one-file-system", "--xattrs", "--xattrs-include=security.capability",
	"--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--clamp-mtime",
}

// zoneZstd are the options of zstd: its output does not depend on the number of threads.
var zoneZstd = []string{"-q", "-T0", "-15"}

// packZone packs a tree, and says what its manifest says of the file.
func packZone(ctx context.Context, r *runner, root, file string, epoch int64) (api.ImageFile, error) {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return api.ImageFile{}, err
	}
	defer out.Close()
	args := append(slices.Clone(zoneTarOptions), "--mtime=@"+strconv.FormatInt(epoch, 10), "-C", root, "-cf", "-", ".")
	plain, err := pipeThrough(ctx, r, func(w io.Writer) error { return r.exec(ctx, nil, w, "tar", args...) }, out, "zstd", append(slices.Clone(zoneZstd), "-c")...)
	if err != nil {
		return api.ImageFile{}, fmt.Errorf("pack %s: %w", filepath.Base(file), err)
	}
	if err := out.Close(); err != nil {
		return api.ImageFile{}, err
	}
	packed, err := hashFile(file)
	if err != nil {
		return api.ImageFile{}, err
	}
	return api.ImageFile{
		Format: api.FormatTar, Compression: "zstd", Size: packed.Size, Digest: "sha256:" + packed.SHA256,
		UncompressedSize: plain.n, UncompressedDigest: "sha256:" + plain.digest,
	}, nil
}

// passed is what went through a pipe.
type passed struct {
	n      int64
	digest string
}

// pipeThrough gives what from writes to a program, and what that prints to out.
func pipeThrough(ctx context.Context, r *runner, from func(w io.Writer) error, out io.Writer, name string, args ...string) (passed, error) {
	in, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := from(w)
		w.CloseWithError(err) // nil: the end
		done <- err
	}()
	sum := sha256.New()
	var p passed
	// Its output goes to the log without the last line that people see: one program ticks.
	quiet := &runner{log: r.log, path: r.path, env: r.env}
	err := quiet.exec(ctx, io.TeeReader(in, io.MultiWriter(sum, writerFunc(func(b []byte) (int, error) { p.n += int64(len(b)); return len(b), nil }))), out, name, args...)
	in.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if ferr := <-done; ferr != nil && !errors.Is(ferr, io.ErrClosedPipe) {
		err = errors.Join(ferr, err)
	}
	p.digest = hex.EncodeToString(sum.Sum(nil))
	return p, err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
