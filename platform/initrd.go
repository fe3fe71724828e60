package platform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"nereid/api"
)

// initrdDirs are the module directories an initrd holds whole: a server may boot
// from any Ethernet card the kernel drives.
var initrdDirs = []string{"kernel/drivers/net/ethernet/"}

// initrdNot are drivers of that directory for switches and adapters no server
// boots from, with their sizes the reason: switch ASICs and PC cards.
var initrdNot = []string{
	"kernel/drivers/net/ethernet/mellanox/mlxsw/", "kernel/drivers/net/ethernet/marvell/prestera/", "kernel/drivers/net/ethernet/microchip/",
	"kernel/drivers/net/ethernet/8390/axnet_cs.ko", "kernel/drivers/net/ethernet/8390/pcnet_cs.ko", "kernel/drivers/net/ethernet/amd/nmclan_cs.ko",
	"kernel/drivers/net/ethernet/fujitsu/", "kernel/drivers/net/ethernet/smsc/smc91c92_cs.ko", "kernel/drivers/net/ethernet/xircom/", "kernel/drivers/net/ethernet/3com/3c574_cs.ko", "kernel/drivers/net/ethernet/3com/3c589_cs.ko",
}

// initrdModules are the single modules an initrd holds besides: virtual NICs, the
// disks a platform may be read from, and what the root filesystem is made of.
var initrdModules = []string{
	"virtio_net", "vmxnet3", "hv_netvsc", "xen_netfront",
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ahci", "nvme",
	"loop", "squashfs", "overlay",
}

// initrdPre adds what drivers load on demand by modprobe(8), which an initrd has not:
// without its PHY driver r8169 refuses the NIC and tg3 runs it at reduced speed.
var initrdPre = map[string][]string{
	"r8169":    {"realtek"},
	"tg3":      {"broadcom"},
	"bcmgenet": {"broadcom"},
}

// initrdFile is one file of an initrd.
type initrdFile struct {
	name string // in the archive
	from string // on disk
	data []byte // instead of from
	size int64
}

// drivers packs the initrd's modules, with the firmware they name when there is a
// firmware layer: an archive of its own, so that a new stub does not cost the half
// minute of compressing them.
func (b *build) drivers(ctx context.Context, tree, firmware made) (made, error) {
	epoch, err := b.epochOf("kernel")
	if err != nil {
		return made{}, err
	}
	inputs := []string{"recipe 2", "tree " + tree.key, fmt.Sprint("epoch ", epoch)}
	inputs = append(inputs, initrdDirs...)
	inputs = append(inputs, initrdNot...)
	inputs = append(inputs, initrdModules...)
	for _, k := range sortedKeys(initrdPre) {
		inputs = append(inputs, k+" after "+strings.Join(initrdPre[k], " "))
	}
	if firmware.dir != "" {
		inputs = append(inputs, "firmware "+firmware.key)
	}
	st := stage{name: "drivers", what: "the initrd's drivers", inputs: inputs}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		files, err := b.initrdFiles(tree, firmware)
		if err != nil {
			return err
		}
		contributors(b.show, files)
		return packInitrd(ctx, r, scratch, filepath.Join(out, "drivers.img"), files, epoch)
	}
	return b.stages.do(ctx, st)
}

// initrd puts the archive of the stub, which is /init, before that of the drivers.
// The kernel unpacks one behind the other, and the boot's configuration as a third.
func (b *build) initrd(ctx context.Context, drivers made) (made, error) {
	stub, err := b.program(ctx, "nereid-stub", b.Stub)
	if err != nil {
		return made{}, err
	}
	epoch, err := b.epochOf("kernel")
	if err != nil {
		return made{}, err
	}
	inputs := []string{"recipe 2", "stub " + stub.SHA256, "drivers " + drivers.key, fmt.Sprint("epoch ", epoch)}
	st := stage{name: "initrd", what: "initrd.img: the stub and its drivers", inputs: inputs}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		files := []initrdFile{{name: "init", from: stub.path, size: stub.Size}}
		img := filepath.Join(out, "initrd.img")
		if err := packInitrd(ctx, r, scratch, img, files, epoch); err != nil {
			return err
		}
		return appendFile(img, drivers.file("drivers.img"))
	}
	return b.stages.do(ctx, st)
}

// packInitrd writes files as a compressed archive of a length that is a multiple
// of 4. One thread: zstd's output then depends on nothing but its input.
func packInitrd(ctx context.Context, r *runner, scratch, img string, files []initrdFile, epoch int64) error {
	raw := filepath.Join(scratch, "cpio")
	if err := writeInitrd(raw, files, epoch); err != nil {
		return err
	}
	if err := r.run(ctx, "zstd", "-q", "-19", "--single-thread", "-o", img, raw); err != nil {
		return fmt.Errorf("compress initrd: %w", err)
	}
	return padFile(img, 4)
}

