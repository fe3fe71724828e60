package agenttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// destroyed is the state of the labels of a destroyed pool (sys/fs/zfs.h).
const destroyed = 2

// reserved is the size of the ninth partition that libzfs puts at the end.
const reserved = 8 << 20

// partName is the kernel's name of a partition.
func partName(disk string, n int) string {
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		return fmt.Sprintf("%sp%d", disk, n)
	}
	return fmt.Sprintf("%s%d", disk, n)
}

// writeDisk writes what zpool create writes to a whole disk: a GPT with two
// partitions and four labels on the first.
func (w *World) writeDisk(p *pool, disk string, state uint64) (err error) {
	f, err := os.OpenFile(w.dev(disk), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	start, end := partOne(size)
	table := gpt(size, start, end)
	label := Label(p.name, p.guid, state)
	writes := map[int64][]byte{512: table, size - 512: table[:512]}
	for _, at := range labelOffsets(start, end) {
		writes[at+16<<10] = label
	}
	for at, b := range writes {
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return os.WriteFile(w.dev(partName(disk, 1)), nil, 0o644)
}

func partOne(size int64) (start, end int64) {
	return 1 << 20, (size - reserved - 33*512) &^ (1<<20 - 1)
}

func labelOffsets(start, end int64) []int64 {
	const n = 256 << 10
	return []int64{start, start + n, end - 2*n, end - n}
}

func gpt(size, start, end int64) []byte {
	b := make([]byte, 512+9*128)
	copy(b, "EFI PART")
	binary.LittleEndian.PutUint64(b[72:], 2)
	binary.LittleEndian.PutUint32(b[80:], 9)
	binary.LittleEndian.PutUint32(b[84:], 128)
	entry := func(i int, kind string, start, end int64) {
		e := b[512+i*128:]
		copy(e, kind)
		binary.LittleEndian.PutUint64(e[32:], uint64(start/512))
		binary.LittleEndian.PutUint64(e[40:], uint64(end/512-1))
	}
	entry(0, "\xc3\x8c\x89\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31", start, end)
	entry(8, "\x3b\x5a\x94\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31", end, end+reserved)
	return b
}

// Label is the name/value list of a vdev label, in XDR as ZFS writes it.
func Label(pool string, guid, state uint64) []byte {
	var b bytes.Buffer
	b.Write([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	u32 := func(n int) { b.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	str := func(s string) {
		u32(len(s))
		b.WriteString(s)
		b.Write(make([]byte, (4-len(s)%4)%4))
	}
	pair := func(name string, kind int, value func()) {
		at := b.Len()
		u32(0)
		u32(0)
		str(name)
		u32(kind)
		u32(1)
		value()
		binary.BigEndian.PutUint32(b.Bytes()[at:], uint32(b.Len()-at))
	}
	num := func(n uint64) func() { return func() { b.Write(binary.BigEndian.AppendUint64(nil, n)) } }
	pair("version", 8, num(5000))
	if pool != "" {
		pair("name", 9, func() { str(pool) })
		pair("pool_guid", 8, num(guid))
	}
	pair("state", 8, num(state))
	b.Write(make([]byte, 8))
	return b.Bytes()
}

// labelled reports whether the disk still carries the pool's first label.
func (w *World) labelled(p *pool, disk string) bool {
	want := Label(p.name, p.guid, 0)
	got := make([]byte, len(want))
	f, err := os.Open(w.dev(disk))
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.ReadAt(got, 1<<20+16<<10)
	return err == nil && bytes.Equal(got, want)
}

// vacant refuses, as zpool create without -f does, a disk with labels where the
// new partition comes to lie, or with a foreign partition table.
func (w *World) vacant(disk string) error {
	f, err := os.Open(w.dev(disk))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	start, end := partOne(info.Size())
	for _, at := range append([]int64{512}, labelOffsets(start+16<<10, end+16<<10)...) {
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		if !bytes.Equal(b, make([]byte, 8)) {
			return fmt.Errorf("/dev/%s holds data at byte %d", disk, at)
		}
	}
	return nil
}
