package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) platformCommand() *cobra.Command {
	return noun("platform", "Platform images: build, import, assign, verify",
		lines("nereid platform build --out ./platform", "nereid platform import ./platform", "nereid platform list"),
		a.platformBuild(), a.platformImport(), a.platformList(), a.platformGet(), a.platformAssign(), a.platformDefault(),
		a.platformDelete(), a.platformVerify(), a.platformCollect(), a.platformKey())
}

func (a *app) platformList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List platform images",
		Long:              "Lists the platform images the head node has, newest first: versions, size, whether every file is there, and who uses them.",
		Example:           lines("nereid platform list", "nereid platform list -o json | jq -r '.[].manifest.stamp'"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			ps, err := c.Platforms(ctx)
			if err != nil {
				return err
			}
			slices.SortFunc(ps, func(x, y api.Platform) int { return strings.Compare(y.Manifest.Stamp, x.Manifest.Stamp) })
			if ps == nil {
				ps = []api.Platform{}
			}
			return a.emit(ps, func(w io.Writer) error {
				if len(ps) == 0 {
					_, err := fmt.Fprintln(w, "No platform images yet. Build one (nereid platform build --out DIR) and import it (nereid platform import DIR).")
					return err
				}
				t := a.table("STAMP", "SUITE", "KERNEL", "ZFS", "AGENT", "SIZE", "IMPORTED", "USED BY", "NOTES")
				t.spare, t.more = []string{"SUITE", "AGENT", "ZFS"}, "nereid platform get STAMP"
				for _, p := range ps {
					m := p.Manifest
					t.add(styled(m.Stamp, bold), text(m.Suite), text(m.KernelVersion), text(m.ZFSVersion), text(m.AgentVersion),
						cell{text: size(p.SizeBytes), right: true}, text(a.ago(p.Imported)), number("%d", len(p.UsedBy)), styled(platformNote(p), yellow))
				}
				return t.write(w)
			})
		}),
	}
}

// platformNote says what is special about a platform.
func platformNote(p api.Platform) string {
	var out []string
	if p.Default {
		out = append(out, "default")
	}
	if !p.Complete {
		out = append(out, "incomplete: "+api.Plural(len(p.Missing), "file")+" missing")
	}
	return strings.Join(out, "; ")
}

func (a *app) platformGet() *cobra.Command {
	return &cobra.Command{
		Use: "get STAMP", Short: "Show a platform image",
		Long:              "Shows a platform's versions, files and digests, and the servers that run it, are assigned it or may fall back to it.",
		Example:           lines("nereid platform get 20261122T101500Z", "nereid platform get 20261122T101500Z -o json | jq .manifest.layers"),
		Args:              wants("STAMP"),
		ValidArgsFunction: a.oneStamp,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := c.Platform(ctx, args[0])
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) error { return a.platformCard(w, p) })
		}),
	}
}

func (a *app) platformCard(w io.Writer, p api.Platform) error {
	m := p.Manifest
	c := a.card(w)
	c.printf("%s  %s\n", bold.paint(oneLine(m.Stamp), c.colour), oneLine(platformNote(p)))
	c.line("arch", m.Arch)
	c.line("suite", m.Suite)
	c.line("kernel", m.KernelVersion)
	c.line("ZFS", m.ZFSVersion)
	c.line("agent", m.AgentVersion)
	c.line("arguments", strings.Join(m.Args, " "))
	c.linef("imported", "%s", stamp(p.Imported))
	c.line("size", size(p.SizeBytes))
	c.line("used by", firstOf(strings.Join(p.UsedBy, " "), "no server"))
	c.section("Files")
	t := &table{header: []string{"NAME", "SIZE", "SHA-256", "HERE"}}
	for _, f := range m.Files() {
		here, st := "yes", plain
		if slices.Contains(p.Missing, f.SHA256) {
			here, st = "missing", red
		}
		t.add(text(f.Name), cell{text: size(f.Size), right: true}, text(f.SHA256), styled(here, st))
	}
	c.table(t)
	return c.err
}

