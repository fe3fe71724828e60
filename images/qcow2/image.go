package qcow2

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	kzstd "github.com/klauspost/compress/zstd"
)

// Image is the disk in a file.
type Image struct {
	Header
	r    io.ReaderAt
	size int64 // of the file
	l1   []byte
}

// Open reads the header and the first table of a file of size bytes.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	head := make([]byte, min(size, HeadSize))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	h, err := Parse(head, size)
	if err != nil {
		return nil, err
	}
	i := &Image{Header: h, r: r, size: size, l1: make([]byte, h.l1Entries*8)}
	return i, readFull(r, i.l1, h.l1Offset)
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("read qcow2 file, %d bytes at %d: %w", len(b), at, err)
	}
	return nil
}

// Bits of entries of tables.
const (
	offsetBits = 0x00fffffffffffe00
	compressed = 1 << 62
	copied     = 1 << 63
	zeroBit    = 1
)

// Each calls fn with the bytes of the disk that the file has, in order; all others are
// zeros. data is fn's only until it returns, and does not go beyond the end of the disk. It
// ends with the first error; what is wrong with the file is a *RefusedError. A file whose
// clusters are used more than once is refused: that is not how a disk is kept, but how a
// small file becomes a vast disk.
func (i *Image) Each(ctx context.Context, fn func(at int64, data []byte) error) error {
	e := each{Image: i, fn: fn, table: make([]byte, i.cluster()), data: make([]byte, i.cluster())}
	defer e.close()
	span := i.cluster() * (i.cluster() / 8)
	for n := range i.l1Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		entry := binary.BigEndian.Uint64(i.l1[n*8:])
		if entry&offsetBits == 0 {
			continue
		}
		at, err := i.place(entry&^copied, "a table")
		if err == nil && at+i.cluster() > i.size {
			err = refused("it is cut: a table at byte %d is not all in the file", at)
		}
		if err == nil {
			err = e.spend(i.cluster())
		}
		if err == nil {
			err = readFull(i.r, e.table, at)
		}
		if err != nil {
			return err
		}
		if err := e.second(ctx, n*span); err != nil {
			return err
		}
	}
	return nil
}

// each is one pass over the disk.
type each struct {
	*Image
	fn    func(at int64, data []byte) error
	table []byte // second table
	data  []byte // a cluster
	spent int64  // bytes of the file that what was read takes, at the least

	packed []byte
	flate  io.ReadCloser
	zstd   *kzstd.Decoder
}

func (e *each) close() {
	if e.zstd != nil {
		e.zstd.Close()
	}
}

// spend counts bytes of the file. No two clusters share any, but for the sectors in which
// a compressed one ends and the next begins.
func (e *each) spend(n int64) error {
	if e.spent += n; e.spent > e.Image.size+e.cluster() {
		return refused("its tables name clusters more than once")
	}
	return nil
}

// place is the byte of the file that an entry of a table names.
func (i *Image) place(entry uint64, what string) (int64, error) {
	at := int64(entry & offsetBits)
	switch {
	case entry&^offsetBits != 0:
		return 0, refused("an entry of its tables has bits that are not known here: %#x", entry)
	case at%i.cluster() != 0:
		return 0, refused("%s is at byte %d, which is no cluster's", what, at)
	case at == 0 || at+i.cluster() > (i.size+i.cluster()-1)/i.cluster()*i.cluster():
		return 0, refused("it is cut: %s is at byte %d, and the file ends at %d", what, at, i.size)
	}
	return at, nil
}

// second gives the clusters of a second table, which is for the bytes of the disk from base
// on.
func (e *each) second(ctx context.Context, base int64) error {
	for k := int64(0); k < e.cluster()/8; k++ {
		entry := binary.BigEndian.Uint64(e.table[k*8:])
		at := base + k*e.cluster()
		if entry&^copied == 0 || e.Version == 3 && entry&compressed == 0 && entry&zeroBit != 0 {
			continue // zeros
		}
		if at >= e.Size {
			return refused("its tables have clusters behind the end of its disk")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if entry&compressed != 0 {
			err = e.unpack(entry &^ (compressed | copied))
		} else {
			err = e.plain(entry &^ copied)
		}
		if err != nil {
			return err
		}
		if err := e.fn(at, e.data[:min(e.cluster(), e.Size-at)]); err != nil {
			return err
		}
	}
	return nil
}

// plain reads a cluster. The last one of a file may be cut, where zeros follow.
func (e *each) plain(entry uint64) error {
	at, err := e.place(entry, "a cluster")
	if err != nil {
		return err
	}
	n := min(e.cluster(), e.Image.size-at)
	clear(e.data[n:])
	if err := e.spend(n); err != nil {
		return err
	}
	return readFull(e.r, e.data[:n], at)
}

// leastPacked is what a compressed cluster takes of the file at the least, in bytes: fewer
// make no block of deflate (RFC 1951) or zstd (RFC 8878) of 512 bytes and more.
const leastPacked = 4

// unpack reads a compressed cluster.
func (e *each) unpack(entry uint64) error {
	bits := 62 - (e.clusterBits - 8)
	at := int64(entry & (1<<bits - 1))
	sectors := int64(entry >> bits)
	n := min((sectors+1)*512-at&511, e.Image.size-at)
	if at == 0 || n <= 0 || n > 2*e.cluster() {
		return refused("a compressed cluster of %d bytes is at byte %d of a file of %d", n, at, e.Image.size)
	}
	if err := e.spend(leastPacked); err != nil {
		return err
	}
	if int64(cap(e.packed)) < n {
		e.packed = make([]byte, 2*e.cluster())
	}
	packed := e.packed[:n]
	if err := readFull(e.r, packed, at); err != nil {
		return err
	}
	from, err := e.decoder(packed)
	if err == nil {
		_, err = io.ReadFull(from, e.data)
	}
	if err != nil {
		return refused("its compressed cluster at byte %d is damaged: %v", at, err)
	}
	return nil
}

// decoder reads what is packed.
func (e *each) decoder(packed []byte) (io.Reader, error) {
	from := bytes.NewReader(packed)
	if e.compression == zstd {
		var err error
		if e.zstd == nil {
			e.zstd, err = kzstd.NewReader(from, kzstd.WithDecoderConcurrency(1), kzstd.WithDecoderMaxWindow(8<<20), kzstd.WithDecoderLowmem(true))
		} else {
			err = e.zstd.Reset(from)
		}
		return e.zstd, err
	}
	if e.flate == nil {
		e.flate = flate.NewReader(from)
		return e.flate, nil
	}
	r, ok := e.flate.(flate.Resetter)
	if !ok {
		return nil, errors.New("the decoder cannot be used again")
	}
	return e.flate, r.Reset(from, nil)
}
