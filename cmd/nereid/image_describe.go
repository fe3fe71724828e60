package main

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"nereid/api"
	"nereid/images/tree"
)

// describe says what the file of an image is, and compares it with what was said of it.
func (a *app) describe(ctx context.Context, f *os.File, i api.Image, fl importFlags) (api.Image, error) {
	if len(i.Files) > 1 {
		return i, fmt.Errorf("its manifest has %s; images have one", api.Plural(len(i.Files), "file"))
	}
	var file api.ImageFile
	if len(i.Files) == 1 {
		file = i.Files[0]
		file.Format = firstOf(file.Format, api.FormatZFS)
	}
	found, err := tree.Sniff(whole(f))
	if err != nil {
		return i, err
	}
	if file.Compression != "" && file.Compression != found.Compression {
		return i, fmt.Errorf("its manifest says compression %s; by its first bytes it has %s", file.Compression, found.Compression)
	}
	wanted, by := file.Format, "its manifest says format %s (zfs where it says none); by its first bytes it has %s"
	if fl.format != "" {
		wanted, by = fl.format, "--format is %s; by its first bytes it has %s"
	}
	if wanted == api.FormatRaw && found.Format == api.FormatTar {
		found.Format = api.FormatRaw // a disk may begin with anything
	}
	if wanted != "" && wanted != found.Format {
		return i, fmt.Errorf(by, wanted, found.Format)
	}
	file.Compression, file.Format = found.Compression, found.Format
	if err := a.digest(ctx, f, &file); err != nil {
		return i, err
	}
	i.Files = []api.ImageFile{file}
	return a.disk(ctx, f, i, found, fl)
}

// whole reads a file from its beginning.
func whole(f *os.File) io.Reader { return io.NewSectionReader(f, 0, 1<<62) }

// digest reads a file, and compares its size and digests with what was said of them.
func (a *app) digest(ctx context.Context, f *os.File, out *api.ImageFile) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	bar := a.newBar("reading", st.Size())
	defer bar.end()
	bar.at(0)
	sum, old := sha256.New(), sha1.New()
	n, err := io.Copy(io.MultiWriter(sum, old), &meter{ctx: ctx, r: whole(f), at: bar.at})
	if err != nil {
		return err
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	switch {
	case out.Size != 0 && out.Size != n:
		return fmt.Errorf("it has %d bytes, not %d as its manifest says", n, out.Size)
	case out.Digest != "" && out.Digest != digest:
		return fmt.Errorf("its digest is %s, not %s as its manifest says", digest, out.Digest)
	case out.SHA1 != "" && out.SHA1 != hex.EncodeToString(old.Sum(nil)):
		return fmt.Errorf("its SHA-1 is %x, not %s as its manifest says", old.Sum(nil), out.SHA1)
	}
	out.Size, out.Digest = n, digest
	return nil
}

// disk says whether an image is a disk, and how large that is.
func (a *app) disk(ctx context.Context, f *os.File, i api.Image, found tree.Sniffed, fl importFlags) (api.Image, error) {
	isDisk := found.Volume || found.Format == api.FormatRaw || found.Format == api.FormatQCOW2
	kind := api.ImageLXDataset
	if isDisk {
		kind = api.ImageZvol
	}
	i.Type = firstOf(i.Type, kind)
	if (i.Type == api.ImageZvol) != isDisk {
		return i, fmt.Errorf("its manifest says type %s; by its first bytes it is of type %s", i.Type, kind)
	}
	if !isDisk {
		if fl.diskSize != "" {
			return i, usagef("--disk-size is for the image of a disk; this is one for zones")
		}
		return i, nil
	}
	said := i.SizeMiB
	if fl.diskSize != "" {
		var err error
		if said, err = mebibytes("--disk-size", fl.diskSize); err != nil {
			return i, err
		}
	}
	bytes := found.Disk
	if found.Format == api.FormatRaw {
		bar := a.newBar("measuring", i.Files[0].Size)
		defer bar.end()
		plain, err := tree.Decompress(&meter{ctx: ctx, r: whole(f), at: bar.at}, found.Compression, tree.Limits{Bytes: 1 << 60, Ratio: 1 << 40})
		if err != nil {
			return i, err
		}
		defer plain.Close()
		if bytes, err = io.Copy(io.Discard, plain); err != nil {
			return i, err
		}
	}
	if i.SizeMiB = int((bytes + 1<<20 - 1) >> 20); bytes == 0 {
		i.SizeMiB = said
	}
	switch {
	case i.SizeMiB == 0:
		return i, usagef("a ZFS stream does not say how large its volume is; give it with --disk-size")
	case said != 0 && said != i.SizeMiB:
		return i, fmt.Errorf("the disk in it has %d MiB, not %d as was said", i.SizeMiB, said)
	}
	return i, nil
}

// mebibytes reads a size in MiB, or with one of the units M, G and T.
func mebibytes(flag, text string) (int, error) {
	number, factor := text, 1
	for unit, f := range map[string]int{"M": 1, "G": 1 << 10, "T": 1 << 20} {
		if n, ok := strings.CutSuffix(text, unit); ok {
			number, factor = n, f
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > 1<<40/factor {
		return 0, usagef("%s %q: want MiB, or a number and M, G or T, as 20G", flag, text)
	}
	return n * factor, nil
}