// oneStamp completes a first argument that is a platform.
func (a *app) oneStamp(cmd *cobra.Command, args []string, part string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completePlatforms(cmd, args, part)
}

func (a *app) platformAssign() *cobra.Command {
	return &cobra.Command{
		Use: "assign STAMP|default SERVER...", Short: "Choose what servers boot next",
		Long: `Assigns a platform to servers; "default" takes an assignment away. It takes effect at their next boots, and is on trial until a
boot of it reaches a first sync: after 3 boots that do not, or 10 minutes, the server gets its previous platform back and says why.

` + serverIDs,
		Example: lines("nereid platform assign 20261122T101500Z cn0 cn1", "nereid platform assign default cn0"),
		Args:    wants("STAMP", "SERVER..."),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, part string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return a.completeServers(true)(cmd, args, part)
			}
			out, d := a.completePlatforms(cmd, args, part)
			return append(out, cobra.CompletionWithDesc("default", "no assignment")), d
		},
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			to := args[0]
			if to == "default" {
				to = ""
			}
			return a.each(args[1:], func(id string) (api.Server, error) {
				s, err := a.find(ctx, c, id)
				if err != nil {
					return s, err
				}
				return c.UpdateServer(ctx, s.UUID, api.ServerUpdate{Platform: &to}, s.Revision)
			}, func(s api.Server) string {
				out := fmt.Sprintf("%s boots %s next", named(s), firstOf(s.Platform.Next, s.Platform.Assigned, "the default"))
				if s.Platform.Reason != "" {
					out += " (" + s.Platform.Reason + ")"
				}
				return out
			})
		}),
	}
}

func (a *app) platformDefault() *cobra.Command {
	return &cobra.Command{
		Use: "default STAMP", Short: "Choose what servers without an assignment boot",
		Example:           lines("nereid platform default 20261122T101500Z"),
		Args:              wants("STAMP"),
		ValidArgsFunction: a.oneStamp,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			if err := c.SetDefaultPlatform(ctx, args[0]); err != nil {
				return err
			}
			return a.platformDone(ctx, c, args[0], "%s is the default; servers without an assignment boot it next", args[0])
		}),
	}
}

// platformDone prints what became of a platform.
func (a *app) platformDone(ctx context.Context, c *api.Client, stamp, format string, args ...any) error {
	if a.output == "table" {
		return a.done(nil, format, args...)
	}
	p, err := c.Platform(ctx, stamp)
	if err != nil {
		return err
	}
	return a.done(p, "")
}

func (a *app) platformDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete STAMP", Short: "Delete a platform image that nothing uses",
		Long:              "Deletes a platform. One that a server runs, is assigned or may fall back to, and the default, are refused.",
		Example:           lines("nereid platform delete 20261101T080000Z", "nereid platform delete 20261101T080000Z --yes"),
		Args:              wants("STAMP"),
		ValidArgsFunction: a.oneStamp,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := c.Platform(ctx, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, yes, "delete platform %s (%s)", p.Manifest.Stamp, size(p.SizeBytes)); err != nil {
				return err
			}
			if err := c.DeletePlatform(ctx, args[0]); err != nil {
				return err
			}
			return a.done(p, "platform %s is deleted", args[0])
		}),
	}
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) platformCollect() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "collect", Short: "Delete every platform image and file that nothing uses",
		Long:              "Deletes the platforms that no server runs, is assigned or may fall back to and that are not the default, and what is left of broken imports.",
		Example:           lines("nereid platform collect", "nereid platform collect --yes"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			if err := a.confirm(ctx, yes, "delete every platform that nothing uses"); err != nil {
				return err
			}
			got, err := c.CollectPlatforms(ctx)
			if err != nil {
				return err
			}
			if len(got.Platforms) == 0 && got.Files == 0 {
				return a.done(got, "Nothing to delete: every platform and file is used.")
			}
			return a.done(got, "deleted %s (%s) and %s, %s freed", api.Plural(len(got.Platforms), "platform"), firstOf(strings.Join(got.Platforms, " "), "none"), api.Plural(got.Files, "file"), size(got.FreedBytes))
		}),
	}
	yesFlag(cmd, &yes)
	return cmd
}
