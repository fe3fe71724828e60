package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) eventsCommand() *cobra.Command {
	var q api.EventQuery
	var on []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow what changes in the datacenter",
		Long: `Prints a line for each change: when, the event's id, what kind of thing changed, and which. With -o json each event is a line of its own,
with -o yaml a document.

An event says what to read again, not what it is now. Each filter can be repeated, and lets through what has one of its values. Changes of sets of
the journal, which servers follow, come only to who asks for them, with --set or --kind set.

Ctrl-C ends it, and so does --timeout, without an error. A head node that goes away is waited for, and nothing is missed meanwhile. --since-id goes on behind an event of an earlier run. The
head node keeps the last 32768 events, and none over its own restart: who asks for older ones gets one event of the kind reset in place of them, and
has to read anew what it looks at.`,
		Example: lines("nereid events",
			"nereid events --kind nic --kind network --owner 930896af-bf8c-48d4-885c-6573a94b1853",
			"nereid events --on cn0 --since-id 5d0c3a7e-1207",
			"nereid events --set vni/ -o json | jq -r .set"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			if a.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, a.timeout, errTimeout)
				defer cancel()
			}
			err := a.events(ctx, c, q, on)
			if errors.Is(context.Cause(ctx), errTimeout) {
				return nil
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.StringSliceVar(&q.Kinds, "kind", nil, "only things of this kind: server, boot, platform, nic, network ...")
	f.StringSliceVar(&q.Owners, "owner", nil, "only what this account has")
	f.StringSliceVar(&on, "on", nil, "only what is about this server")
	f.StringSliceVar(&q.Sets, "set", nil, `only this set of the journal, or with a "/" at the end all below it`)
	f.StringVar(&q.Since, "since-id", "", "id of an event: go on behind it")
	_ = cmd.RegisterFlagCompletionFunc("on", a.completeServers(true))
	return cmd
}

// events prints events, of some servers if any are named, until ctx ends.
func (a *app) events(ctx context.Context, c *api.Client, q api.EventQuery, on []string) error {
	for _, id := range on {
		s, err := a.find(ctx, c, id)
		if err != nil {
			return err
		}
		q.Servers = append(q.Servers, s.UUID)
	}
	q.Away = func(err error) {
		fmt.Fprintf(a.stderr, "nereid: %s; still following\n", oneLine(err.Error()))
	}
	s, err := c.Events(ctx, q)
	if err != nil {
		return err
	}
	for ev, err := range s.All() {
		if err == nil {
			err = a.event(ev)
		}
		if err != nil {
			_ = s.Close()
			return err
		}
	}
	return nil
}

// event prints one event.
func (a *app) event(ev api.Event) error {
	switch a.output {
	case "json":
		return jsonLine(a.stdout, ev)
	case "yaml":
		return yamlDocument(a.stdout, ev)
	}
	what := firstOf(ev.Path, ev.Set, ev.Name, ev.Server)
	if ev.Kind == api.EventReset {
		what = "events were missed: read anew what you look at"
	}
	line := ev.Time.UTC().Format(time.RFC3339)
	for _, part := range []string{ev.ID, ev.Kind, what} {
		line += "  " + oneLine(part)
	}
	if ev.Owner != "" {
		line += "  owner " + oneLine(ev.Owner)
	}
	if ev.Server != "" && ev.Server != what {
		line += "  server " + oneLine(ev.Server)
	}
	_, err := fmt.Fprintln(a.stdout, line)
	return err
}
