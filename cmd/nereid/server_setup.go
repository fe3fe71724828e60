package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"nereid/agent/storage"
	"nereid/api"
)

// setupFlags are the flags of "server setup".
type setupFlags struct {
	layout, hostname, pool string
	spares                 int
	exclude, wipe          []string
	distinct               []string
	plan, yes, wait        bool
}

func (a *app) serverSetup() *cobra.Command {
	var f setupFlags
	cmd := &cobra.Command{
		Use:   "setup SERVER",
		Short: "Make a server's pool and make it a compute node",
		Long: `Makes the system pool on an approved server's disks, and the datasets on it. Shows the plan and why it is that one, asks, and
sends the plan's digest along: when the disks are no longer those of the plan, the server refuses and nothing is touched.

--plan only shows it. Disks that are removable or in use are left alone. A disk with foreign data is refused until --exclude
leaves it alone or --wipe gives it up. Several paths to one disk are refused until --exclude leaves all but one alone. Setup needs no reboot; a power cut during it loses nothing, the next boot goes on.

` + serverIDs,
		Example: lines("nereid server setup cn0 --plan",
			"nereid server setup cn0 --wait",
			"nereid server setup cn0 --layout raidz2 --spares 1 --exclude sda --yes --wait",
			"nereid server setup cn0 --wipe sdb --hostname store0"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := api.SetupSpec{Pool: f.pool, Layout: f.layout, Exclude: f.exclude, Wipe: f.wipe, Distinct: f.distinct}
			if cmd.Flags().Changed("spares") {
				spec.Spares = &f.spares
			}
			return a.setUp(cmd.Context(), args[0], spec, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.layout, "layout", "", "single, mirror, raidz1, raidz2 or raidz3 (default: chosen by number, kind and size of the disks)")
	fl.IntVar(&f.spares, "spares", 0, "hot spares (default: chosen)")
	fl.StringSliceVar(&f.exclude, "exclude", nil, "disks to leave alone: kernel names or ids")
	fl.StringSliceVar(&f.wipe, "wipe", nil, "disks whose foreign data may be destroyed: kernel names or ids")
	fl.StringSliceVar(&f.distinct, "distinct", nil, "disks that are different ones although their WWN or serial number is the same")
	fl.StringVar(&f.hostname, "hostname", "", "name the server as well")
	fl.StringVar(&f.pool, "pool", "zones", "name of the pool")
	fl.BoolVar(&f.plan, "plan", false, "only show the pool it would make, and why")
	fl.BoolVar(&f.wait, "wait", false, "wait until the server runs")
	yesFlag(cmd, &f.yes)
	_ = cmd.RegisterFlagCompletionFunc("layout", cobra.FixedCompletions([]string{"single", "mirror", "raidz1", "raidz2", "raidz3"}, cobra.ShellCompDirectiveNoFileComp))
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
		return refusedf("set up %s: it has its pool already; a factory reset (nereid server reset %s) destroys it", named(s), named(s))
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

// planCard shows a pool as zpool status would, and the rules that made it so.
func (a *app) planCard(w io.Writer, s api.Server, pool string, p api.PoolPlan) error {
	c := a.card(w)
	disks := map[string]api.Disk{}
	for _, d := range s.Sysinfo.Disks {
		disks[d.Name] = d
	}
	c.printf("Pool %s on %s: %s, %s usable\n\n", bold.paint(oneLine(pool), c.colour), oneLine(named(s)), p.Layout, size(p.CapacityBytes))
	disk := func(indent, name string) {
		d := disks[name]
		c.hang(fmt.Sprintf("%s%-*s %10s  ", indent, 20-len(indent), oneLine(name), size(d.SizeBytes)),
			oneLine(strings.TrimSuffix(diskKind(d)+", "+d.Model, ", ")), plain)
	}
	vdevs := func(vs []api.Vdev) {
		for _, v := range vs {
			if v.Type == "disk" || v.Type == "single" || v.Type == "" {
				for _, d := range v.Disks {
					disk("    ", d)
				}
				continue
			}
			c.printf("    %s\n", v.Type)
			for _, d := range v.Disks {
				disk("      ", d)
			}
		}
	}
	c.printf("  %s\n", oneLine(pool))
	vdevs(p.Vdevs)
	if len(p.Log) > 0 {
		c.printf("  log\n")
		vdevs(p.Log)
	}
	for _, part := range []struct {
		name  string
		disks []string
	}{{"cache", p.Cache}, {"spares", p.Spares}} {
		if len(part.disks) > 0 {
			c.printf("  %s\n", part.name)
		}
		for _, d := range part.disks {
			disk("    ", d)
		}
	}
	if len(p.Why) > 0 {
		c.section("Why")
		c.bullets(p.Why, plain)
	}
	if len(p.Skipped) > 0 {
		c.section("Left alone")
		for _, k := range p.Skipped {
			c.line(k.Disk, k.Reason)
		}
	}
	return c.err
}
