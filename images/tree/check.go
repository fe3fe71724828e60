package tree

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"nereid/api"
)

// Checked is what Check found.
type Checked struct {
	Format      string // api.FormatTar or api.FormatZFS
	Compression string
	Size        int64  // bytes without compression
	Digest      string // of these: sha256: and 64 hexadecimal digits
	GUID        string // of a ZFS stream's snapshot
	Origin      string // GUID of the snapshot that the stream is a change of
	Volume      bool   // the stream is of a volume
	Summary            // of a tar
}

// Check reads a whole image. compression and format are what was said of it; empty:
// nothing. The records of a ZFS stream behind the first one are not looked at; they have
// checksums, which zfs receive compares.
func Check(ctx context.Context, r io.Reader, compression, format string, l Limits) (c Checked, err error) {
	s, err := Decompress(ctxReader{ctx, r}, compression, l)
	if err != nil {
		return c, err
	}
	defer s.Close()
	sum := sha256.New()
	size := writeCounter{w: sum}
	b := bufio.NewReaderSize(io.TeeReader(s, &size), 64<<10)
	c.Compression, c.Format = s.Compression, api.FormatTar
	head, err := b.Peek(streamHeader)
	if err != nil && err != io.EOF {
		return c, err
	}
	if isStream(head) {
		c.Format = api.FormatZFS
	}
	if format != "" && format != c.Format {
		return c, &FormatError{fmt.Sprintf("the file is said to have format %s; by its first bytes it has %s", format, c.Format)}
	}
	if c.Format == api.FormatZFS {
		info, err := ReadStream(b)
		if err != nil {
			return c, err
		}
		c.GUID, c.Origin, c.Volume = info.GUID, info.Origin, info.Volume
		_, err = io.Copy(io.Discard, b)
		if err != nil {
			return c, err
		}
	} else {
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

// Sniff says by a file's beginning how it is compressed, and whether it is a tar or a ZFS
// stream.
func Sniff(r io.Reader) (compression, format string, err error) {
	s, err := Decompress(r, "", DefaultLimits())
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	head := make([]byte, streamHeader)
	n, err := io.ReadFull(s, head)
	if err != nil && n == 0 {
		return "", "", &FormatError{fmt.Sprintf("the file is empty, or cannot be read as %s: %v", s.Compression, err)}
	}
	if isStream(head[:n]) {
		return s.Compression, api.FormatZFS, nil
	}
	return s.Compression, api.FormatTar, nil
}
