package main

import (
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/platform"
)

// builtImage is what "nereid image build" prints for programs.
type builtImage struct {
	Dir   string    `json:"dir"`
	Image api.Image `json:"image"`
}

func (a *app) imageBuild() *cobra.Command {
	var o platform.ImageOptions
	cmd := &cobra.Command{
		Use: "build debian|tiny --out DIR", Short: "Build an image for zones (root, on Debian)",
		Long: `Builds an image of a Linux zone from Debian's packages: "debian" is a small Debian with systemd, without an apt source, as
no mirror is right everywhere; "tiny" is BusyBox alone, for tests. DIR gets manifest.json and image.tar.zst; with --oci it gets an
OCI image layout of the same tree. The same packages give the same bytes and UUID. It needs root, and the Debian packages that it
names when they are missing. What did not change comes from the cache.`,
		Example: lines("nereid image build debian --out ./debian",
			"nereid image build debian --oci --out ./debian-oci",
			"nereid image build tiny --out ./tiny"),
		Args: wants("debian|tiny"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []cobra.Completion{
				cobra.CompletionWithDesc(platform.ImageDebian, "a small Debian with systemd"),
				cobra.CompletionWithDesc(platform.ImageTiny, "BusyBox alone, for tests"),
			}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Kind = args[0]
			o.Progress, o.Live = a.stderr, a.escapes(a.stderr)
			r, err := platform.BuildImage(cmd.Context(), o)
			if err != nil {
				return err
			}
			out := builtImage{Dir: o.Out, Image: r.Image}
			return a.emit(out, func(w io.Writer) error { return a.builtImageCard(w, out, o.OCI) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Out, "out", "", "directory the image is written to")
	f.BoolVar(&o.OCI, "oci", false, "write an OCI image layout of one layer")
	f.StringVar(&o.Cache, "cache", "", "directory of cached stages (default: nereid in your cache directory)")
	f.StringVar(&o.Suite, "suite", "", "Debian suite (default trixie)")
	f.StringVar(&o.Mirror, "mirror", "", "URL of a Debian mirror (default: this machine's)")
	f.BoolVar(&o.Refresh, "refresh", false, "ask the mirror for newer packages, even when it was asked within a day")
	_ = cmd.MarkFlagRequired("out")
	_ = cmd.MarkFlagDirname("out")
	_ = cmd.MarkFlagDirname("cache")
	return cmd
}

func (a *app) builtImageCard(w io.Writer, b builtImage, oci bool) error {
	c := a.card(w)
	c.printf("Image %s %s is in %s\n", bold.paint(b.Image.Name, c.colour), oneLine(b.Image.Version), oneLine(b.Dir))
	if !oci {
		c.line("UUID", b.Image.UUID)
		c.line("file", filepath.Join(b.Dir, platform.ImageFileName)+", "+size(b.Image.Files[0].Size))
		c.line("digest", b.Image.Files[0].Digest)
	}
	c.line("unpacked", size(b.Image.Files[0].UncompressedSize))
	return c.err
}
