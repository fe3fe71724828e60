package storage

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// What is looked at of a disk. Data has its signature near the beginning or the
// end of what it lies on, and that is the whole disk or a partition. The table
// of the partitions may be gone while the data is all there.
const (
	// headEdge: anything in it but zeros is data. It holds the partition tables,
	// and the beginnings of partitions at sector 63, 64, 128, 256 or 2048 of 512
	// bytes and at sector 63 of 4096, with a VMFS header or the second LUKS
	// header 1 MiB and more behind them.
	headEdge = 4 << 20
	// tailEdge: likewise. It holds the backup of a GPT, md superblocks 0.9 and
	// 1.0, the metadata of RAID controllers, and the last labels of a ZFS pool
	// whose partition filled the disk.
	tailEdge = 2 << 20
	// lostTail is where the ZFS partition of a whole disk ends, 8 MiB and the
	// backup GPT before the end of the disk: its last two labels are there.
	lostTailFrom = 11 << 20
	lostTailTo   = 8 << 20
	// lostHead is how much is read where a partition may have begun.
	lostHead = 72 << 10
)

// starts are where partitions begin within headEdge.
var starts = []int64{0, 34 * 512, 40 * 512, 63 * 512, 64 * 512, 128 * 512, 256 * 512, 63 * 4096, 1 << 20}

// farStarts are where partitions begin beyond headEdge: sector 2048 of 4096
// bytes, and behind the boot partitions that installers make, which are aligned to
// MiB (TestUsualLayouts has who makes which). Only signatures count there, because a
// disk that was cleared by its edges keeps other bytes of its former data. Looking at
// every MiB instead would cost a rotating disk a seek for each.
var farStarts = []int64{
	8 << 20, 16 << 20, 17 << 20, 33 << 20, 101 << 20, 117 << 20, 129 << 20, 409640 * 512, 257 << 20, 532520 * 512,
	301 << 20, 351 << 20, 501 << 20, 513 << 20, 551 << 20, 601 << 20, 1001 << 20, 1025 << 20, 1076 << 20, 1537 << 20,
	1625 << 20, 2049 << 20, 2050 << 20, 3124 << 20, 4097 << 20, 8193 << 20,
}

// signature is bytes at a place that tell what a disk carries.
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
	{"a bcache or bcachefs device", 4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"a Ceph BlueStore device", 0, "bluestore block device"},
	{"a DDF RAID member", -512, "\xde\x11\xde\x11"},
	{"an Intel RAID member", -1024, "Intel Raid ISM Cfg Sig. "},
	{"an F2FS file system", 1024, "\x10\x20\xf5\xf2"},
	{"a squashfs file system", 0, "hsqs"},
	{"LUKS encrypted data", 16 << 10, "SKUL\xba\xbe"},
	{"a VMFS volume", 1 << 20, "\x0d\xd0\x01\xc0"},
	{"a VMFS volume", 2 << 20, "\x5e\xf1\xab\x2f"},
	{"an APFS container", 32, "NXSB"},
	{"a BitLocker volume", 3, "-FVE-FS-"},
	{"an Oracle ASM disk", 32, "ORCLDISK"},
	{"a JFS file system", 32 << 10, "JFS1"},
	{"a ReiserFS file system", 0x10034, "ReIsEr"},
	{"a GFS2 file system", 0x10000, "\x01\x16\x19\x70"},
	{"a UFS file system", 0x10000 + 1372, "\x19\x01\x54\x19"},
}

// in reports whether b, which begins where the data would begin or for negative
// places ends where it would end, has the signature.
func (s signature) in(b []byte) bool {
	at := s.at
	if at < 0 {
		at += int64(len(b))
	}
	return at >= 0 && at <= int64(len(b)) && bytes.HasPrefix(b[at:], []byte(s.is))
}

// recognise puts what the edges carry into words. They are only words: what is
// not recognised there is foreign data too.
func (f *found) recognise(head, tail []byte) {
	for _, s := range signatures {
		if s.at < 0 {
			if s.in(tail) {
				f.say(s.name)
			}
			continue
		}
		for _, from := range starts {
			if from <= int64(len(head)) && s.in(head[from:]) {
				f.say(s.name + where(from))
				break
			}
		}
	}
}

// findLost looks where a partition of a lost table began or ended.
func (f *found) findLost(r io.ReaderAt, head, tail []byte, size int64) error {
	f.scanLabels(head)
	f.scanLabels(tail)
	if size >= 2*lostTailFrom {
		end := make([]byte, lostTailFrom-lostTailTo)
		if err := readAt(r, end, size-lostTailFrom); err != nil {
			return err
		}
		f.scanLabels(end)
	}
	b := make([]byte, lostHead)
	for _, from := range farStarts {
		if from+lostHead > size {
			break
		}
		if err := readAt(r, b, from); err != nil {
			return err
		}
		for _, s := range signatures {
			if s.at >= 0 && s.in(b) {
				f.say(s.name + where(from))
			}
		}
		f.scanLabels(b)
	}
	return nil
}

// scanLabels finds ZFS labels at any sector. A label of a disk whose table is
// lost makes the disk neither blank nor bare: nothing of an unfinished setup or
// reset leaves one.
func (f *found) scanLabels(b []byte) {
	for at := 0; at+512 <= len(b); at += 512 {
		// The name/value list of a label begins with its encoding, XDR.
		if b[at] != 1 || b[at+1] > 1 || b[at+2] != 0 {
			continue
		}
		if l, ok := parseLabel(b[at:min(len(b), at+labelListSize)]); ok && !slices.Contains(f.labels, l) {
			f.label(l)
			f.blank, f.bare = false, false
		}
	}
}

// label adds a ZFS label.
func (f *found) label(l zfsLabel) {
	f.labels = append(f.labels, l)
	if l.auxiliary() {
		f.say("a spare or cache device of a ZFS pool")
	} else {
		f.say(fmt.Sprintf("a disk of the ZFS pool %q", l.Pool))
	}
}

// say adds something the disk carries, which makes it not blank.
func (f *found) say(what string) {
	f.blank = false
	if !slices.Contains(f.text, what) {
		f.text = append(f.text, what)
	}
}

func where(from int64) string {
	switch {
	case from == 0:
		return ""
	case from >= 1<<20:
		return fmt.Sprintf(" %d MiB from the start, where partitions begin", from>>20)
	}
	return fmt.Sprintf(" %d bytes from the start, where partitions begin", from)
}
