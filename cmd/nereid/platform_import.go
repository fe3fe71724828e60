package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/images"
)

func (a *app) platformImport() *cobra.Command {
	var makeDefault bool
	cmd := &cobra.Command{
		Use: "import DIR", Short: "Upload a platform image to the head node",
		Long: `Registers the signed manifest in DIR and uploads the files the head node does not have. It can be broken off and run again: it goes
on where it was. The head node checks the signature first, which needs the key it is made with ("nereid platform key add"), and
each file's digest when it is complete.`,
		Example: lines("nereid platform import ./platform", "nereid platform import ./platform --default"),
		Args:    wants("DIR"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := a.importPlatform(ctx, c, args[0])
			if err != nil {
				return err
			}
			stamp, note := p.Manifest.Stamp, ""
			if makeDefault {
				if err := c.SetDefaultPlatform(ctx, stamp); err != nil {
					return fmt.Errorf("make %s the default: %w", stamp, err)
				}
				p.Default = true
			}
			if p.Default { // the head node makes the first one so by itself
				note = ", and is the default"
			}
			return a.done(p, "platform %s is imported (%s)%s", stamp, size(p.SizeBytes), note)
		}),
	}
	cmd.Flags().BoolVar(&makeDefault, "default", false, "make it the default afterwards")
	return cmd
}

// importPlatform uploads what the head node misses of the platform in dir.
func (a *app) importPlatform(ctx context.Context, c *api.Client, dir string) (api.Platform, error) {
	signed, m, err := images.ReadPlatform(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return api.Platform{}, codedError{exitNotFound, fmt.Errorf("import platform: %w", err)}
	case err != nil:
		return api.Platform{}, fmt.Errorf("import platform: %w", err)
	}
	p, err := c.AddPlatform(ctx, signed)
	if err != nil {
		return p, fmt.Errorf("import platform %s: %w", m.Stamp, err)
	}
	sent := map[string]bool{}
	for _, f := range m.Files() {
		if !slices.Contains(p.Missing, f.SHA256) || sent[f.SHA256] {
			continue
		}
		sent[f.SHA256] = true
		if err := a.upload(ctx, c, filepath.Join(dir, f.Name), f); err != nil {
			return p, fmt.Errorf("import platform %s: %w", m.Stamp, err)
		}
	}
	if p, err = c.Platform(ctx, m.Stamp); err != nil {
		return p, fmt.Errorf("import platform %s: %w", m.Stamp, err)
	}
	if !p.Complete {
		return p, fmt.Errorf("import platform %s: everything was sent, and the head node still misses %s; run the import again", m.Stamp, api.Plural(len(p.Missing), "file"))
	}
	return p, nil
}

func (a *app) upload(ctx context.Context, c *api.Client, path string, f api.File) error {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	b := a.newBar(f.Name, f.Size)
	defer b.end()
	return c.Upload(ctx, f, src, b.at)
}
