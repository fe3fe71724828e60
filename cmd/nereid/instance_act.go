package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"nereid/api"
)

// instanceGoal is what --wait waits for of an instance.
type instanceGoal struct {
	want    string // for sentences
	reached func(api.Instance) (done bool, fault string)
}

// inState is the goal of a state; a failure ends the wait.
func inState(states ...string) instanceGoal {
	return instanceGoal{want: states[0], reached: func(i api.Instance) (bool, string) {
		if i.State == api.InstanceFailed && !slices.Contains(states, i.State) {
			return false, firstOf(i.Reason, "its server gives no reason")
		}
		return slices.Contains(states, i.State), ""
	}}
}

// runs is the goal of a new instance.
func runs(i api.Instance) instanceGoal {
	if i.Wanted == "stopped" {
		return inState(api.InstanceStopped)
	}
	return inState(api.InstanceRunning)
}

// waitInstance follows an instance until it is as it is to be, and shows what it waits
// for.
func (a *app) waitInstance(ctx context.Context, c *api.Client, i api.Instance, g instanceGoal) (api.Instance, error) {
	limit := cmp.Or(a.timeout, defaultWait)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimeout)
	defer cancel()
	p := a.newStatus(i.Name)
	defer p.end()
	last := i
	err := follow(ctx, c, api.EventQuery{Kinds: []string{"instance", "server"}, Servers: []string{i.Server}}, 0, func(ctx context.Context) (bool, error) {
		now, err := c.Instances().Get(ctx, i.UUID)
		if err != nil {
			return false, err
		}
		last = now
		done, fault := g.reached(now)
		if fault != "" {
			return false, codedError{exitFailed, fmt.Errorf("instance %s failed: %s; look at: nereid instance get %s", i.Name, fault, i.UUID)}
		}
		status := now.State
		if now.Reason != "" {
			status += ", " + now.Reason
		}
		if !now.Until.IsZero() {
			status += ", until " + stamp(now.Until)
		}
		p.show(status)
		return done, nil
	}, func(err error) { p.show("head node does not answer; still waiting (" + oneLine(err.Error()) + ")") })
	if errors.Is(err, errTimeout) {
		why := ""
		if last.Reason != "" {
			why = " (" + last.Reason + ")"
		}
		return last, codedError{exitTimedOut, fmt.Errorf("waited %s for instance %s to be %s, and it is %s%s; look at: nereid instance get %s", span(limit), i.Name, g.want, last.State, why, i.UUID)}
	}
	return last, err
}

// finishInstance waits, when asked to, and says what is done of an instance and its
// server.
func (a *app) finishInstance(ctx context.Context, c *api.Client, i api.Instance, wait bool, g instanceGoal, asked string) error {
	server := i.Server
	if s, err := c.Server(ctx, i.Server); err == nil {
		server = named(s)
	}
	if !wait {
		return a.done(i, asked, i.Name, server)
	}
	i, err := a.waitInstance(ctx, c, i, g)
	if err != nil {
		return err
	}
	return a.done(i, "instance %s is %s on %s", i.Name, i.State, server)
}

// instanceVerb is a verb that asks something of an instance.
type instanceVerb struct {
	use, short, long string
	examples         []string
	do               func(context.Context, *api.Client, string) (api.Instance, error)
	goal             instanceGoal
	asked            string // a sentence about the instance and its server
}

func (a *app) instanceAct(v instanceVerb, flags func(*cobra.Command)) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: v.use + " INSTANCE", Short: v.short, Long: v.long + "\n\n" + instanceIDs, Example: lines(v.examples...),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := v.do(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.finishInstance(ctx, c, i, wait, v.goal, v.asked)
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has happened")
	if flags != nil {
		flags(cmd)
	}
	return cmd
}

func (a *app) instanceStart() *cobra.Command {
	return a.instanceAct(instanceVerb{use: "start", short: "Start an instance",
		long:     "Has an instance run. One that failed is tried again; one that runs stays as it is.",
		examples: []string{"nereid instance start web0", "nereid instance start web0 --wait"},
		do: func(ctx context.Context, c *api.Client, id string) (api.Instance, error) {
			return c.StartInstance(ctx, id)
		},
		goal: inState(api.InstanceRunning), asked: "instance %s is asked to start on %s"}, nil)
}

