package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// edge is how much of a disk's beginning and end is looked at. Every file
// system, RAID and volume manager in use has its signature there, so that a disk
// whose edges are zeros is blank.
const edge = 1 << 20

// signature is bytes at a place that tell what a disk carries. They are only for
// the words: what is not recognised is foreign data too.
type signature struct {
	name string
	at   int64 // from the end when negative
	is   string
}

var signatures = []signature{
	{"an LVM physical volume", 512 + 24, "LVM2 001"},
	{"an LVM physical volume", 24, "LVM2 001"},
	{"LUKS encrypted data", 0, "LUKS\xba\xbe"},
	{"a Linux md RAID member", 4096, "\xfc\x4e\x2b\xa9"},
	{"a Linux md RAID member", 0, "\xfc\x4e\x2b\xa9"},
	{"a Linux md RAID member", -8192, "\xfc\x4e\x2b\xa9"},
	{"a Linux md RAID member", -65536, "\xfc\x4e\x2b\xa9"},
	{"a Linux md RAID member", -131072, "\xfc\x4e\x2b\xa9"},
	{"an XFS file system", 0, "XFSB"},
	{"an ext2, ext3 or ext4 file system", 1080, "\x53\xef"},
	{"a Btrfs file system", 0x10040, "_BHRfS_M"},
	{"an NTFS file system", 3, "NTFS    "},
	{"an exFAT file system", 3, "EXFAT   "},
	{"a FAT file system", 54, "FAT1"},
	{"a FAT file system", 82, "FAT32   "},
	{"an ISO 9660 file system", 0x8001, "CD001"},
	{"Linux swap space", 4086, "SWAPSPACE2"},
	{"a bcache device", 4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"a Ceph BlueStore device", 0, "bluestore block device"},
	{"a DDF RAID member", -512, "\xde\x11\xde\x11"},
	{"an Intel RAID member", -1024, "Intel Raid ISM Cfg Sig. "},
	{"an F2FS file system", 1024, "\x10\x20\xf5\xf2"},
	{"a squashfs file system", 0, "hsqs"},
}

// found is what a disk carries.
type found struct {
	text   []string // what was recognised, in words
	parts  []partition
	labels []zfsLabel
	mark   *mark
	// blank: nothing but zeros, and perhaps a mark.
	blank bool
	// bare: nothing but zeros, perhaps a mark, and a GPT with only ZFS partitions.
	bare bool
}

// examine looks at the edges of a disk, at its partition table and at ZFS labels.
func examine(r io.ReaderAt, size int64) (found, error) {
	var f found
	head := make([]byte, min(edge, size))
	tail := make([]byte, min(edge, size))
	if err := readAt(r, head, 0); err != nil {
		return f, err
	}
	if err := readAt(r, tail, size-int64(len(tail))); err != nil {
		return f, err
	}
	if len(head) >= markOffset+markSize {
		area := head[markOffset : markOffset+markSize]
		m, err := decodeMark(area)
		switch {
		case err == nil:
			f.mark = &m
			clear(area)
		case !errors.Is(err, errNoMark):
			f.text = append(f.text, "a damaged mark of an unfinished setup")
		}
	}
	f.blank = zeros(head) && zeros(tail)
	if f.blank {
		return f, nil
	}
	parts, gpt := parseGPT(head, size)
	f.parts = parts
	if gpt {
		f.text = append(f.text, partitionTable("GPT", len(parts)))
		// Tables of both ends lie within 32 KiB: 34 blocks of 512, 6 of 4096 bytes.
		const table = 32 << 10
		f.bare = zeros(head[min(table, len(head)):]) && zeros(tail[:max(0, len(tail)-table)]) &&
			!slices.ContainsFunc(parts, func(p partition) bool { return !p.zfs })
	} else if parts, mbr := parseMBR(head, size); mbr {
		f.parts = parts
		f.text = append(f.text, partitionTable("DOS", len(parts)))
	} else if len(tail) >= 4096 && (bytes.HasPrefix(tail[len(tail)-512:], []byte("EFI PART")) || bytes.HasPrefix(tail[len(tail)-4096:], []byte("EFI PART"))) {
		f.text = append(f.text, "the backup of a GPT partition table")
		f.bare = zeros(head) && zeros(tail[:max(0, len(tail)-32<<10)])
	}
	for _, s := range signatures {
		b, at := head, s.at
		if at < 0 {
			b, at = tail, int64(len(tail))+at
		}
		if at >= 0 && at <= int64(len(b)) && bytes.HasPrefix(b[at:], []byte(s.is)) && !slices.Contains(f.text, s.name) {
			f.text = append(f.text, s.name)
		}
	}
	if err := f.findLabels(r, size); err != nil {
		return f, err
	}
	if len(f.text) == 0 {
		f.text = []string{"data of an unknown kind"}
	}
	return f, nil
}

