package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"nereid/api"
	"nereid/images/qcow2"
	"nereid/images/tree"
)

// maxVolume bounds the disk of an image, in bytes.
const maxVolume = 64 << 40

// volumeBlock is what the size of a volume is a multiple of, in bytes: OpenZFS's own
// volblocksize since 2.2 (zfsprops(7)).
const volumeBlock = 16 << 10

// volumeLimits are the limits of a disk's bytes. Zeros are not written, so that they may be
// many.
func volumeLimits(size int64) tree.Limits {
	return tree.Limits{Bytes: size, Ratio: 1 << 40}
}

// importRaw makes a partial that is a volume of the bytes of a disk.
func (r *Roots) importRaw(ctx context.Context, spec api.ImageSpec, partial string, src *verifier) (err error) {
	size := spec.File.UncompressedSize
	plain, err := tree.Decompress(src, spec.File.Compression, volumeLimits(size))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	return r.fillVolume(ctx, partial, spec, size, func(to io.WriterAt) error { return writeSparse(ctx, to, plain, size) })
}

// A qcow2 file is kept in a file system of its own until its disk is a volume below it,
// which then becomes the image:
//
//	zones/IMAGE-partial            with the file
//	zones/IMAGE-partial/volume     renamed to zones/IMAGE
const (
	volumeChild = "volume"
	qcow2File   = "image.qcow2"
)

// importQCOW2 makes a volume below the partial of the disk in a qcow2 file, which is
// verified before it is looked into. It is read by package qcow2 and not by qemu-img, which
// is not memory-safe and would need a unit that is shut in, with the volume and the file.
func (r *Roots) importQCOW2(ctx context.Context, spec api.ImageSpec, partial string, src *verifier) error {
	if err := r.zfs().Create(ctx, partial, rootProps(map[string]string{propImage: spec.UUID})); err != nil {
		return err
	}
	dir, err := r.zfs().Mount(ctx, partial, false)
	if err != nil {
		return err
	}
	defer dir.Close()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	return r.convert(ctx, spec, partial, src, root)
}

func (r *Roots) convert(ctx context.Context, spec api.ImageSpec, partial string, src *verifier, dir *os.Root) error {
	f, err := dir.OpenFile(qcow2File, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	l := volumeLimits(spec.File.UncompressedSize)
	if l.Bytes == 0 {
		l.Bytes = spec.File.Size // it is not compressed, or is refused
	}
	plain, err := tree.Decompress(src, spec.File.Compression, l)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, plain)
	if err = src.verdict(ctx, errors.Join(err, plain.Close())); err != nil {
		return err
	}
	disk, err := qcow2.Open(f, n)
	if err != nil {
		return err
	}
	if mib := (disk.Size + 1<<20 - 1) >> 20; mib != int64(spec.SizeMiB) {
		return fmt.Errorf("the disk in the qcow2 file has %d MiB, not %d as the manifest says", mib, spec.SizeMiB)
	}
	return r.fillVolume(ctx, partial+"/"+volumeChild, spec, disk.Size, func(to io.WriterAt) error {
		return disk.Each(ctx, func(at int64, data []byte) error { return writeAt(to, data, at) })
	})
}

// fillVolume makes a sparse volume for a disk of size bytes, which fill writes. A size that
// is no multiple of a block is rounded up: a disk has whole blocks.
func (r *Roots) fillVolume(ctx context.Context, name string, spec api.ImageSpec, size int64, fill func(io.WriterAt) error) (err error) {
	if size < 1 || size > maxVolume {
		return fmt.Errorf("a disk of %d bytes: want 1 to %d", size, int64(maxVolume))
	}
	whole := (size + volumeBlock - 1) / volumeBlock * volumeBlock
	props := map[string]string{propImage: spec.UUID, "refreservation": "none", "volmode": "dev"}
	if err := r.zfs().CreateVolume(ctx, name, uint64(whole), props); err != nil {
		return err
	}
	to, err := r.zfs().OpenVolume(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := fill(to); err != nil {
		return err
	}
	if err := to.Sync(); err != nil {
		return fmt.Errorf("write volume %s: %w", name, err)
	}
	return nil
}

// writeSparse writes exactly size bytes to what is all zeros; those that are zeros too it
// leaves.
func writeSparse(ctx context.Context, to io.WriterAt, from io.Reader, size int64) error {
	buf := make([]byte, 64*volumeBlock)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), size-at)]
		if n, err := io.ReadFull(from, b); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("the disk ends after %d bytes of %d: %w", at+int64(n), size, io.ErrUnexpectedEOF)
			}
			return err
		}
		if err := writeAt(to, b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	if n, err := io.Copy(io.Discard, from); err != nil || n > 0 {
		return errors.Join(err, fmt.Errorf("the disk has %d bytes more than %d", n, size))
	}
	return nil
}

// writeAt writes those blocks of b that are not zeros.
func writeAt(to io.WriterAt, b []byte, at int64) error {
	for begin := 0; begin < len(b); {
		end := min(begin+volumeBlock, len(b))
		if zeros(b[begin:end]) {
			begin = end
			continue
		}
		for end < len(b) && !zeros(b[end:min(end+volumeBlock, len(b))]) {
			end = min(end+volumeBlock, len(b))
		}
		if _, err := to.WriteAt(b[begin:end], at+int64(begin)); err != nil {
			return fmt.Errorf("write at byte %d: %w", at+int64(begin), err)
		}
		begin = end
	}
	return nil
}
