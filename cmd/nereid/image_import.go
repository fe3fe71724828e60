package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/images"
)

// noOwner is whom an image without an owner belongs to, as in IMGAPI.
const noOwner = "00000000-0000-0000-0000-000000000000"

// Files of a directory that "image export" writes and "image import" reads.
const (
	manifestName = "manifest.json"
	fileName     = "file"
)

// importFlags are what the flags of "image import" say, beside a manifest.
type importFlags struct {
	manifest   string
	set        api.Image // what is not empty goes before the manifest
	public     *bool
	tags       map[string]string
	unactivate bool
	format     string // of the file; empty: as its beginning says
	diskSize   string // of the disk, with its unit
}

// source is an image on this machine.
type source struct {
	file  string    // a path
	image api.Image // what is known of it
	done  func()    // removes what was made for it
}

func (a *app) imageImport() *cobra.Command {
	var fl importFlags
	var public bool
	cmd := &cobra.Command{
		Use: "import SOURCE", Short: "Bring an image to the head node, check it and offer it",
		Long: `Brings an image to the head node. SOURCE is

  FILE   a tar of a root file system, a ZFS stream (zfs send), a qcow2 file or
         the bytes of a disk, plain or compressed by gzip, xz or zstd;
         --manifest is its manifest of IMGAPI
  DIR    a directory that "nereid image build" or "image export" wrote
  URL    http or https: of a FILE; this machine fetches it
  oci:REF, oci-layout:DIR
         an OCI image of a registry, or of a layout on disk, for linux/amd64;
         its layers become one tar, and how it is started is kept

It can be broken off and run again: downloads and uploads go on where they were. Compression is known by a file's first bytes. Without a
manifest an image is named for its file, and its UUID follows from its bytes, owner, name and version: the same import twice is one image.

Tars, and streams of file systems, are for zones. qcow2 files, streams of volumes, and the bytes of a disk are the first disks of virtual
machines: images of type zvol. A disk without a boot sector is named by --format raw. A qcow2 file is kept as it is, and servers unpack it;
one that lies on another file, has its data in one, or is encrypted, is refused.

The head node refuses entries that lead out of the root file system, owners above 65535, and files that are not what was said; it
leaves device nodes out. An image without --owner is the operators', and for everybody.`,
		Example: lines("nereid image import ./debian.tar.zst --name debian --version 13",
			"nereid image import ./ubuntu.zfs.gz --manifest ./ubuntu.manifest",
			"nereid image import ./debian",
			"nereid image import ./debian-13-genericcloud-amd64.qcow2 --name debian-vm --version 13",
			"nereid image import ./data.img.zst --format raw",
			"nereid image import oci-layout:./debian-oci --name debian-oci",
			"nereid image import https://images.example.com/debian.tar.xz --owner 930896af-bf8c-48d4-885c-6573a94b1853"),
		Args: wants("SOURCE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.RunE = a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
		fl.public = given(cmd, "public", public)
		out, again, err := a.importImage(ctx, c, args[0], fl)
		if err != nil {
			return fmt.Errorf("import image: %w", err)
		}
		what := "imported"
		if again {
			what = "there already"
		}
		return a.done(out, "image %s@%s (%s) is %s (%s), and %s", out.Name, out.Version, out.UUID, what, size(out.Files[0].Size), out.State)
	})
	f := cmd.Flags()
	f.StringVar(&fl.manifest, "manifest", "", "file with the image's manifest, as IMGAPI or \"image export\" writes it")
	f.StringVar(&fl.set.Name, "name", "", "name (default that of the manifest or file)")
	f.StringVar(&fl.set.Version, "version", "", "version (default that of the manifest, or 1)")
	f.StringVar(&fl.set.UUID, "uuid", "", "UUID (default that of the manifest, or one that follows from the bytes)")
	f.StringVar(&fl.set.Owner, "owner", "", "account that it belongs to, by UUID (default the operators)")
	f.BoolVar(&public, "public", false, "every account may use it (default that of the manifest; without owner true)")
	f.StringVar(&fl.set.OS, "os", "", "linux, smartos, illumos, windows, bsd or other (default linux)")
	f.StringVar(&fl.set.Description, "description", "", "what it is, in at most 512 characters")
	f.StringToStringVar(&fl.tags, "tag", nil, "a tag, as role=os; can be repeated")
	f.StringVar(&fl.format, "format", "", "raw for the bytes of a disk, or tar, zfs or qcow2 (default by its first bytes)")
	f.StringVar(&fl.diskSize, "disk-size", "", "of the disk in a ZFS stream, in MiB or as 10G (default that of the manifest)")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]cobra.Completion{api.FormatRaw, api.FormatQCOW2, api.FormatTar, api.FormatZFS}, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVar(&fl.unactivate, "no-activate", false, "leave it unactivated: nobody may use it yet")
	return cmd
}

