package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) instanceTimeline() *cobra.Command {
	return &cobra.Command{
		Use: "timeline INSTANCE", Short: "Draw where each second of an instance's create went",
		Long: `Draws the create of an instance as a waterfall of its steps: on the head node until it was written and its server told, and from there on the server
until its init was executed. What the server did shows once the instance is what was asked for. Its times are by the server's clock. Of an instance
whose agent was restarted meanwhile, steps are missing.

` + instanceIDs,
		Example:           lines("nereid instance timeline web0", "nereid instance timeline web0 -o json | jq '.steps'"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			t, err := c.InstanceTimeline(ctx, args[0])
			if err != nil {
				return err
			}
			server := t.Server
			if s, err := c.Server(ctx, t.Server); err == nil {
				server = named(s)
			}
			return a.emit(t, func(w io.Writer) error { return a.timelineCard(w, t, server) })
		}),
	}
}

func (a *app) timelineCard(w io.Writer, t api.InstanceTimeline, server string) error {
	c := a.card(w)
	c.printf("Create of instance %s\n", bold.paint(oneLine(t.Name), c.colour))
	c.line("uuid", t.Instance)
	c.line("server", server)
	c.line("asked", stamp(t.Asked))
	if len(t.Steps) > 0 {
		c.printf("\n")
		if c.err == nil {
			_, c.err = io.WriteString(w, waterfall(stepLegs(t), a.width(a.stdout), a.unicode()))
		}
	}
	for _, s := range t.Steps {
		if s.Fault != "" {
			c.printf("%s\n", yellow.paint(fmt.Sprintf("%s failed after %s, and was tried again: %s", oneLine(s.Name), since(t, s.End()), oneLine(s.Fault)), c.colour))
		}
	}
	c.printf("\n")
	if t.Done.IsZero() {
		c.printf("%s\n", yellow.paint("Not there: its server did not say yet that it is what was asked for, see: nereid instance get "+t.Instance, c.colour))
		return c.err
	}
	c.printf("%s\n", green.paint("Good: there "+since(t, t.Done)+" after it was asked for", c.colour))
	return c.err
}

// since is how long after the request a time was.
func since(t api.InstanceTimeline, at time.Time) string {
	return fmt.Sprintf("%.2f s", at.Sub(t.Asked).Seconds())
}

// stepLegs are the steps of a create as bars.
func stepLegs(t api.InstanceTimeline) []api.BootLeg {
	legs := make([]api.BootLeg, 0, len(t.Steps))
	for _, s := range t.Steps {
		legs = append(legs, api.BootLeg{Name: s.Name, Start: max(0, s.Start.Sub(t.Asked).Seconds()), Seconds: s.Seconds})
	}
	return legs
}
