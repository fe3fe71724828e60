package sysinfo

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"

	"nereid/api"
)

// sectorBytes is the unit of /sys/block/*/size, whatever the disk's own block size.
const sectorBytes = 512

// notDisks are the beginnings of the names of block devices that are made of
// other devices or of memory, or are optical, floppy or flash translation devices.
var notDisks = []string{"loop", "ram", "zram", "dm-", "md", "zd", "sr", "fd", "nbd", "mtdblock", "drbd", "bcache", "rbd"}

// disks lists the disks, by kernel name, shorter names first.
func (r *Reader) disks(ctx context.Context, t tree) ([]api.Disk, error) {
	var inUse map[string]string
	if r.InUse != nil {
		inUse = r.InUse(ctx)
	}
	ids, users := t.diskIDs(), t.users()
	disks := []api.Disk{}
	seqs := map[string]string{}
	for _, name := range t.names(t.sys("block")) {
		if slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		dir := t.sys("block", name)
		device := t.real(filepath.Join(dir, "device"))
		bytes := t.number(filepath.Join(dir, "size")) * sectorBytes
		// No size: an empty card reader. Hidden: one path of a multipath NVMe disk.
		if device == "" || bytes <= 0 || t.number(filepath.Join(dir, "hidden")) == 1 {
			continue
		}
		d := api.Disk{
			Name:       name,
			ID:         ids[name],
			Model:      t.text(filepath.Join(dir, "device", "model")),
			Serial:     t.serial(dir),
			WWN:        t.wwn(dir),
			Transport:  transport(name, device),
			SizeBytes:  bytes,
			BlockBytes: int(t.number(filepath.Join(dir, "queue", "physical_block_size"))),
			SolidState: t.text(filepath.Join(dir, "queue", "rotational")) == "0",
			Removable:  t.number(filepath.Join(dir, "removable")) == 1,
			ReadOnly:   t.number(filepath.Join(dir, "ro")) == 1,
			InUseBy:    cmp.Or(inUse[name], t.inUseBy(dir, users)),
		}
		seqs[name] = t.text(filepath.Join(dir, "diskseq"))
		if d.InUseBy == "" {
			d.Content = r.look(ctx, name, seqs[name])
		}
		disks = append(disks, d)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.keep(seqs)
	slices.SortFunc(disks, func(a, b api.Disk) int {
		return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return disks, nil
}

// look says what a disk holds, from memory when it was looked into already. A
// disk that cannot be read is not blank for anybody.
func (r *Reader) look(ctx context.Context, name, seq string) string {
	if r.Content == nil {
		return ""
	}
	r.mu.Lock()
	e, ok := r.content[name]
	r.mu.Unlock()
	if ok && e.seq == seq {
		return e.text
	}
	text, err := r.Content(ctx, name)
	if err != nil {
		return "something that cannot be read (" + err.Error() + ")"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.content == nil {
		r.content = map[string]contentEntry{}
	}
	r.content[name] = contentEntry{seq, text}
	return text
}

// keep forgets the contents of disks that are gone.
func (r *Reader) keep(seqs map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, e := range r.content {
		if seq, ok := seqs[name]; !ok || seq != e.seq {
			delete(r.content, name)
		}
	}
}

// serial is where each driver puts a disk's serial number: virtio beside the
// disk, NVMe and MMC with the device, SCSI in VPD page 0x80 (SPC-4, 7.8.13: four
// bytes of header, then text).
func (t tree) serial(dir string) string {
	if s := cmp.Or(t.text(filepath.Join(dir, "serial")), t.text(filepath.Join(dir, "device", "serial"))); s != "" {
		return s
	}
	if page := t.text(filepath.Join(dir, "device", "vpd_pg80")); page != "" {
		if i := strings.LastIndexFunc(page, func(c rune) bool { return c < ' ' || c > '~' }); i >= 0 {
			page = page[i+1:]
		}
		return strings.TrimSpace(page)
	}
	return ""
}

// transport tells how a disk is attached from its name and its place in /sys/devices.
func transport(name, device string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	}
	for _, m := range []struct{ part, name string }{
		{"/usb", "usb"}, {"/end_device-", "sas"}, {"/ata", "sata"}, {"/rport-", "fc"}, {"/session", "iscsi"}, {"/virtio", "virtio"},
	} {
		if strings.Contains(device, m.part) {
			return m.name
		}
	}
	if strings.HasPrefix(name, "sd") {
		return "scsi"
	}
	return ""
}

// idRank orders the kinds of names udev makes below /dev/disk/by-id: those the
// disk itself carries before those made of model and serial.
func idRank(id string) int {
	for i, p := range []string{"wwn-", "nvme-eui.", "nvme-uuid.", "scsi-3", "ata-", "nvme-", "virtio-", "scsi-", "mmc-", "usb-"} {
		if strings.HasPrefix(id, p) {
			return i
		}
	}
	return 100
}

// diskIDs maps kernel names to the best name udev made for the disk.
func (t tree) diskIDs() map[string]string {
	ids := map[string]string{}
	dir := filepath.Join(t.Dev, "disk", "by-id")
	for _, id := range t.names(dir) {
		target := t.real(filepath.Join(dir, id))
		if target == "" {
			continue
		}
		name := filepath.Base(target)
		if old, ok := ids[name]; !ok || idRank(id) < idRank(old) {
			ids[name] = id
		}
	}
	return ids
}

// users maps device numbers ("8:1") and device names ("sda1") to the mount or swap that uses them.
func (t tree) users() map[string]string {
	users := map[string]string{}
	// The kernel writes these four as octal (fs/seq_file.c: mangle_path).
	octal := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(t.text(t.proc("self", "mountinfo"))) {
		// proc_pid_mountinfo(5): id parent major:minor root mountpoint ... - type source options
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		use := "mount " + octal.Replace(f[4])
		if _, ok := users[f[2]]; !ok {
			users[f[2]] = use
		}
		if i := slices.Index(f, "-"); i > 0 && i+2 < len(f) && strings.HasPrefix(f[i+2], "/dev/") {
			if real := t.real(filepath.Join(t.Dev, strings.TrimPrefix(f[i+2], "/dev/"))); real != "" {
				users[filepath.Base(real)] = use
			}
		}
	}
	for line := range strings.Lines(t.text(t.proc("swaps"))) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "/dev/") {
			users[filepath.Base(f[0])] = "swap"
		}
	}
	return users
}

// inUseBy says what uses the disk in dir or one of its partitions.
func (t tree) inUseBy(dir string, users map[string]string) string {
	dirs := []string{dir}
	for _, name := range t.names(dir) {
		if t.exists(filepath.Join(dir, name, "partition")) {
			dirs = append(dirs, filepath.Join(dir, name))
		}
	}
	for _, d := range dirs {
		if u := cmp.Or(users[t.text(filepath.Join(d, "dev"))], users[filepath.Base(d)]); u != "" {
			return u
		}
		for _, h := range t.names(filepath.Join(d, "holders")) {
			kind := "device"
			if strings.HasPrefix(h, "dm-") {
				kind, h = "dm", cmp.Or(t.text(t.sys("block", h, "dm", "name")), h)
			} else if strings.HasPrefix(h, "md") {
				kind = "md"
			}
			return kind + " " + h
		}
	}
	return ""
}
