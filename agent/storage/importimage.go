package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"nereid/api"
	"nereid/images/tree"
)

// cleanLimit bounds how long what an import left is cleaned away for, once the import
// itself was ended.
const cleanLimit = 2 * time.Minute

// ImportImage makes an image's dataset of its file's bytes, which r gives, compressed or
// not, and returns nil when zones/IMAGE@final is there, also when it was before. The
// bytes go through once: size and SHA-256 are compared while they are unpacked or
// received into zones/IMAGE-partial, and only then does that become zones/IMAGE. After an
// error nothing of it is left, unless the pool itself fails; what a crash leaves, the
// next import or Tidy destroys. A second import of the image waits for the first.
//
// progress, when not nil, is called with the bytes of r that were taken so far.
func (r *Roots) ImportImage(ctx context.Context, spec api.ImageSpec, from io.Reader, progress func(done int64)) error {
	err := r.named(ctx, spec.UUID, func(name string) error {
		return r.importImage(ctx, spec, name, from, progress)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EDQUOT):
		err = fmt.Errorf("it takes more room than images may: %w", err)
	case errors.Is(err, syscall.ENOSPC):
		pool, _ := r.Pool(ctx)
		err = fmt.Errorf("pool %s is full; delete instances or images that are not used: %w", pool, err)
	}
	return fmt.Errorf("import image %s (%s): %w", spec.UUID, spec.Name, err)
}

func (r *Roots) importImage(ctx context.Context, spec api.ImageSpec, name string, from io.Reader, progress func(int64)) error {
	if complete, err := r.clear(ctx, spec.UUID, name); complete || err != nil {
		return err
	}
	err := r.fill(ctx, spec, name+partialSuffix, from, progress)
	if err == nil {
		err = r.finish(ctx, spec, name)
	}
	if err == nil {
		return nil
	}
	// Also when ctx ended: what was made so far is not left for the next import.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	if complete, cleared := r.clear(ctx, spec.UUID, name); !complete {
		return errors.Join(err, cleared)
	}
	return nil // it has its name: what failed came after
}

// finish makes an image of a partial that was verified.
func (r *Roots) finish(ctx context.Context, spec api.ImageSpec, name string) error {
	props := map[string]string{"readonly": "on"}
	if spec.Type == api.ImageZvol {
		props["volmode"] = "none" // its device was only there to fill it
	}
	partial := name + partialSuffix
	from := filled(spec, partial)
	if spec.File.Format != api.FormatZFS { // which was received with them
		if err := r.zfs().Set(ctx, from, props); err != nil {
			return err
		}
	}
	if err := r.zfs().Rename(ctx, from, name); err != nil || from == partial {
		return err
	}
	return r.zfs().Destroy(ctx, partial)
}

// fill makes the partial with its @final, verified.
func (r *Roots) fill(ctx context.Context, spec api.ImageSpec, partial string, from io.Reader, progress func(int64)) error {
	src, err := newVerifier(spec.File, from, progress)
	if err != nil {
		return err
	}
	if err = fits(spec); err != nil {
		return err
	}
	switch spec.File.Format {
	case api.FormatTar:
		err = r.unpackTar(ctx, spec, partial, src)
	case api.FormatRaw:
		err = r.importRaw(ctx, spec, partial, src)
	case api.FormatQCOW2:
		err = r.importQCOW2(ctx, spec, partial, src)
	default:
		err = r.receive(ctx, spec, partial, src)
	}
	if err = src.verdict(ctx, err); err != nil {
		return err
	}
	if spec.File.Format == api.FormatZFS {
		return r.received(ctx, spec, partial)
	}
	return r.zfs().Snapshot(ctx, filled(spec, partial), finalSnapshot, false)
}

// filled is the dataset that becomes an image: the partial, or a volume below it.
func filled(spec api.ImageSpec, partial string) string {
	if spec.File.Format == api.FormatQCOW2 {
		return partial + "/" + volumeChild
	}
	return partial
}

// fits says that an image's type and the format of its file do not go together, or that a
// format is not known here.
func fits(spec api.ImageSpec) error {
	volume := spec.Type == api.ImageZvol
	switch spec.File.Format {
	case api.FormatZFS:
		return nil
	case api.FormatTar:
		if !volume {
			return nil
		}
	case api.FormatRaw, api.FormatQCOW2:
		if volume {
			return nil
		}
	}
	return fmt.Errorf("a file of format %q makes no image of type %q here; a newer platform may know it", spec.File.Format, spec.Type)
}

// quotaFor bounds what an image may take in the pool: what it has without compression
// twice, and room for a million of small files, which take a block each.
func quotaFor(f api.ImageFile, l tree.Limits) string {
	bytes := l.Bytes
	if f.UncompressedSize > 0 {
		bytes = min(bytes, f.UncompressedSize)
	}
	return fmt.Sprint(2*bytes + 4<<30)
}