func (a *app) instanceStop() *cobra.Command {
	var force bool
	return a.instanceAct(instanceVerb{use: "stop", short: "Stop an instance",
		long:     "Asks the instance's init to shut down, and kills it when it does not in time. With --force it is killed at once.",
		examples: []string{"nereid instance stop web0", "nereid instance stop web0 --force --wait"},
		do: func(ctx context.Context, c *api.Client, id string) (api.Instance, error) {
			return c.StopInstance(ctx, id, force)
		},
		goal: inState(api.InstanceStopped), asked: "instance %s is asked to stop on %s"},
		func(cmd *cobra.Command) { cmd.Flags().BoolVar(&force, "force", false, "kill it, and do not ask") })
}

func (a *app) instanceReboot() *cobra.Command {
	var force, wait bool
	cmd := &cobra.Command{
		Use: "reboot INSTANCE", Short: "Stop an instance and start it",
		Long:              "Stops an instance that runs, and starts it, with the NICs and the metadata that it has now.\n\n" + instanceIDs,
		Example:           lines("nereid instance reboot web0", "nereid instance reboot web0 --force --wait"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			before, err := c.Instances().Get(ctx, args[0])
			if err != nil {
				return err
			}
			i, err := c.RebootInstance(ctx, before.UUID, force)
			if err != nil {
				return err
			}
			g := inState(api.InstanceRunning)
			state := g.reached
			g.want = "running after its reboot"
			g.reached = func(i api.Instance) (bool, string) {
				done, fault := state(i)
				return done && i.Started.After(before.Started), fault
			}
			return a.finishInstance(ctx, c, i, wait, g, "instance %s is asked to reboot on %s")
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "kill it, and do not ask")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has happened")
	return cmd
}

func (a *app) instanceKill() *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use: "kill INSTANCE", Short: "Send a signal to the first process of an instance",
		Long:              "Sends a signal to the first process of an instance that runs. KILL ends it at once; it is started again, as it is to run.\n\n" + instanceIDs,
		Example:           lines("nereid instance kill web0 --signal HUP", "nereid instance kill web0"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.KillInstance(ctx, args[0], signal)
			if err != nil {
				return err
			}
			return a.done(i, "instance %s is sent %s", i.Name, signal)
		}),
	}
	cmd.Flags().StringVar(&signal, "signal", "KILL", "signal, as HUP, SIGTERM or 9")
	return cmd
}

func (a *app) instanceDelete() *cobra.Command {
	var yes, wait, lost bool
	cmd := &cobra.Command{
		Use: "delete INSTANCE", Short: "Delete an instance and its data",
		Long: `Deletes an instance and all that is in it. Its server stops it and removes its dataset; then its name and addresses are free. What it was can be
read for 30 days (nereid instance list --state deleted). --server-lost does not wait for the server, which must be silent: should it run all
the same, two may have the addresses for a while; should it come back, it removes the instance then.

` + instanceIDs,
		Example:           lines("nereid instance delete web0", "nereid instance delete web0 --yes --wait", "nereid instance delete web0 --server-lost"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Instances().Get(ctx, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, yes, "delete instance %s (%s, %s) and all that is in it", i.Name, i.UUID, i.State); err != nil {
				return err
			}
			err = a.agree(ctx, yes, func(ctx context.Context) (err error) {
				i, err = c.DeleteInstance(ctx, i.UUID, lost)
				return err
			})
			if err != nil {
				return err
			}
			if i.State == api.InstanceDeleted {
				return a.done(i, "instance %s is deleted", i.Name)
			}
			return a.finishInstance(ctx, c, i, wait, inState(api.InstanceDeleted, api.InstanceFailed), "instance %s is to be deleted, and waits for %s")
		}),
	}
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until nothing is left of it")
	cmd.Flags().BoolVar(&lost, "server-lost", false, "its server will not come back; do not wait for it")
	return cmd
}