// appendFile adds the content of from to the end of to.
func appendFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// initrdFiles chooses the modules and writes the reduced indexes for them.
func (b *build) initrdFiles(tree, firmware made) ([]initrdFile, error) {
	base := filepath.Join(tree.dir, "tree/usr/lib/modules", b.list.Kernel)
	x, chosen, err := chooseModules(base)
	if err != nil {
		return nil, fmt.Errorf("choose initrd modules: %w", err)
	}
	aliases, err := os.Open(filepath.Join(base, "modules.alias"))
	if err != nil {
		return nil, err
	}
	defer aliases.Close()
	alias, err := reduceAliases(aliases, chosen)
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(base, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	dir := "lib/modules/" + b.list.Kernel + "/"
	files := []initrdFile{
		{name: dir + "modules.dep", data: x.dep(chosen)},
		{name: dir + "modules.alias", data: alias},
		{name: dir + "modules.builtin", data: builtin},
	}
	blobs := map[string]bool{}
	for _, p := range chosen {
		from := filepath.Join(base, p)
		fi, err := os.Stat(from)
		if err != nil {
			return nil, err
		}
		files = append(files, initrdFile{name: dir + p, from: from, size: fi.Size()})
		if firmware.dir == "" {
			continue
		}
		names, err := firmwareOf(from)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			blobs[n] = true
		}
	}
	for _, n := range sortedKeys(blobs) {
		from := filepath.Join(firmware.dir, "tree/usr/lib/firmware", n)
		if fi, err := os.Stat(from); err == nil {
			files = append(files, initrdFile{name: "lib/firmware/" + n, from: from, size: fi.Size()})
		}
	}
	for i, f := range files {
		if f.data != nil {
			files[i].size = int64(len(f.data))
		}
	}
	return files, nil
}

// chooseModules picks the modules of an initrd out of a module directory.
func chooseModules(base string) (moduleIndex, []string, error) {
	dep, err := os.Open(filepath.Join(base, "modules.dep"))
	if err != nil {
		return moduleIndex{}, nil, err
	}
	defer dep.Close()
	x, err := parseDeps(dep)
	if err != nil {
		return x, nil, err
	}
	soft, err := os.Open(filepath.Join(base, "modules.softdep"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return x, nil, err
	}
	if err == nil {
		defer soft.Close()
		pre, err := parseSoftdeps(soft)
		if err != nil {
			return x, nil, err
		}
		x.harden(pre)
	}
	x.harden(initrdPre)
	chosen, err := x.closure(inInitrd)
	return x, chosen, err
}

func inInitrd(p string) bool {
	if slices.Contains(initrdModules, moduleName(p)) {
		return true
	}
	in := func(prefix string) bool { return strings.HasPrefix(p, prefix) }
	return slices.ContainsFunc(initrdDirs, in) && !slices.ContainsFunc(initrdNot, in)
}

// writeInitrd writes the archive: a console for the kernel to open, empty mount
// points, then the files by name.
func writeInitrd(path string, files []initrdFile, epoch int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var buf bytes.Buffer
	c := newCpio(&buf, epoch)
	for _, d := range []string{"dev", "proc", "sys", "run", "root"} {
		c.dir(d, 0o755)
	}
	c.char("dev/console", 0o600, 5, 1)
	slices.SortFunc(files, func(a, b initrdFile) int { return strings.Compare(a.name, b.name) })
	for _, e := range files {
		data, perm := e.data, uint32(0o644)
		if e.from != "" {
			if data, err = os.ReadFile(e.from); err != nil {
				return err
			}
		}
		if e.name == "init" {
			perm = 0o755
		}
		c.file(e.name, perm, data)
		if _, err := buf.WriteTo(f); err != nil {
			return err
		}
	}
	if err := c.close(); err != nil {
		return err
	}
	if _, err := buf.WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

// padFile appends zeros up to a multiple of n: another archive may follow this
// one in memory, and the kernel looks for it at 4-byte steps (init/initramfs.c).
func padFile(path string, n int64) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if rest := fi.Size() % n; rest != 0 {
		return os.Truncate(path, fi.Size()+n-rest)
	}
	return nil
}

// contributors prints what an initrd's bytes are, before compression.
func contributors(show *progress, files []initrdFile) {
	const top = 8
	var sum int64
	for _, f := range files {
		sum += f.size
	}
	bySize := slices.Clone(files)
	slices.SortFunc(bySize, func(a, b initrdFile) int { return int(b.size - a.size) })
	var parts []string
	for _, f := range bySize[:min(top, len(bySize))] {
		parts = append(parts, fmt.Sprintf("%s %s", filepath.Base(f.name), mb(f.size)))
	}
	show.say("%-12s   %s, %s before compression; the largest: %s", "", api.Plural(len(files), "file"), mb(sum), strings.Join(parts, ", "))
}
