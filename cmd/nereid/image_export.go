package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/images"
)

func (a *app) imageExport(k kind[api.Image, api.ImageUpdate]) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "export IMAGE", Short: "Write an image's manifest and file into a directory",
		Long: `Writes an image's manifest (as IMGAPI has it, version 2) and its file into a directory, as "nereid image import DIR" reads them. Its digest
is compared. It can be broken off and run again: it goes on where it was.

` + imageIDs,
		Example:           lines("nereid image export debian --out ./debian"),
		Args:              wants("IMAGE"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Images().Get(ctx, args[0])
			if err != nil {
				return err
			}
			if err := a.exportImage(ctx, c, i, out); err != nil {
				return fmt.Errorf("export image %s@%s: %w", i.Name, i.Version, err)
			}
			return a.done(i, "image %s@%s (%s) is in %s", i.Name, i.Version, size(i.Files[0].Size), out)
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "directory, which is made where it is not there")
	_ = cmd.MarkFlagRequired("out")
	_ = cmd.MarkFlagDirname("out")
	return cmd
}

// exportImage writes the file and then the manifest: a directory without a manifest is not
// whole.
func (a *app) exportImage(ctx context.Context, c *api.Client, i api.Image, dir string) (err error) {
	if i.State == api.ImageCreating || i.State == api.ImageFailed {
		return fmt.Errorf("it is %s, and has no file", i.State)
	}
	manifest, err := images.FormatImage(i)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	part := filepath.Join(dir, fileName+".partial-"+i.UUID)
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	want, sum := i.Files[0], sha256.New()
	have, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	b := a.newBar(i.Name, want.Size)
	defer b.end()
	b.at(have)
	if have < want.Size {
		r, err := c.OpenImage(ctx, i.UUID, have, want.Size)
		if err != nil {
			return err
		}
		defer r.Close()
		if _, err := io.Copy(io.MultiWriter(f, sum), &meter{ctx: ctx, r: r, n: have, at: b.at}); err != nil {
			return err
		}
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != want.Digest {
		return errors.Join(fmt.Errorf("its digest is %s, not %s; what came was removed, so run it again", got, want.Digest), os.Remove(part))
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part, filepath.Join(dir, fileName)); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, manifestName), manifest, 0o644)
}
