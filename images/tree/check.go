package tree

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"nereid/api"
	"nereid/images/qcow2"
)

// Checked is what Check found.
type Checked struct {
	Format      string // api.FormatTar, FormatZFS, FormatRaw or FormatQCOW2
	Compression string
	Size        int64  // bytes without compression
	Digest      string // of these: sha256: and 64 hexadecimal digits
	GUID        string // of a ZFS stream's snapshot
	Origin      string // GUID of the snapshot that the stream is a change of
	Volume      bool   // the stream is of a volume
	Disk        int64  // bytes of the disk that the file is, or has in it; 0: not known, or none
	Summary            // of a tar
}

// Check reads a whole image. compression and format are what was said of it; empty:
// nothing, and then it is not looked at as the bytes of a disk, which begin with anything.
// Of a qcow2 file, what is behind its header is not looked at: package qcow2 does where it
// is unpacked. The records of a ZFS stream behind the first one are not looked at; they have
// checksums, which zfs receive compares.
func Check(ctx context.Context, r io.Reader, compression, format string, l Limits) (c Checked, err error) {
	if format == api.FormatRaw {
		l.Ratio = 1 << 40 // a disk has zeros, and nothing is made of them
	}
	s, err := Decompress(ctxReader{ctx, r}, compression, l)
	if err != nil {
		return c, err
	}
	defer s.Close()
	sum := sha256.New()
	size := writeCounter{w: sum}
	b := bufio.NewReaderSize(io.TeeReader(s, &size), qcow2.HeadSize)
	head, err := b.Peek(qcow2.HeadSize)
	if err != nil && err != io.EOF {
		return c, err
	}
	c.Compression, c.Format = s.Compression, formatOf(head)
	if format == api.FormatRaw && c.Format == api.FormatTar {
		c.Format = api.FormatRaw
	}
	if format != "" && format != c.Format {
		return c, &FormatError{fmt.Sprintf("the file is said to have format %s; by its first bytes it has %s", format, c.Format)}
	}
	var header qcow2.Header
	switch c.Format {
	case api.FormatQCOW2:
		if header, err = qcow2.Parse(head, -1); err == nil {
			_, err = io.Copy(io.Discard, b)
		}
		if err == nil {
			header, err = qcow2.Parse(head, size.n)
		}
		if err != nil {
			return c, said(err)
		}
		c.Disk = header.Size
	case api.FormatRaw:
		if c.Disk, err = io.Copy(io.Discard, b); err != nil {
			return c, err
		}
	case api.FormatZFS:
		info, err := ReadStream(b)
		if err != nil {
			return c, err
		}
		c.GUID, c.Origin, c.Volume = info.GUID, info.Origin, info.Volume
		_, err = io.Copy(io.Discard, b)
		if err != nil {
			return c, err
		}
	default:
		t := NewReader(b, l)
		for err = nil; err == nil; {
			_, err = t.Next()
		}
		c.Summary = t.Summary
		if err != io.EOF {
			return c, err
		}
	}
	c.Size, c.Digest = size.n, "sha256:"+hex.EncodeToString(sum.Sum(nil))
	return c, nil
}

// formatOf is what a file's beginning says of its format; a tar where it says nothing.
func formatOf(head []byte) string {
	switch {
	case isStream(head):
		return api.FormatZFS
	case qcow2.Is(head):
		return api.FormatQCOW2
	}
	return api.FormatTar
}

// said is a file that is refused, as all of this package are.
func said(err error) error {
	var no *qcow2.RefusedError
	if errors.As(err, &no) {
		return &FormatError{no.Error()}
	}
	return err
}

// writeCounter counts what goes to w.
type writeCounter struct {
	w io.Writer
	n int64
}

func (c *writeCounter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// ctxReader ends a long read with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// bootSector is the length of what a disk begins with that firmware starts from, and bootMark
// its last two bytes.
const (
	bootSector = 512
	bootMark   = "\x55\xaa"
)

// Sniffed is what a file's beginning says.
type Sniffed struct {
	Compression string
	Format      string // api.FormatTar, FormatZFS, FormatQCOW2, or FormatRaw for what has a boot sector
	Volume      bool   // a ZFS stream is of a volume
	Disk        int64  // bytes of the disk in a qcow2 file
}

// Sniff says by a file's beginning what it is. A tar is what is nothing else.
func Sniff(r io.Reader) (found Sniffed, err error) {
	s, err := Decompress(r, "", DefaultLimits())
	if err != nil {
		return found, err
	}
	defer s.Close()
	head := make([]byte, qcow2.HeadSize)
	n, err := io.ReadFull(s, head)
	if err != nil && n == 0 {
		return found, &FormatError{fmt.Sprintf("the file is empty, or cannot be read as %s: %v", s.Compression, err)}
	}
	head = head[:n]
	found.Compression, found.Format = s.Compression, formatOf(head)
	switch {
	case found.Format == api.FormatQCOW2:
		h, err := qcow2.Parse(head, -1)
		found.Disk = h.Size
		return found, said(err)
	case found.Format == api.FormatZFS:
		info, err := ReadStream(bytes.NewReader(head))
		found.Volume = info.Volume
		return found, err
	case n >= bootSector && string(head[bootSector-2:bootSector]) == bootMark:
		found.Format = api.FormatRaw // where a tar has zeros
	}
	return found, nil
}
