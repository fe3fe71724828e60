package storage

import (
	"encoding/binary"
	"fmt"
)

// zfsLabel is what a vdev label says of its pool.
type zfsLabel struct {
	Pool  string // empty on spares and caches, whose labels name no pool
	GUID  uint64 // of the pool; 0 likewise
	State uint64
}

// States of a label that matter here (sys/fs/zfs.h: pool_state_t).
const (
	stateDestroyed = 2
	stateSpare     = 3
	stateCache     = 4
)

// auxiliary reports whether the label is one of a spare or a cache.
func (l zfsLabel) auxiliary() bool {
	return l.Pool == "" && (l.State == stateSpare || l.State == stateCache)
}

// Vdev labels: two at the start and two at the end of a device, 256 KiB each,
// with the pool's configuration as an XDR name/value list 16 KiB into each
// (OpenZFS, include/sys/vdev_impl.h: vdev_label_t).
const (
	labelSize       = 256 << 10
	labelListOffset = 16 << 10
	labelListSize   = 112 << 10
)

// parseLabel reads the configuration of a vdev label. Only top-level strings
// and 64-bit numbers are looked at (libnvpair, nvs_xdr: every pair is its
// encoded size, its decoded size, name, type, number of elements and value).
func parseLabel(b []byte) (zfsLabel, bool) {
	var l zfsLabel
	// Header: encoding (1: XDR), byte order, two reserved bytes; then version and flags.
	if len(b) < 12 || b[0] != 1 || b[1] > 1 || b[2] != 0 || b[3] != 0 || binary.BigEndian.Uint32(b[4:]) != 0 {
		return l, false
	}
	b = b[12:]
	for len(b) >= 8 {
		n := binary.BigEndian.Uint32(b)
		if n < 20 || uint64(n) > uint64(len(b)) {
			break
		}
		name, kind, value, ok := parsePair(b[8:n])
		if ok {
			switch {
			case name == "name" && kind == nvString:
				l.Pool, _, _ = xdrString(value)
			case name == "pool_guid" && kind == nvUint64 && len(value) >= 8:
				l.GUID = binary.BigEndian.Uint64(value)
			case name == "state" && kind == nvUint64 && len(value) >= 8:
				l.State = binary.BigEndian.Uint64(value)
			}
		}
		b = b[n:]
	}
	return l, l.Pool != "" || l.auxiliary()
}

// Types of name/value pairs (sys/nvpair.h).
const (
	nvUint64 = 8
	nvString = 9
)

func parsePair(b []byte) (name string, kind uint32, value []byte, ok bool) {
	name, b, ok = xdrString(b)
	if !ok || len(b) < 8 {
		return "", 0, nil, false
	}
	return name, binary.BigEndian.Uint32(b), b[8:], true
}

// xdrString reads a counted string, padded to a multiple of four bytes (RFC 4506, 4.11).
func xdrString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	padded := (uint64(n) + 3) &^ 3
	if padded > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+padded:], true
}

// partition is a part of a disk, in bytes.
type partition struct {
	start, end int64 // end is exclusive
	zfs        bool  // of a kind zpool create makes on a whole disk
}

// Partition types, as they are on disk: the two that libzfs makes.
const (
	typeZFS      = "\xc3\x8c\x89\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31" // 6A898CC3-1DD2-11B2-99A6-080020736631
	typeReserved = "\x3b\x5a\x94\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31" // 6A945A3B-1DD2-11B2-99A6-080020736631
)

// parseGPT reads a primary GUID partition table from the beginning of a disk
// (UEFI 2.10, section 5.3), of 512 or 4096 byte blocks. Checksums are not
// verified: a damaged table is a table.
func parseGPT(head []byte, size int64) (parts []partition, ok bool) {
	for _, block := range []int64{512, 4096} {
		if int64(len(head)) < 2*block || string(head[block:block+8]) != "EFI PART" {
			continue
		}
		h := head[block:]
		at := binary.LittleEndian.Uint64(h[72:])
		n, each := binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
		if each < 128 || each > 4096 || at > uint64(len(head))/uint64(block) {
			return nil, true
		}
		for i := range min(n, 256) {
			off := at*uint64(block) + uint64(i)*uint64(each)
			if off+128 > uint64(len(head)) {
				break
			}
			e := head[off : off+128]
			first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
			if string(e[:16]) == string(make([]byte, 16)) || first > last || last >= uint64(size/block) {
				continue
			}
			kind := string(e[:16])
			parts = append(parts, partition{int64(first) * block, (int64(last) + 1) * block, kind == typeZFS || kind == typeReserved})
		}
		return parts, true
	}
	return nil, false
}

// parseMBR reads the four primary partitions of a DOS partition table.
func parseMBR(head []byte, size int64) (parts []partition, ok bool) {
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return nil, false
	}
	for i := range 4 {
		e := head[446+16*i:]
		start := int64(binary.LittleEndian.Uint32(e[8:])) * 512
		end := start + int64(binary.LittleEndian.Uint32(e[12:]))*512
		if e[4] == 0 || start == 0 || end <= start || end > size || e[0]&0x7f != 0 {
			continue
		}
		parts = append(parts, partition{start: start, end: end})
	}
	return parts, len(parts) > 0
}

func partitionTable(kind string, n int) string {
	if n == 1 {
		return fmt.Sprintf("a %s partition table with 1 partition", kind)
	}
	return fmt.Sprintf("a %s partition table with %d partitions", kind, n)
}
