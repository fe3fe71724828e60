package storage

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// access is what a disk is opened for.
type access int

const (
	reading   access = iota
	exclusive        // writing; the kernel refuses when the disk or a part of it is mounted, in a pool, in md or dm
	marking          // writing the mark of a disk that is in a pool of ours
)

// device is an open disk.
type device struct {
	*os.File
	name string
	size int64
	hook func(step string) error // of the Storage
}

// path puts the root before an absolute path.
func (s *Storage) path(elem ...string) string {
	return filepath.Join(append([]string{"/", s.Root}, elem...)...)
}

func (s *Storage) open(name string, a access) (*device, error) {
	flag := os.O_RDONLY
	switch a {
	case exclusive:
		// Without O_CREATE, O_EXCL on a block device claims it (open(2)).
		flag = os.O_RDWR | os.O_EXCL
	case marking:
		flag = os.O_RDWR
	}
	if name == "" || name != filepath.Base(name) {
		return nil, fmt.Errorf("open disk %q: want a kernel name as sda", name)
	}
	f, err := os.OpenFile(s.path("dev", name), flag, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk %s: %w", name, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open disk %s: %w", name, err)
	}
	d := &device{f, name, size, s.hook}
	d.fresh()
	return d, nil
}

// writeMark puts m on the disk and waits until it is there.
func (d *device) writeMark(m mark) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	return d.put(b)
}

// clearMark removes a mark of this server; anything else at its place stays.
func (d *device) clearMark(server string) error {
	b := make([]byte, markSize)
	if err := readAt(d, b, markOffset); err != nil {
		return fmt.Errorf("read mark of disk %s: %w", d.name, err)
	}
	if m, err := decodeMark(b); err != nil || m.Server != server {
		return nil
	}
	return d.put(make([]byte, markSize))
}

func (d *device) put(b []byte) error {
	if _, err := d.WriteAt(b, markOffset); err != nil {
		return fmt.Errorf("write mark of disk %s: %w", d.name, err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write mark of disk %s: %w", d.name, err)
	}
	return nil
}

// edge is how much of a partition's beginning and end is wiped.
const edge = 1 << 20

// wipe writes zeros over the first and last MiB of every partition and wherever
// examine looks, but not over the mark. The edges of the disk come last, so that
// a wipe that is cut short finds the partitions again.
func (d *device) wipe(f found) error {
	var spans []span
	for _, p := range f.parts {
		spans = append(spans, span{p.start, min(p.start+edge, p.end)}, span{max(p.end-edge, p.start), p.end})
	}
	spans = append(spans, span{d.size - lostTailFrom, d.size - lostTailTo})
	for _, from := range farStarts {
		spans = append(spans, span{from, from + lostHead})
	}
	for _, at := range [][]span{spans, {{0, headEdge}, {d.size - tailEdge, d.size}}} {
		for _, s := range at {
			if err := d.zero(max(s.start, 0), min(s.end, d.size)); err != nil {
				return fmt.Errorf("wipe disk %s: %w", d.name, err)
			}
		}
		if err := d.Sync(); err != nil {
			return fmt.Errorf("wipe disk %s: %w", d.name, err)
		}
	}
	return nil
}

// span is a part of a disk, in bytes; end is exclusive.
type span struct{ start, end int64 }

// zero makes everything from start to end zeros, leaving out the mark. What is
// zeros already is not written.
func (d *device) zero(start, end int64) error {
	z, b := make([]byte, edge), make([]byte, edge)
	for at := start; at < end; {
		n := min(int64(len(z)), end-at)
		if at < markOffset {
			n = min(n, markOffset-at)
		} else if at < markOffset+markSize {
			at = markOffset + markSize
			continue
		}
		if err := readAt(d, b[:n], at); err != nil || !zeros(b[:n]) {
			if d.hook != nil {
				if err := d.hook(fmt.Sprintf("write zeros at %d of %s", at, d.name)); err != nil {
					return err
				}
			}
			if _, err := d.WriteAt(z[:n], at); err != nil {
				return err
			}
		}
		at += n
	}
	return nil
}

// diskOf is the kernel name of the disk that a vdev path as
// /dev/disk/by-id/wwn-0x1-part1 or /dev/sda1 lies on, and whether the path names
// a partition of it.
func (s *Storage) diskOf(path string) (name string, part bool) {
	if real, err := filepath.EvalSymlinks(s.path(path)); err == nil {
		path = real
	}
	name = filepath.Base(path)
	disk := strings.TrimRight(name, "0123456789")
	if disk == name {
		return name, false
	}
	// Disks whose names end in a digit separate the partition with a p (linux: disk_name).
	if base, ok := strings.CutSuffix(disk, "p"); ok && base != "" && base[len(base)-1] >= '0' && base[len(base)-1] <= '9' {
		return base, true
	}
	if strings.HasPrefix(name, "nvme") || strings.HasPrefix(name, "mmcblk") || strings.HasPrefix(name, "loop") {
		return name, false
	}
	return disk, true
}