func (r *Roots) unpackTar(ctx context.Context, spec api.ImageSpec, partial string, src *verifier) (err error) {
	l := limitsOf(spec.File)
	props := rootProps(map[string]string{propImage: spec.UUID, "quota": quotaFor(spec.File, l)})
	if err := r.zfs().Create(ctx, partial, props); err != nil {
		return err
	}
	if err := makeRoot(ctx, r.zfs(), partial); err != nil {
		return err
	}
	to, err := openTree(ctx, r.zfs(), partial, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	plain, err := tree.Decompress(src, spec.File.Compression, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	sum, err := unpack(ctx, to, tree.NewReader(plain, l))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if sum.Devices > 0 {
		r.log().InfoContext(ctx, "image has device nodes, which were left out", "image", spec.UUID, "count", sum.Devices, "first", sum.Left)
	}
	return nil
}

// limitsOf are the limits of an image; one that says how long it is without compression
// may not be longer.
func limitsOf(f api.ImageFile) tree.Limits {
	l := tree.DefaultLimits()
	if f.UncompressedSize > 0 {
		l.Bytes = min(l.Bytes, f.UncompressedSize)
	}
	return l
}

// receive makes the partial of a ZFS stream. It is not resumable (-s): bytes that were
// verified only in part are not gone on with, and what is not resumable the kernel
// destroys by itself when the receive or the machine ends (dsl_destroy_inconsistent).
func (r *Roots) receive(ctx context.Context, spec api.ImageSpec, partial string, src *verifier) (err error) {
	l := limitsOf(spec.File)
	plain, err := tree.Decompress(src, spec.File.Compression, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	var head strings.Builder
	info, err := tree.ReadStream(io.TeeReader(plain, &head))
	if err != nil {
		return err
	}
	if info.Origin != "" {
		return fmt.Errorf("the ZFS stream is a change of the snapshot with GUID %s, not a whole file system; send one without -i", info.Origin)
	}
	if err := sameGUID(spec.File, info.GUID); err != nil {
		return err
	}
	if err := sameKind(spec, info.Volume); err != nil {
		return err
	}
	props := rootProps(map[string]string{propImage: spec.UUID, "quota": quotaFor(spec.File, l)})
	if info.Volume {
		props = map[string]string{propImage: spec.UUID, "volmode": "none", "refreservation": "none"}
	}
	props["readonly"] = "on"
	if err := r.zfs().Receive(ctx, partial+"@"+finalSnapshot, io.MultiReader(strings.NewReader(head.String()), plain), props, false); err != nil {
		return err
	}
	// A second stream behind the first: zfs receive leaves it unread.
	if n, err := io.Copy(io.Discard, plain); err != nil || n > 0 {
		return errors.Join(err, fmt.Errorf("%d bytes are behind the end of the ZFS stream", n))
	}
	return nil
}

func sameGUID(f api.ImageFile, guid string) error {
	if f.DatasetGUID != "" && f.DatasetGUID != guid {
		return fmt.Errorf("the ZFS stream is of the snapshot with GUID %s, not %s as the manifest says", guid, f.DatasetGUID)
	}
	return nil
}

func sameKind(spec api.ImageSpec, volume bool) error {
	switch {
	case volume && spec.Type != api.ImageZvol:
		return fmt.Errorf("the ZFS stream is of a volume, not of a file system as an image of type %s is", spec.Type)
	case !volume && spec.Type == api.ImageZvol:
		return errors.New("the ZFS stream is of a file system, not of a volume as an image of type zvol is")
	}
	return nil
}

// received looks at what a stream made.
func (r *Roots) received(ctx context.Context, spec api.ImageSpec, partial string) error {
	if spec.Type != api.ImageZvol {
		return r.hasRoot(ctx, partial)
	}
	all, err := r.zfs().List(ctx, partial, "volsize")
	if err != nil {
		return err
	}
	if mib := (number(all[partial]["volsize"]) + 1<<20 - 1) >> 20; mib != int64(spec.SizeMiB) {
		return fmt.Errorf("the volume in the ZFS stream has %d MiB, not %d as the manifest says", mib, spec.SizeMiB)
	}
	return nil
}

// hasRoot says that a file system has no root of a zone in it.
func (r *Roots) hasRoot(ctx context.Context, name string) error {
	t, err := openTree(ctx, r.zfs(), name, true)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the ZFS stream is of a file system without a folder %s, in which a zone's root is: %w", rootFolder, err)
	}
	if err != nil {
		return err
	}
	return t.Close()
}

// clear destroys what a cut import left of an image, and says whether the image is
// complete instead.
func (r *Roots) clear(ctx context.Context, uuid, name string) (complete bool, err error) {
	names := []string{name + partialSuffix, name}
	found := make([]map[string]map[string]string, len(names))
	look, lctx := errgroup.WithContext(ctx)
	for i, dataset := range names {
		look.Go(func() (err error) {
			if found[i], err = r.zfs().List(lctx, dataset, "type", propImage); errors.Is(err, fs.ErrNotExist) {
				found[i], err = nil, nil
			}
			return err
		})
	}
	if err := look.Wait(); err != nil {
		return false, err
	}
	for i, dataset := range names {
		all := found[i]
		if all == nil {
			continue
		}
		if all[dataset][propImage] != uuid {
			return false, fmt.Errorf("%s: %w", dataset, ErrForeign)
		}
		if _, ok := all[dataset+"@"+finalSnapshot]; ok && dataset == name {
			return true, nil
		}
		if err := r.destroy(ctx, dataset, all); err != nil {
			return false, err
		}
	}
	return false, nil
}
