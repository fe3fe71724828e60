package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"nereid/api"
)

const snapshotIDs = "SNAPSHOT is a name, or an id.\n\n" + instanceIDs

func (a *app) instanceSnapshot() *cobra.Command {
	top := &cobra.Command{Use: "snapshot", Short: "Snapshots of an instance",
		Example: lines("nereid instance snapshot create web0 before-upgrade --wait", "nereid instance snapshot list web0", "nereid instance snapshot rollback web0 before-upgrade"),
		Args:    verbOf, RunE: needsVerb, DisableFlagsInUseLine: true}
	top.AddCommand(a.snapshotCreate(), a.snapshotList(), a.snapshotGet(), a.snapshotRollback(), a.snapshotDelete(), a.snapshotSchedule())
	return top
}

// snapshotStyle is how the state of a snapshot is shown.
func snapshotStyle(state string) style {
	switch state {
	case api.SnapshotCreated:
		return green
	case api.SnapshotFailed:
		return red
	}
	return yellow
}

// snapshotHolds says what a snapshot holds, in a few words.
func snapshotHolds(s api.Snapshot) string {
	return map[string]string{
		api.SnapshotStopped: "stopped", api.SnapshotFrozen: "frozen by its guest", api.SnapshotAtomic: "one moment of a zone", api.SnapshotCrash: "as after a power cut",
	}[s.Consistency]
}

// snapshotWhy is the reason of a snapshot's state.
func snapshotWhy(s api.Snapshot) string {
	if s.Unexpected && s.Reason == "" {
		return "Its server has it, and the head node did not ask for it; it stays until somebody deletes it."
	}
	return s.Reason
}

// completeSnapshots offers instances, and then the snapshots of the one that was named.
func (a *app) completeSnapshots() cobra.CompletionFunc {
	instances := a.completeInstances()
	return func(cmd *cobra.Command, args []string, part string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != 1 {
			return instances(cmd, args, part)
		}
		c, err := a.api()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
		defer cancel()
		all, err := c.Snapshots(ctx, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []cobra.Completion
		for _, s := range all {
			out = append(out, cobra.CompletionWithDesc(s.Name, oneLine(s.State+" "+stamp(s.Created))))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// waitSnapshot follows a snapshot until it is in a state; empty: until there is none.
func (a *app) waitSnapshot(ctx context.Context, c *api.Client, s api.Snapshot, want string) (api.Snapshot, error) {
	limit := cmp.Or(a.timeout, defaultWait)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimeout)
	defer cancel()
	p := a.newStatus(s.Name)
	defer p.end()
	last := s
	err := follow(ctx, c, api.EventQuery{Kinds: []string{"instance", "server"}}, 0, func(ctx context.Context) (bool, error) {
		now, err := c.Snapshot(ctx, s.Instance, s.ID)
		var no *api.Problem
		if want == "" && errors.As(err, &no) && (no.Status == http.StatusNotFound || no.Status == http.StatusGone) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		last = now
		if want != "" && now.State == api.SnapshotFailed {
			return false, codedError{exitFailed, fmt.Errorf("snapshot %s failed: %s", s.Name, firstOf(now.Reason, "its server gives no reason"))}
		}
		status := now.State
		if now.Reason != "" {
			status += ", " + now.Reason
		}
		p.show(status)
		return want != "" && now.State == want, nil
	}, func(err error) { p.show("head node does not answer; still waiting (" + oneLine(err.Error()) + ")") })
	if errors.Is(err, errTimeout) {
		return last, codedError{exitTimedOut, fmt.Errorf("waited %s for snapshot %s to be %s, and it is %s; look at: nereid instance snapshot get %s %s", span(limit), s.Name, firstOf(want, "gone"), last.State, s.Instance, s.ID)}
	}
	return last, err
}

func (a *app) snapshotCreate() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: "create INSTANCE [NAME]", Short: "Take a snapshot of an instance",
		Long: `Takes a snapshot of all that an instance has on its server's pool: of one moment, whether it runs or not. Without NAME it is named for the time.
Of a zone that runs it has all that programs had written. Of a virtual machine that runs it has what is left when the power is cut, unless its
guest can be asked to wait: the record says which. What a snapshot keeps counts against the instance's quota.

` + instanceIDs,
		Example: lines("nereid instance snapshot create web0 before-upgrade --wait", "nereid instance snapshot create web0"),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return wants("INSTANCE", "NAME")(cmd, args)
			}
			return wants("INSTANCE")(cmd, args)
		},
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			var in api.SnapshotCreate
			if len(args) > 1 {
				in.Name = args[1]
			}
			s, err := c.CreateSnapshot(ctx, args[0], in)
			if err != nil {
				return err
			}
			if !wait {
				return a.done(s, "snapshot %s of instance %s is asked for", s.Name, args[0])
			}
			if s, err = a.waitSnapshot(ctx, c, s, api.SnapshotCreated); err != nil {
				return err
			}
			return a.done(s, "snapshot %s of instance %s is taken (%s)", s.Name, args[0], firstOf(snapshotHolds(s), "it is not known what it holds"))
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is taken")
	return cmd
}

