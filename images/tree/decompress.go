package tree

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// Compressions of a file.
const (
	None = "none"
	Gzip = "gzip"
	XZ   = "xz"
	Zstd = "zstd"
)

// maxWindow is the memory that a decoder may take for what it has to remember, in bytes:
// what the highest levels of xz and of zstd need without --ultra or --long.
const maxWindow = 64 << 20

// Detect says by its first bytes how a file is compressed. Six bytes are enough. A file
// that is none of the four gives None: it may be anything.
func Detect(head []byte) (string, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // RFC 8878, section 3.1.2
		return Zstd, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return "", &FormatError{"the file is compressed by bzip2, which is not read; use zstd, gzip or xz"}
	}
	return None, nil
}

// Stream is the bytes of a file without its compression.
type Stream struct {
	Compression string // one of None, Gzip, XZ, Zstd

	src  counter
	dec  io.Reader
	done func()
	out  int64
	l    Limits
}

// Decompress reads r. compression is what was said of it; empty: nothing. Several members
// or frames are one stream; bytes behind them are an error. Close ends it, and leaves r.
func Decompress(r io.Reader, compression string, l Limits) (*Stream, error) {
	s := &Stream{src: counter{r: bufio.NewReaderSize(r, 256<<10)}, done: func() {}, l: l}
	head, err := s.src.r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read image: %w", err)
	}
	if s.Compression, err = Detect(head); err != nil {
		return nil, err
	}
	if compression != "" && compression != s.Compression {
		return nil, &FormatError{fmt.Sprintf("the file is said to have compression %s; by its first bytes it has %s", compression, s.Compression)}
	}
	switch s.Compression {
	case Gzip:
		s.dec, err = gzip.NewReader(&s.src)
	case XZ:
		s.dec, err = xz.NewReader(&s.src, maxWindow)
	case Zstd:
		var d *zstd.Decoder
		if d, err = zstd.NewReader(&s.src, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true)); err == nil {
			s.dec, s.done = d, d.Close
		}
	default:
		s.dec = &s.src
	}
	switch {
	case s.src.err != nil:
		return nil, fmt.Errorf("read image: %w", s.src.err)
	case err != nil:
		return nil, &FormatError{fmt.Sprintf("the file cannot be read as %s: %v", s.Compression, err)}
	}
	return s, nil
}

// Read gives bytes until the end, or a *LimitError or *FormatError.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.dec.Read(p)
	s.out += int64(n)
	switch {
	case s.out > s.l.Bytes:
		return 0, &LimitError{fmt.Sprintf("the image has more than %d bytes without its compression", s.l.Bytes)}
	case s.out > ratioFrom && s.out/s.l.Ratio > s.src.n:
		return 0, &LimitError{fmt.Sprintf("the image becomes more than %d times as long without its compression: %d bytes out of %d", s.l.Ratio, s.out, s.src.n)}
	case err == nil || err == io.EOF || s.src.err != nil:
		return n, err
	}
	if s.Compression != None {
		err = &FormatError{fmt.Sprintf("the file is damaged or cut, or has something else behind it, as %s after %d bytes without compression: %v", s.Compression, s.out, err)}
	}
	return n, err
}

// Close frees what the decoder holds.
func (s *Stream) Close() error {
	s.done()
	return nil
}

// counter counts what is read, and keeps what failed.
type counter struct {
	r   *bufio.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// ReadByte keeps gzip from reading ahead.
func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	} else if err != io.EOF {
		c.err = err
	}
	return b, err
}
