package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"nereid/api"
)

// power is one of the verbs that act on a server's power.
type power struct {
	verb, short, long string
	examples          []string
	do                func(context.Context, *api.Client, string) error
	goal              func(before api.Server) goal
	asked, done       string // sentences about %s
}

func (a *app) serverReboot() *cobra.Command {
	return a.powerCommand(power{
		verb: "reboot", short: "Reboot a server",
		long: `Has the agent reboot its server, once. It boots the platform that "server get" shows as next. --wait waits for the first sync of the new boot. Its
instances stop, and start again after the boot; they are named first.`,
		examples: []string{"nereid server reboot cn0", "nereid server reboot cn0 --yes --wait",
			"nereid server reboot cn0 --yes --wait --timeout 10m"},
		do:    func(ctx context.Context, c *api.Client, id string) error { return c.RebootServer(ctx, id) },
		goal:  rebootGoal,
		asked: "%s is asked to reboot", done: "%s has rebooted and is running",
	})
}

func (a *app) serverShutdown() *cobra.Command {
	return a.powerCommand(power{
		verb: "shutdown", short: "Power a server off",
		long:     "Has the agent power its server off. Only its power button, or its management controller, brings it back. Its instances, which stop, are named first.",
		examples: []string{"nereid server shutdown cn0", "nereid server shutdown cn0 --yes --wait"},
		do:       func(ctx context.Context, c *api.Client, id string) error { return c.ShutdownServer(ctx, id) },
		goal:     shutdownGoal,
		asked:    "%s is asked to power itself off", done: "%s is off",
	})
}

func (a *app) powerCommand(p power) *cobra.Command {
	var yes, wait bool
	cmd := &cobra.Command{
		Use: p.verb + " SERVER", Short: p.short, Long: p.long + "\n\n" + serverIDs, Example: lines(p.examples...),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, _ []string) error {
			if err := a.confirm(ctx, yes, "%s %s (%s, %s)", p.verb, named(s), s.UUID, s.State); err != nil {
				return err
			}
			err := a.agree(ctx, yes, func(ctx context.Context) error { return p.do(ctx, c, s.UUID) })
			if err != nil {
				return err
			}
			return a.finish(ctx, c, s, wait, p.goal(s), p.asked, p.done)
		}),
	}
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has happened")
	return cmd
}

// finish waits, when asked to, and says how far it is.
func (a *app) finish(ctx context.Context, c *api.Client, s api.Server, wait bool, g goal, asked, done string) error {
	var err error
	if !wait {
		if s, err = c.Server(ctx, s.UUID); err != nil {
			return err
		}
		return a.done(s, asked, named(s))
	}
	if s, err = a.wait(ctx, c, g); err != nil {
		return err
	}
	return a.done(s, done, named(s))
}

// rebootGoal is another boot than the present one that reached its first sync.
func rebootGoal(before api.Server) goal {
	return goal{server: before, want: "running after its reboot", reached: func(s api.Server) (bool, string, error) {
		if err := powerFault(before, s); err != nil {
			return false, "", err
		}
		if s.BootID == before.BootID {
			if s.State == api.StateBooting {
				return false, "booting", nil
			}
			return false, "going down", stuck(s)
		}
		if s.State != api.StatePending && (s.Report == nil || s.Report.BootID != s.BootID) {
			return false, "enrolled, not synced yet", stuck(s)
		}
		// A server without a pool is never "running".
		ok := s.State == api.StateRunning || !before.SetUp && slices.Contains([]api.ServerState{api.StateApproved, api.StatePending}, s.State)
		return ok, string(s.State), stuck(s)
	}}
}

func shutdownGoal(before api.Server) goal {
	return goal{server: before, want: "off", reached: func(s api.Server) (bool, string, error) {
		if err := powerFault(before, s); err != nil {
			return false, "", err
		}
		if s.State == api.StateOff {
			return true, "off", nil
		}
		return false, "going down", nil
	}}
}

// powerFault is what the agent says of a request that came after before.
func powerFault(before, s api.Server) error {
	if s.Report == nil || s.Report.Power == nil || s.Report.Power.Error == "" {
		return nil
	}
	if before.Report != nil && before.Report.Power != nil && before.Report.Power.ID == s.Report.Power.ID {
		return nil
	}
	return fmt.Errorf("%s: its agent reports: %s", named(s), s.Report.Power.Error)
}

func (a *app) serverReset() *cobra.Command {
	var confirm string
	var wait bool
	cmd := &cobra.Command{
		Use:   "reset SERVER",
		Short: "Factory reset: destroy a server's pool and all that is on it",
		Long: `Destroys the server's system pool, with every instance and every key on it, and reboots it. It then waits to be set up again.
There is no way back, so the server's hostname has to be typed, or given with --confirm.

` + serverIDs,
		Example:           lines("nereid server reset cn0", "nereid server reset cn0 --confirm cn0 --wait"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, _ []string) error {
			if confirm == "" {
				if !isTerminal(a.stdin) {
					return usagef("reset %s: this destroys its pool, and there is no terminal to ask on; add --confirm %s", named(s), named(s))
				}
				fmt.Fprintf(a.stderr, "This destroys %s on %s (%s) and all that is on it.\n", poolWords(s), oneLine(named(s)), s.UUID)
				var err error
				if confirm, err = a.ask(ctx, "Type the server's hostname to go on: "); err != nil {
					return err
				}
			}
			if confirm != s.Hostname {
				return refusedf("reset %s: the name given, %q, is not its hostname; nothing was done", named(s), confirm)
			}
			if err := c.ResetServer(ctx, s.UUID, api.ServerReset{Hostname: confirm}); err != nil {
				return err
			}
			return a.finish(ctx, c, s, wait, resetGoal(s), "%s is asked to reset itself", "%s is reset")
		}),
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the server's hostname, so that it is not asked for")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has booted again without a pool")
	return cmd
}

// poolWords names the pool with its size, for the question before a reset.
func poolWords(s api.Server) string {
	p := systemPool(s)
	if p == nil {
		return "the pool"
	}
	return fmt.Sprintf("pool %s (%s, %s used)", oneLine(p.Name), size(p.SizeBytes), size(p.AllocatedBytes))
}

func resetGoal(before api.Server) goal {
	return goal{server: before, want: "reset", reached: func(s api.Server) (bool, string, error) {
		if err := powerFault(before, s); err != nil {
			return false, "", err
		}
		if s.BootID == before.BootID {
			return false, "destroying its pool", nil
		}
		ok := !s.SetUp && (s.State == api.StateApproved || s.State == api.StatePending)
		return ok, string(s.State), stuck(s)
	}}
}