// findLabels looks for ZFS labels on the whole disk and on each partition.
func (f *found) findLabels(r io.ReaderAt, size int64) error {
	list := make([]byte, labelListSize)
	for i, p := range append([]partition{{start: 0, end: size}}, f.parts...) {
		end := p.start + (p.end-p.start)&^(labelSize-1)
		for _, at := range []int64{p.start, p.start + labelSize, end - 2*labelSize, end - labelSize} {
			if at < p.start || at+labelSize > p.end {
				continue
			}
			if err := readAt(r, list, at+labelListOffset); err != nil {
				return err
			}
			l, ok := parseLabel(list)
			if !ok || slices.Contains(f.labels, l) {
				continue
			}
			if i == 0 {
				f.bare = false
			}
			f.labels = append(f.labels, l)
			if l.auxiliary() {
				f.text = append(f.text, "a spare or cache device of a ZFS pool")
			} else {
				f.text = append(f.text, "a disk of the ZFS pool "+strconv.Quote(l.Pool))
			}
		}
	}
	return nil
}

// leftover reports whether a disk carries a mark of this server and besides it
// nothing but what the marked setup or reset leaves when it is cut short.
func (f found) leftover(server string) bool {
	if f.mark == nil || f.mark.Server != server || server == "" {
		return false
	}
	if f.blank {
		return true
	}
	if !f.bare {
		return false
	}
	for _, l := range f.labels {
		if l.auxiliary() {
			continue
		}
		if l.Pool != f.mark.Pool || f.mark.Kind == markReset && strconv.FormatUint(l.GUID, 10) != f.mark.ID {
			return false
		}
	}
	return true
}

// foreign is what the disk carries that this server may not overwrite by
// itself, in words; empty when there is nothing.
func (f found) foreign(server string) string {
	if f.leftover(server) || f.blank && f.mark == nil {
		return ""
	}
	text := f.text
	if f.mark != nil {
		text = append(slices.Clone(text), fmt.Sprintf("a mark of an unfinished %s of server %s", f.mark.Kind, f.mark.Server))
	}
	return strings.Join(text, " and ")
}

// Content says what foreign data the disk with this kernel name carries, empty
// when it is blank or carries only the remains of this server's own unfinished
// setup. It reads about 2 MiB and changes nothing. See sysinfo.Reader.Content.
func (s *Storage) Content(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	d, err := s.open(name, reading)
	if err != nil {
		return "", err
	}
	defer d.Close()
	f, err := examine(d, d.size)
	if err != nil {
		return "", fmt.Errorf("look into disk %s: %w", name, err)
	}
	return f.foreign(s.UUID), nil
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("read %d bytes at %d: %w", len(b), at, err)
	}
	return nil
}

func zeros(b []byte) bool {
	var z [4096]byte
	for len(b) > len(z) {
		if !bytes.Equal(b[:len(z)], z[:]) {
			return false
		}
		b = b[len(z):]
	}
	return bytes.Equal(b, z[:len(b)])
}