// importImage brings an image to the head node; again says that it was there.
func (a *app) importImage(ctx context.Context, c *api.Client, from string, fl importFlags) (out api.Image, again bool, err error) {
	src, err := a.openSource(ctx, from, fl)
	if err != nil {
		return out, false, err
	}
	defer src.done()
	f, err := os.Open(src.file)
	if err != nil {
		return out, false, err
	}
	defer f.Close()
	i := complete(src.image, fl, from)
	if i, err = a.describe(ctx, f, i, fl); err != nil {
		return out, false, fmt.Errorf("%s: %w", src.file, err)
	}
	if i.UUID == "" {
		i.UUID = uuidFor(i)
	}
	have, err := c.Images().Get(ctx, i.UUID)
	var p *api.Problem
	if err != nil && (!errors.As(err, &p) || p.Code != api.CodeNotFound) {
		return out, false, err
	}
	again = err == nil && len(have.Files) == 1 && have.Files[0].Digest == i.Files[0].Digest && have.State != api.ImageCreating && have.State != api.ImageFailed
	if out = have; !again {
		if out, err = a.bring(ctx, c, i, f); err != nil {
			return out, false, err
		}
	}
	if fl.unactivate || out.State == api.ImageActive {
		return out, again, nil
	}
	out, err = c.ActivateImage(ctx, out.UUID)
	return out, again, err
}

// bring makes the image, uploads its file, and has it checked.
func (a *app) bring(ctx context.Context, c *api.Client, i api.Image, f *os.File) (api.Image, error) {
	i, err := c.Images().Create(ctx, i)
	if err != nil {
		return i, err
	}
	b := a.newBar(i.Name, i.Files[0].Size)
	defer b.end()
	if err := c.UploadImage(ctx, i, f, b.at); err != nil {
		return i, err
	}
	st := a.newStatus(i.Name)
	st.show("the head node reads and checks it")
	defer st.end()
	return c.VerifyImage(ctx, i.UUID)
}

// openSource finds the image, and fetches it where it is not on this machine.
func (a *app) openSource(ctx context.Context, from string, fl importFlags) (s source, err error) {
	s.done = func() {}
	manifest := fl.manifest
	switch {
	case strings.HasPrefix(from, "http://"), strings.HasPrefix(from, "https://"):
		if s.file, s.done, err = a.download(ctx, from); err != nil {
			return s, err
		}
	case strings.HasPrefix(from, "oci:"), strings.HasPrefix(from, "oci-layout:"):
		if manifest != "" {
			return s, usagef("%s has its own manifest; leave --manifest out", from)
		}
		return a.flatten(ctx, from)
	default:
		st, err := os.Stat(from)
		if err != nil {
			return s, codedError{exitNotFound, err}
		}
		if s.file = from; st.IsDir() {
			if manifest != "" {
				return s, usagef("%s is a directory, which has its own manifest; leave --manifest out", from)
			}
			manifest = filepath.Join(from, manifestName)
			if s.file, err = fileIn(from); err != nil {
				return s, err
			}
		}
	}
	if manifest != "" {
		b, err := os.ReadFile(manifest)
		if err != nil {
			return s, err
		}
		if s.image, err = images.ParseImage(b); err != nil {
			return s, fmt.Errorf("%s: %w", manifest, err)
		}
	}
	return s, nil
}

// fileIn is the file beside the manifest of a directory.
func fileIn(dir string) (string, error) {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var files []string
	for _, e := range ents {
		if e.Type().IsRegular() && e.Name() != manifestName && !strings.HasPrefix(e.Name(), fileName+".partial-") {
			files = append(files, e.Name())
		}
	}
	if len(files) != 1 {
		return "", fmt.Errorf("%s has %s beside %s; want the image's file, and no other", dir, api.Plural(len(files), "file"), manifestName)
	}
	return filepath.Join(dir, files[0]), nil
}

// complete puts what the flags say before what the manifest says, and what neither says.
func complete(i api.Image, fl importFlags, from string) api.Image {
	for to, flag := range map[*string]string{&i.Name: fl.set.Name, &i.Version: fl.set.Version, &i.UUID: fl.set.UUID, &i.Owner: fl.set.Owner,
		&i.OS: fl.set.OS, &i.Description: fl.set.Description} {
		*to = firstOf(flag, *to)
	}
	if i.Source == "" {
		i.Source = plainSource(from)
	}
	if i.Name == "" {
		i.Name, _, _ = strings.Cut(filepath.Base(i.Source), ".")
	}
	i.V, i.Version, i.OS, i.Owner = 2, firstOf(i.Version, "1"), firstOf(i.OS, "linux"), firstOf(i.Owner, noOwner)
	switch {
	case fl.public != nil:
		i.Public = *fl.public
	case i.Owner == noOwner:
		i.Public = true
	}
	for k, v := range fl.tags {
		if i.Tags == nil {
			i.Tags = map[string]any{}
		}
		i.Tags[k] = v
	}
	return i
}

// meter shows how far a file was read, and ends with its context.
type meter struct {
	ctx context.Context
	r   io.Reader
	n   int64
	at  func(int64)
}

func (c *meter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.at(c.n)
	return n, err
}

// uuidFor is a UUID that follows from what an image is (RFC 9562, section 5.8).
func uuidFor(i api.Image) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{"nereid image", i.Files[0].Digest, i.Owner, i.Name, i.Version}, "\n")))
	b := sum[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