func (a *app) snapshotList() *cobra.Command {
	return &cobra.Command{
		Use: "list INSTANCE", Short: "List the snapshots of an instance, the oldest first",
		Long:              "Lists the snapshots of an instance, the oldest first: those that somebody asked for, and those of its schedule.\n\n" + instanceIDs,
		Example:           lines("nereid instance snapshot list web0", "nereid instance snapshot list web0 -o json"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			all, err := c.Snapshots(ctx, args[0])
			if err != nil {
				return err
			}
			if all == nil {
				all = []api.Snapshot{}
			}
			return a.emit(all, func(w io.Writer) error {
				if len(all) == 0 {
					_, err := fmt.Fprintln(w, "No snapshots.")
					return err
				}
				t := a.table("NAME", "STATE", "TAKEN", "HOLDS", "SCHEDULE", "REASON")
				t.prose = true
				for _, s := range all {
					taken := ""
					if !s.Created.IsZero() {
						taken = stamp(s.Created)
					}
					t.add(text(s.Name), styled(s.State, snapshotStyle(s.State)), text(taken), text(snapshotHolds(s)), text(s.Schedule), text(snapshotWhy(s)))
				}
				return t.write(w)
			})
		}),
	}
}

func (a *app) snapshotGet() *cobra.Command {
	return &cobra.Command{
		Use: "get INSTANCE SNAPSHOT", Short: "Show a snapshot of an instance",
		Long:              "Shows a snapshot: when it was taken and what it holds, or what it waits for.\n\n" + snapshotIDs,
		Example:           lines("nereid instance snapshot get web0 before-upgrade", "nereid instance snapshot get web0 before-upgrade -o json"),
		Args:              wants("INSTANCE", "SNAPSHOT"),
		ValidArgsFunction: a.completeSnapshots(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			s, err := c.Snapshot(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.show(s)
		}),
	}
}

func (a *app) snapshotRollback() *cobra.Command {
	var yes, wait bool
	cmd := &cobra.Command{
		Use: "rollback INSTANCE SNAPSHOT", Short: "Make an instance what it was when a snapshot was taken",
		Long: `Makes all that an instance has on its server's pool what it was when the snapshot was taken. What was written since is lost, and newer snapshots
are destroyed: they are named, and it asks. Should there be one more by then, or one that is held or that something is a clone of, nothing is
done. An instance that runs is stopped, and started again. Disks of a virtual machine that are younger than the snapshot stay as they are.

` + snapshotIDs,
		Example:           lines("nereid instance snapshot rollback web0 before-upgrade", "nereid instance snapshot rollback web0 before-upgrade --yes --wait"),
		Args:              wants("INSTANCE", "SNAPSHOT"),
		ValidArgsFunction: a.completeSnapshots(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			var i api.Instance
			err := a.agree(ctx, yes, func(ctx context.Context) (err error) {
				i, err = c.RollBack(ctx, args[0], args[1])
				return err
			})
			if err != nil {
				return err
			}
			if !wait {
				return a.done(i, "instance %s is asked to go back to snapshot %s", i.Name, args[1])
			}
			if i, err = a.waitInstance(ctx, c, i, a.rolledBack(ctx, c, i)); err != nil {
				return err
			}
			return a.done(i, "instance %s is what it was at snapshot %s, and %s", i.Name, args[1], i.State)
		}),
	}
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has happened")
	return cmd
}

// rolledBack is the goal of a rollback: its entry of the audit has an end, and the instance
// is as it is to be.
func (a *app) rolledBack(ctx context.Context, c *api.Client, asked api.Instance) instanceGoal {
	as := runs(asked)
	return instanceGoal{want: "what it was", reached: func(i api.Instance) (bool, string) {
		audit, err := c.InstanceAudit(ctx, i.UUID)
		if err != nil {
			return false, "whether it was rolled back is not known: " + err.Error()
		}
		for _, e := range audit {
			if e.Action != "rollback_snapshot" {
				continue
			}
			if e.Finished.IsZero() {
				return false, ""
			}
			if !e.Success {
				return false, "it was not rolled back: " + e.Error
			}
			break
		}
		return as.reached(i)
	}}
}

