package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nereid/agent/storage"
	"nereid/api"
)

// setupFlags are the flags of "server setup" that are no part of the spec.
type setupFlags struct {
	hostname, pool  string
	spares          int
	plan, yes, wait bool
}

func (a *app) serverSetup() *cobra.Command {
	var (
		f    setupFlags
		spec api.SetupSpec
	)
	cmd := &cobra.Command{
		Use:   "setup SERVER",
		Short: "Make a server's pool and make it a compute node",
		Long: `Makes the system pool on an approved server's disks, and the datasets on it. Shows the plan and why it is that one, asks, and
sends the plan's digest along: when the disks are no longer those of the plan, the server refuses and nothing is touched.

The kind of disk that gives the larger pool carries the data, and solid-state disks beside rotational ones become log and
cache. 3 or 4 disks make a raidz1, more a raidz2, 8 or more rotational disks up to 1.5 TB mirrors. --plan only shows it, with
the two next best: their capacity, the failures they survive and their IOPS as a multiple of one disk's, and what asks for them.

Disks that are removable or in use are left alone. A disk with foreign data is refused until --exclude leaves it alone or
--wipe gives it up. Several paths to one disk are refused until --exclude leaves all but one alone. Setup needs no reboot; a
power cut during it loses nothing, the next boot goes on.

` + serverIDs,
		Example: lines("nereid server setup cn0 --plan",
			"nereid server setup cn0 --wait",
			"nereid server setup cn0 --layout mirror --width 3 --plan   # three-way mirrors",
			"nereid server setup cn0 --data-on ssd --plan",
			"nereid server setup cn0 --layout raidz2 --spares 1 --exclude sda --yes --wait",
			"nereid server setup cn0 --wipe sdb --hostname store0"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Pool = f.pool
			if cmd.Flags().Changed("spares") {
				spec.Spares = &f.spares
			}
			return a.setUp(cmd.Context(), args[0], spec, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&spec.Layout, "layout", "", "single, mirror, raidz1, raidz2 or raidz3 (default: chosen by number, kind and size of the disks)")
	fl.IntVar(&spec.Width, "width", 0, "disks of a vdev, 2 to 24 (default: chosen)")
	fl.IntVar(&f.spares, "spares", 0, "hot spares (default: chosen)")
	fl.StringVar(&spec.DataOn, "data-on", "", "hdd or ssd: the kind of disk that carries the data (default: the one that gives the larger pool)")
	fl.BoolVar(&spec.NoCache, "no-cache", false, "make no cache devices of solid-state disks")
	fl.StringSliceVar(&spec.Exclude, "exclude", nil, "disks to leave alone: kernel names or ids")
	fl.StringSliceVar(&spec.Wipe, "wipe", nil, "disks whose foreign data may be destroyed: kernel names or ids")
	fl.StringSliceVar(&spec.Distinct, "distinct", nil, "disks that are different ones although their WWN or serial number is the same")
	fl.StringVar(&f.hostname, "hostname", "", "name the server as well")
	fl.StringVar(&f.pool, "pool", "zones", "name of the pool")
	fl.BoolVar(&f.plan, "plan", false, "only show the pool it would make, and why")
	fl.BoolVar(&f.wait, "wait", false, "wait until the server runs")
	yesFlag(cmd, &f.yes)
	_ = cmd.RegisterFlagCompletionFunc("layout", cobra.FixedCompletions([]string{"single", "mirror", "raidz1", "raidz2", "raidz3"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("data-on", cobra.FixedCompletions([]string{"hdd", "ssd"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("exclude", a.completeDisks)
	_ = cmd.RegisterFlagCompletionFunc("wipe", a.completeDisks)
	_ = cmd.RegisterFlagCompletionFunc("distinct", a.completeDisks)
	return cmd
}

// completeDisks offers the disks of the server that is named already.
func (a *app) completeDisks(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
	defer cancel()
	c, err := a.api()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := a.find(ctx, c, args[0])
	if err != nil || s.Sysinfo == nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []cobra.Completion
	for _, d := range s.Sysinfo.Disks {
		out = append(out, cobra.CompletionWithDesc(d.Name, oneLine(size(d.SizeBytes)+" "+d.Model+", "+diskUse(d))))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) setUp(ctx context.Context, id string, spec api.SetupSpec, f setupFlags) error {
	c, err := a.api()
	if err != nil {
		return err
	}
	s, err := a.find(ctx, c, id)
	if err != nil {
		return err
	}
	if s.Sysinfo == nil {
		return refusedf("set up %s: its disks are not known yet (it is %s); boot it, so that its agent lists them", named(s), s.State)
	}
	plan, err := storage.Plan(spec, s.Sysinfo.Disks)
	if err != nil {
		return a.noPlan(s, err)
	}
	if f.plan {
		return a.emit(plan, func(w io.Writer) error { return a.planCard(w, s, spec.Pool, plan) })
	}
	if s.SetUp {
		return refusedf("set up %s: it has its pool already; look at it with: nereid server get %s", named(s), named(s))
	}
	if a.output == "table" {
		if err := a.planCard(a.stdout, s, spec.Pool, plan); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	if err := a.confirm(ctx, f.yes, "make this pool on %s", named(s)); err != nil {
		return err
	}
	if f.hostname != "" && f.hostname != s.Hostname {
		if s, err = c.UpdateServer(ctx, s.UUID, api.ServerUpdate{Hostname: &f.hostname}, ""); err != nil {
			return fmt.Errorf("name server %q: %w", f.hostname, err)
		}
	}
	spec.PlanDigest = plan.Digest
	if err := c.SetupServer(ctx, s.UUID, spec); err != nil {
		return err
	}
	if !f.wait {
		if s, err = c.Server(ctx, s.UUID); err != nil {
			return err
		}
		return a.done(s, `%s is asked to set itself up; follow it with "nereid server watch %s"`, named(s), named(s))
	}
	if s, err = a.wait(ctx, c, setupGoal(s)); err != nil {
		return err
	}
	return a.done(s, "%s is set up and running", named(s))
}

// noPlan says which disks stand in the way of a plan.
func (a *app) noPlan(s api.Server, err error) error {
	code := exitRefused
	if errors.Is(err, storage.ErrDiskList) {
		code = exitFailed
	}
	return codedError{code, fmt.Errorf("plan a pool for %s: %w", named(s), err)}
}

// setupGoal is a server that runs with its pool. An error its report had before
// belongs to an earlier setup.
func setupGoal(before api.Server) goal {
	return goal{server: before, want: "running", reached: func(s api.Server) (bool, string, error) {
		var r api.SetupReport
		if s.Report != nil && s.Report.Setup != nil && s.Setup != nil && s.Report.Setup.ID == s.Setup.ID {
			r = *s.Report.Setup
		}
		switch {
		case r.Phase == "failed" || r.Error != "" && !r.Complete && s.State != api.StateSettingUp:
			return false, "", fmt.Errorf("set up %s: %s", named(s), firstOf(r.Error, "the agent gives no reason"))
		case s.State == api.StateRunning && s.SetUp:
			return true, "running", nil
		}
		status := string(s.State)
		if r.Phase != "" {
			status += ": " + r.Phase
		}
		if r.Error != "" {
			status += " (" + r.Error + ")"
		}
		return false, status, stuck(s)
	}}
}
