package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/platform"
)

// publicKeyName is the file beside a platform's manifest that "platform key add"
// takes.
const publicKeyName = "manifest.pub"

// built is what "nereid platform build" prints for programs.
type built struct {
	Dir       string       `json:"dir"`
	Manifest  api.Manifest `json:"manifest"`
	PublicKey string       `json:"public_key"`
	Unchanged bool         `json:"unchanged,omitempty"`
	LayerSum  int64        `json:"layers_bytes"`
}

func (a *app) platformBuild() *cobra.Command {
	var o platform.Options
	cmd := &cobra.Command{
		Use: "build --out DIR", Short: "Build a platform image (root, on Debian)",
		Long: `Builds a platform image: a Debian base, a kernel, the ZFS module, the agent, and the small init that fetches them, signed. It needs root
and the Debian packages it names when they are missing. Stages whose inputs did not change are taken from the cache, so a build that
was broken off goes on, and the next one is quick.

The signing key is made when it is not there. The head node must be told its public half once: nereid platform key add.`,
		Example: lines("nereid platform build --out ./platform",
			"nereid platform build --out ./platform --firmware",
			"nereid platform build --out ./platform --qemu=false",
			"nereid platform build --out ./platform --flavour cloud-amd64",
			"nereid platform build --out ./again --from ./platform/packages.json"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Version = version
			o.Progress, o.Live = a.stderr, a.escapes(a.stderr)
			r, err := platform.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			pub := filepath.Join(o.Out, publicKeyName)
			if err := renameio.WriteFile(pub, []byte(r.PublicKey+"\n"), 0o644); err != nil {
				return fmt.Errorf("write public key: %w", err)
			}
			out := built{Dir: o.Out, Manifest: r.Manifest, PublicKey: r.PublicKey, Unchanged: r.Unchanged, LayerSum: r.LayerSum}
			return a.emit(out, func(w io.Writer) error { return a.builtCard(w, out) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Out, "out", "", "directory the platform is written to")
	f.StringVar(&o.Cache, "cache", "", "directory of cached stages (default: nereid in your cache directory)")
	f.StringVar(&o.Key, "key", "", "PEM file of the signing key, made when missing (default: platform.key in the cache)")
	f.StringVar(&o.Module, "source", "", "Nereid's source, for building agent and stub (default: here)")
	f.StringVar(&o.Suite, "suite", "", "Debian suite (default trixie)")
	f.StringVar(&o.Flavour, "flavour", "", "kernel: amd64 (real hardware) or cloud-amd64 (virtual machines) (default amd64)")
	f.StringVar(&o.Mirror, "mirror", "", "URL of a Debian mirror (default: this machine's)")
	f.StringVar(&o.From, "from", "", "packages.json of an earlier build: use exactly its packages")
	f.StringVar(&o.Stamp, "stamp", "", "name of the platform, as 20261122T101500Z (default: now)")
	f.BoolVar(&o.QEMU, "qemu", true, "with the layer that runs virtual machines")
	f.BoolVar(&o.Firmware, "firmware", false, "with the layer of firmware for real hardware")
	f.BoolVar(&o.Refresh, "refresh", false, "ask the mirror for newer packages, even when it was asked within a day")
	_ = cmd.MarkFlagRequired("out")
	_ = cmd.MarkFlagDirname("out")
	_ = cmd.MarkFlagDirname("cache")
	_ = cmd.MarkFlagFilename("key")
	_ = cmd.RegisterFlagCompletionFunc("flavour", cobra.FixedCompletions([]string{platform.FlavourGeneric, platform.FlavourCloud}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) builtCard(w io.Writer, b built) error {
	c := a.card(w)
	note := ""
	if b.Unchanged {
		note = " (unchanged)"
	}
	c.printf("Platform %s%s is in %s\n", bold.paint(b.Manifest.Stamp, c.colour), note, oneLine(b.Dir))
	c.line("kernel", b.Manifest.KernelVersion)
	c.line("ZFS", b.Manifest.ZFSVersion)
	c.line("layers", size(b.LayerSum)+", which stay in a node's memory")
	c.line("public key", b.PublicKey)
	c.section("Files")
	t := &table{header: []string{"NAME", "SIZE"}}
	for _, f := range b.Manifest.Files() {
		t.add(text(f.Name), cell{text: size(f.Size), right: true})
	}
	c.table(t)
	c.printf("\n%s\n", fmt.Sprintf("Next: nereid platform key add mine %s   (once)\n      nereid platform import %s", oneLine(filepath.Join(b.Dir, publicKeyName)), oneLine(b.Dir)))
	return c.err
}
