package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nereid/api"
)

// redrawEvery keeps "last seen" true on a terminal.
const redrawEvery = 5 * time.Second

func (a *app) serverWatch() *cobra.Command {
	var wide bool
	cmd := &cobra.Command{
		Use:   "watch [SERVER...]",
		Short: "Follow what servers do",
		Long: `On a terminal that can draw, shows the table of "server list" and draws it again when something changes. Elsewhere prints a line for each
change of a server's state; with -o json each server whose record changed, one a line, and with -o yaml as one document each.

Ctrl-C ends it. A head node that goes away is waited for.`,
		Example: lines("nereid server watch", "nereid server watch cn0 cn1",
			"nereid server watch -o json | jq -r 'select(.state==\"pending\") | .uuid'"),
		ValidArgsFunction: a.completeServers(true),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			only := map[string]bool{}
			for _, id := range args {
				s, err := a.look(ctx, c, id)
				if err != nil {
					return err
				}
				only[watched(s)] = true
				for _, mac := range s.MACs { // by which it is known before and after it enrols
					only[mac] = true
				}
			}
			keep := func(s api.Server) bool {
				return len(only) == 0 || only[watched(s)] || slices.ContainsFunc(s.MACs, func(mac string) bool { return only[mac] })
			}
			show := a.watchShows(wide)
			return follow(ctx, c, api.EventQuery{Kinds: []string{"server", "boot", "platform", "bond"}}, redrawEvery, func(ctx context.Context) (bool, error) {
				servers, err := listServers(ctx, c, keep)
				if err != nil {
					return false, err
				}
				return false, show(servers)
			}, func(err error) {
				fmt.Fprintf(a.stderr, "nereid: %s; still watching\n", oneLine(err.Error()))
			})
		}),
	}
	cmd.Flags().BoolVar(&wide, "wide", false, "all columns, whole UUIDs and MAC addresses")
	return cmd
}

// watchShows chooses how servers are shown: as records for programs, as a table
// that is drawn over the last one, or as a line for each change.
func (a *app) watchShows(wide bool) func([]api.Server) error {
	switch {
	case a.output == "json" || a.output == "yaml":
		return a.watchRecords()
	case a.escapes(a.stdout):
		return func(servers []api.Server) error { return a.redraw(servers, wide) }
	}
	return a.watchLines()
}

// redraw writes the table over what the screen shows, in one write.
func (a *app) redraw(servers []api.Server, wide bool) error {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	fmt.Fprintf(&b, "%s   %s   Ctrl-C ends\n\n", stamp(a.now()), api.Plural(len(servers), "server"))
	if err := a.serverTable(servers, wide).write(&b); err != nil {
		return err
	}
	screen := firstLines(b.String(), a.height(a.stdout), "nereid server list")
	out := bytes.ReplaceAll([]byte(screen), []byte("\n"), []byte("\x1b[K\n"))
	_, err := a.stdout.Write(append(out, "\x1b[J"...))
	return err
}

// firstLines leaves out the lines that a screen of so many lines has no room for,
// and says so: drawn over the first, they would move the screen. 0: it has room.
func firstLines(text string, height int, all string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	if height <= 2 || len(lines) < height {
		return text
	}
	rest := len(lines) - (height - 2)
	return strings.Join(lines[:height-2], "") + fmt.Sprintf("and %s, for which the screen has no room: %s\n", api.Plural(rest, "more line"), all)
}

// watchLines prints what changed of a server's state since the last look.
func (a *app) watchLines() func([]api.Server) error {
	type seen struct{ hostname, state, notes string }
	before := map[string]seen{}
	return func(servers []api.Server) error {
		now := map[string]seen{}
		for _, s := range servers {
			is := seen{s.Hostname, string(s.State), notes(s)}
			now[watched(s)] = is
			was, known := before[watched(s)]
			if was == is {
				continue
			}
			change := is.state
			if known && was.state != is.state {
				change = was.state + " -> " + is.state
			}
			if is.notes != "" {
				change += " (" + is.notes + ")"
			}
			if err := a.watchLine(watched(s), is.hostname, change); err != nil {
				return err
			}
		}
		for uuid, was := range before {
			if _, there := now[uuid]; !there && was.state != string(api.StateNew) {
				if err := a.watchLine(uuid, was.hostname, "forgotten"); err != nil {
					return err
				}
			}
		}
		before = now
		return nil
	}
}

// watched is what a server is told from others by: its UUID, and before it enrols its
// MAC.
func watched(s api.Server) string {
	if s.UUID == "" && len(s.MACs) > 0 {
		return s.MACs[0]
	}
	return s.UUID
}

func (a *app) watchLine(uuid, hostname, change string) error {
	_, err := fmt.Fprintf(a.stdout, "%s  %s  %s  %s\n", a.now().UTC().Format(time.RFC3339), uuid, firstOf(oneLine(hostname), "-"), oneLine(change))
	return err
}

// watchRecords prints the servers whose records changed, but for what changes
// all the time: the time of the last sync, and usage.
func (a *app) watchRecords() func([]api.Server) error {
	before := map[string]string{}
	return func(servers []api.Server) error {
		for _, s := range servers {
			bare := s
			bare.LastSeen, bare.Usage = nil, nil
			b, err := json.Marshal(bare)
			if err != nil {
				return err
			}
			if before[watched(s)] == string(b) {
				continue
			}
			before[watched(s)] = string(b)
			if err := a.record(a.stdout, s); err != nil {
				return err
			}
		}
		return nil
	}
}

func (a *app) record(w io.Writer, s api.Server) error {
	if a.output == "json" {
		return jsonLine(w, s)
	}
	return yamlDocument(w, s)
}
