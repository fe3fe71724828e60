// Package qcow2 reads disks that QEMU keeps in files of its format qcow2 (QEMU's
// docs/interop/qcow2.rst), versions 2 and 3.
//
// A file comes from anybody. QEMU itself opens what its header names, another file for
// example, and is not memory-safe; so a file is read here, and QEMU never sees it. Parse
// says from its beginning whether a file is taken, Open looks at its tables too, and Each
// gives the bytes of the disk. Nothing but the file is opened, and memory does not grow
// with what it says of itself.
package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// HeadSize is how many bytes of a file's beginning Parse looks at.
const HeadSize = 64 << 10

// MaxSize bounds the disk in a file, in bytes.
const MaxSize = 64 << 40

// Bounds of QEMU's own (block/qcow2.h).
const (
	minClusterBits = 9
	maxClusterBits = 21
	maxL1          = 32 << 20 // bytes of the first table
	maxBacking     = 1023     // bytes of a name
)

// Compressions of clusters.
const (
	deflate = 0
	zstd    = 1
)

// Header is what a file's beginning says.
type Header struct {
	Version int
	Size    int64 // of the disk, in bytes
	// Snapshots are those kept in the file: the disk is as it is now, without them.
	Snapshots int

	clusterBits int
	l1Offset    int64
	l1Entries   int64
	compression int
}

// RefusedError is a file that is not taken.
type RefusedError struct{ Reason string }

// Error says why.
func (e *RefusedError) Error() string { return "the qcow2 file is refused: " + e.Reason }

func refused(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

// Is reports whether a file begins as one of this format. Four bytes are enough.
func Is(head []byte) bool { return bytes.HasPrefix(head, []byte("QFI\xfb")) }

// Parse reads a header. head is the first HeadSize bytes of the file, or all of it, and
// size is that of the file, in bytes; negative: it is not known yet. A file that would not
// be read, or that says of itself what cannot be, is a *RefusedError.
func Parse(head []byte, size int64) (Header, error) {
	if !Is(head) {
		return Header{}, refused("it does not begin as one")
	}
	if len(head) < 72 {
		return Header{}, refused("it ends within its header")
	}
	be := binary.BigEndian
	h := Header{
		Version: int(be.Uint32(head[4:])), Snapshots: int(be.Uint32(head[60:])),
		clusterBits: int(be.Uint32(head[20:])),
	}
	disk, l1, l1Offset := be.Uint64(head[24:]), be.Uint32(head[36:]), be.Uint64(head[40:])
	switch {
	case h.Version != 2 && h.Version != 3:
		return h, refused("its version is %d; 2 and 3 are read", h.Version)
	case h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits:
		return h, refused("its clusters have 2^%d bytes; want 2^%d to 2^%d", h.clusterBits, minClusterBits, maxClusterBits)
	case be.Uint64(head[8:]) != 0:
		return h, refused("it is only the changes to another file, %.200q; make one that is whole: qemu-img convert -O qcow2 FILE NEW", backing(head))
	case be.Uint32(head[32:]) != 0:
		return h, refused("it is encrypted; decrypt it first, with qemu-img convert")
	case disk == 0 || disk > MaxSize:
		return h, refused("its disk has %d bytes; want 1 to %d", disk, int64(MaxSize))
	}
	h.Size = int64(disk)
	length := 72
	if h.Version == 3 {
		var err error
		if length, err = h.version3(head); err != nil {
			return h, err
		}
	}
	if err := h.extensions(head, length); err != nil {
		return h, err
	}
	// The first table has an entry for each second table, and these for each cluster.
	covers := int64(1) << (2*h.clusterBits - 3)
	h.l1Entries = (h.Size + covers - 1) / covers
	switch {
	case h.l1Entries*8 > maxL1:
		return h, refused("its disk of %d bytes needs a table of %d bytes; want at most %d", h.Size, h.l1Entries*8, maxL1)
	case int64(l1) < h.l1Entries:
		return h, refused("its disk has %d bytes, and its table is only for %d", h.Size, int64(l1)*covers)
	case l1Offset == 0 || l1Offset%uint64(h.cluster()) != 0 || l1Offset > MaxSize:
		return h, refused("its table is at byte %d, where none can be", l1Offset)
	}
	h.l1Offset = int64(l1Offset)
	if size >= 0 && h.l1Offset+h.l1Entries*8 > size {
		return h, refused("it is cut: its table ends at byte %d, and the file at %d", h.l1Offset+h.l1Entries*8, size)
	}
	return h, nil
}

func (h Header) cluster() int64 { return 1 << h.clusterBits }

// backing is the name of the file that this one lies on.
func backing(head []byte) []byte {
	at, n := binary.BigEndian.Uint64(head[8:]), uint64(binary.BigEndian.Uint32(head[16:]))
	if n > maxBacking || at > uint64(len(head)) || at+n > uint64(len(head)) {
		return nil
	}
	return head[at : at+n]
}

// Incompatible features.
const (
	featDirty       = 1 << 0
	featCorrupt     = 1 << 1
	featData        = 1 << 2
	featCompression = 1 << 3
	featExtended    = 1 << 4
)

// version3 reads what version 3 has beyond version 2, and gives the header's length.
func (h *Header) version3(head []byte) (int, error) {
	if len(head) < 104 {
		return 0, refused("it ends within its header")
	}
	be := binary.BigEndian
	features, length := be.Uint64(head[72:]), be.Uint32(head[100:])
	switch {
	case features&featData != 0:
		return 0, refused("its data are in another file; make one that is whole: qemu-img convert -O qcow2 FILE NEW")
	case features&featCorrupt != 0:
		return 0, refused("QEMU noted in it that it is corrupt; mend it first: qemu-img check -r all FILE")
	case features&featDirty != 0:
		return 0, refused("who wrote it did not close it: stop the machine that uses it, or mend it first: qemu-img check -r all FILE")
	case features&featExtended != 0:
		return 0, refused("it has clusters with parts of their own (extended_l2); make one without: qemu-img convert -O qcow2 FILE NEW")
	case features&^featCompression != 0:
		return 0, refused("it has features that are not known here: %#x", features&^featCompression)
	case length < 104 || length%8 != 0 || int64(length) > h.cluster() || int(length) > len(head):
		return 0, refused("its header says that it has %d bytes", length)
	}
	if length > 104 {
		h.compression = int(head[104])
	}
	if h.compression > zstd || (h.compression != deflate) != (features&featCompression != 0) {
		return 0, refused("its clusters are compressed in a way that is not known here: %d", h.compression)
	}
	return int(length), nil
}

// extensions looks for header extensions that say what the fields do not.
func (h Header) extensions(head []byte, at int) error {
	const (
		end        = 0
		dataFile   = 0x44415441
		encryption = 0x0537be77
	)
	head = head[:min(int64(len(head)), h.cluster())]
	for at+8 <= len(head) {
		kind, n := binary.BigEndian.Uint32(head[at:]), int64(binary.BigEndian.Uint32(head[at+4:]))
		switch kind {
		case end:
			return nil
		case dataFile:
			return refused("it names another file with its data, %.200q", head[min(at+8, len(head)):min(int64(at)+8+n, int64(len(head)))])
		case encryption:
			return refused("it is encrypted; decrypt it first, with qemu-img convert")
		}
		next := int64(at) + 8 + (n+7)/8*8
		if next > int64(len(head)) {
			return refused("what is behind its header goes on for more than %d bytes", len(head))
		}
		at = int(next)
	}
	return nil
}
