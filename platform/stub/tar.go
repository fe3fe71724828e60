package stub

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"nereid/api"
	"nereid/images"
)

// tarball is a platform in a plain tar on a block device: boot.json,
// manifest.json, manifest.sig and the layers by name, in any order.
type tarball struct {
	disk  io.ReaderAt
	files map[string]span
}

type span struct{ offset, size int64 }

// readTarball reads the headers of a tar on a disk and skips what is between them.
func readTarball(disk io.ReaderAt, size int64) (*tarball, error) {
	t := &tarball{disk: disk, files: map[string]span{}}
	sr := io.NewSectionReader(disk, 0, size)
	r := tar.NewReader(sr)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		at, err := sr.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		if h.Typeflag == tar.TypeReg && h.Size <= size-at {
			t.files[h.Name] = span{at, h.Size}
		}
	}
}

// small reads a file of at most limit bytes.
func (t *tarball) small(name string, limit int64) ([]byte, error) {
	s, ok := t.files[name]
	if !ok {
		return nil, problem("The disk has no "+name, "it is not in the tar there", "make the disk again", nil)
	}
	if s.size > limit {
		return nil, problem("The "+name+" of the disk cannot be used", fmt.Sprintf("it has %d bytes, more than %d", s.size, limit), "make the disk again", nil)
	}
	b := make([]byte, s.size)
	_, err := t.disk.ReadAt(b, s.offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// layer copies a layer to w and checks its size and digest.
func (t *tarball) layer(ctx context.Context, f api.File, w io.Writer, progress func(images.Progress)) error {
	s, ok := t.files[f.Name]
	if !ok {
		return problem("The disk has no layer "+f.Name, "it is not in the tar there", "make the disk again", nil)
	}
	if s.size != f.Size {
		return &images.SizeError{Want: f.Size, Got: s.size}
	}
	sum := sha256.New()
	r := io.NewSectionReader(t.disk, s.offset, s.size)
	buf := make([]byte, 1<<20)
	began, told := time.Now(), time.Time{}
	for p := (images.Progress{Total: s.size}); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		sum.Write(buf[:n])
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		p.Bytes += int64(n)
		p.Elapsed = time.Since(began)
		p.Rate = float64(p.Bytes) / max(p.Elapsed.Seconds(), 1e-6)
		if p.Bytes == p.Total || time.Since(told) > 200*time.Millisecond {
			told = time.Now()
			progress(p)
		}
		if p.Bytes == p.Total {
			break
		}
		if err != nil {
			return fmt.Errorf("read layer %s: %w", f.Name, err)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		return &images.DigestError{Want: f.SHA256, Got: got}
	}
	return nil
}