func (a *app) snapshotDelete() *cobra.Command {
	var yes, wait bool
	cmd := &cobra.Command{
		Use: "delete INSTANCE SNAPSHOT", Short: "Delete a snapshot of an instance",
		Long: `Deletes a snapshot, and no more: the instance and its other snapshots stay. One that is held (zfs hold), or that something is a clone of,
stays as deleting until that is over, and says so.

` + snapshotIDs,
		Example:           lines("nereid instance snapshot delete web0 before-upgrade", "nereid instance snapshot delete web0 before-upgrade --yes --wait"),
		Args:              wants("INSTANCE", "SNAPSHOT"),
		ValidArgsFunction: a.completeSnapshots(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			s, err := c.Snapshot(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, yes, "delete snapshot %s of instance %s", s.Name, args[0]); err != nil {
				return err
			}
			if s, err = c.DeleteSnapshot(ctx, s.Instance, s.ID); err != nil {
				return err
			}
			if !wait {
				return a.done(s, "snapshot %s of instance %s is to be deleted", s.Name, args[0])
			}
			if _, err = a.waitSnapshot(ctx, c, s, ""); err != nil {
				return err
			}
			return a.done(s, "snapshot %s of instance %s is deleted", s.Name, args[0])
		}),
	}
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until nothing is left of it")
	return cmd
}

func (a *app) snapshotSchedule() *cobra.Command {
	var s api.SnapshotSchedule
	var none bool
	cmd := &cobra.Command{
		Use: "schedule INSTANCE", Short: "Show or set by which schedule snapshots of an instance are taken",
		Long: `Shows by which schedule an instance's server takes snapshots, with the head node away too; with flags, sets it. Each flag says how many are kept
of a kind: with each that is too many the oldest of its kind goes, and no other snapshot does. Instances have minutes of their own, so
that a server does not take all at once; the first ones are of the hour, day and week that begin next. --none ends it; what was taken stays.

` + instanceIDs,
		Example: lines("nereid instance snapshot schedule web0 --hourly 24 --daily 7 --weekly 4", "nereid instance snapshot schedule web0",
			"nereid instance snapshot schedule web0 --none"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
	}
	run := func(cmd *cobra.Command, ctx context.Context, c *api.Client, args []string) error {
		i, err := c.Instances().Get(ctx, args[0])
		if err != nil {
			return err
		}
		var next api.SnapshotSchedule
		if i.Snapshots != nil {
			next = *i.Snapshots
		}
		some := none
		for name, apply := range map[string]func(){"hourly": func() { next.Hourly = s.Hourly }, "daily": func() { next.Daily = s.Daily }, "weekly": func() { next.Weekly = s.Weekly }} {
			if !cmd.Flags().Changed(name) {
				continue
			}
			if none {
				return usagef("--none and --%s: name one or the other", name)
			}
			some = true
			apply()
		}
		if none {
			next = api.SnapshotSchedule{}
		}
		if some {
			if i, err = c.SetSnapshotSchedule(ctx, i.UUID, next); err != nil {
				return err
			}
		}
		return a.emit(i.Snapshots, func(w io.Writer) error {
			if i.Snapshots == nil {
				_, err := fmt.Fprintf(w, "No snapshots of instance %s are taken by a schedule.\n", i.Name)
				return err
			}
			t := a.table("SCHEDULE", "KEPT")
			for _, k := range []struct {
				name string
				n    int
			}{{api.SnapshotHourly, i.Snapshots.Hourly}, {api.SnapshotDaily, i.Snapshots.Daily}, {api.SnapshotWeekly, i.Snapshots.Weekly}} {
				t.add(text(k.name), number("%d", k.n))
			}
			return t.write(w)
		})
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.withAPI(func(ctx context.Context, c *api.Client, args []string) error { return run(cmd, ctx, c, args) })(cmd, args)
	}
	cmd.Flags().IntVar(&s.Hourly, "hourly", 0, "hourly ones to keep, 0 to 48")
	cmd.Flags().IntVar(&s.Daily, "daily", 0, "daily ones to keep, 0 to 31")
	cmd.Flags().IntVar(&s.Weekly, "weekly", 0, "weekly ones to keep, 0 to 52")
	cmd.Flags().BoolVar(&none, "none", false, "take none any more")
	return cmd
}
