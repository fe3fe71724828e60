package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"nereid/agent"
	"nereid/agent/storage"
	"nereid/agent/sysinfo"
)

// options are the process facts.
type options struct {
	dir, log  string
	stateless bool
}

func layoutCommand() *cobra.Command {
	var (
		file   string
		spares int
		opts   storage.Options
	)
	cmd := &cobra.Command{
		Use:   "disklayout --disks FILE",
		Short: "Print the pool that a setup would make of a list of disks, and why",
		Long: "disklayout reads a JSON list of disks (as nereid-agent sysinfo prints below\n" +
			"\"disks\") and prints the pool a setup would make of them: vdevs, log, cache,\n" +
			"spares and usable capacity. It touches no disk.",
		Example: "  nereid-agent disklayout --disks disks.json\n" +
			"  nereid-agent sysinfo | jq .disks | nereid-agent disklayout --disks -\n" +
			"  nereid-agent disklayout --disks disks.json --exclude sda --wipe nvme0n1",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("spares") {
				opts.Spares = &spares
			}
			in := cmd.InOrStdin()
			if file != "-" {
				f, err := os.Open(file)
				if err != nil {
					return fmt.Errorf("read disks: %w", err)
				}
				defer f.Close()
				in = f
			}
			return storage.RunLayout(in, opts, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "disks", "", "file with a JSON list of disks; - is standard input")
	f.StringVar(&opts.Layout, "layout", "", "single, mirror, raidz1, raidz2 or raidz3; chosen when empty")
	f.IntVar(&opts.Width, "width", 0, "disks of a vdev, 2 to 24; chosen when not given")
	f.StringVar(&opts.DataOn, "data-on", "", "hdd or ssd: the kind of disk that carries the data; chosen when empty")
	f.BoolVar(&opts.NoCache, "no-cache", false, "no cache devices")
	f.IntVar(&spares, "spares", 0, "hot spares; chosen when not given")
	f.StringSliceVar(&opts.Exclude, "exclude", nil, "kernel names or ids of disks to leave alone")
	f.StringSliceVar(&opts.Wipe, "wipe", nil, "kernel names or ids of disks whose foreign data may be destroyed")
	f.StringSliceVar(&opts.Distinct, "distinct", nil, "kernel names or ids of disks that are different ones although their WWN or serial number is the same")
	if err := cmd.MarkFlagRequired("disks"); err != nil {
		panic(err) // the flag is two lines up
	}
	return cmd
}

func sysinfoCommand() *cobra.Command {
	var roots sysinfo.Roots
	cmd := &cobra.Command{
		Use:     "sysinfo",
		Short:   "Print this server's hardware as JSON",
		Example: "  nereid-agent sysinfo\n  nereid-agent sysinfo --sys tree/sys --proc tree/proc --dev tree/dev",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := &sysinfo.Reader{Roots: roots}
			// What disks carry is known of the running system only.
			if roots == (sysinfo.Roots{}) {
				r.Content = contentOrNothing(&storage.Storage{})
			}
			info, err := r.Read(cmd.Context())
			if err != nil {
				return fmt.Errorf("read hardware: %w", err)
			}
			return printJSON(cmd.OutOrStdout(), info)
		},
	}
	f := cmd.Flags()
	f.StringVar(&roots.Sys, "sys", "", "root of a captured /sys; the running system's when empty")
	f.StringVar(&roots.Proc, "proc", "", "root of a captured /proc")
	f.StringVar(&roots.Dev, "dev", "", "root of a captured /dev")
	return cmd
}

// contentOrNothing lets people without access to the disks see the rest.
func contentOrNothing(st *storage.Storage) func(context.Context, string) (string, error) {
	return func(ctx context.Context, name string) (string, error) {
		s, err := st.Content(ctx, name)
		if errors.Is(err, os.ErrPermission) {
			return "", nil
		}
		return s, err
	}
}

func statusCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Print how the agent stands with its head node and what it reported",
		Example: "  nereid-agent status\n  nereid-agent status --json | jq .report.pools",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := agent.ReadStatus(o.dir)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s agent.Status) error {
	last := "never"
	if !s.LastSync.IsZero() {
		last = s.LastSync.Format("2006-01-02 15:04:05 MST")
	}
	_, err := fmt.Fprintf(w, "server     %s (%s)\nhead node  %s\nstate      %s\nlast sync  %s\nplatform   %s\nboot       %s\nspec       %s (applied %s)\nmemory     %d MB free; agent %d MB, %.2f s CPU\n",
		s.Report.Hostname, s.UUID, s.HeadNode, s.State, last, s.Report.Platform, s.Report.BootID,
		orNone(s.Seen), orNone(s.Report.AppliedSpec), s.Usage.MemoryFreeBytes>>20, s.Usage.AgentRSSBytes>>20, s.Usage.AgentCPUSeconds)
	if err != nil {
		return err
	}
	for _, p := range s.Report.Pools {
		fmt.Fprintf(w, "pool       %s %s, %d of %d MB used\n", p.Name, p.Health, p.AllocatedBytes>>20, p.SizeBytes>>20)
	}
	if r := s.Report.Setup; r != nil {
		fmt.Fprintf(w, "setup      %s %s\n", r.Phase, r.Error)
	}
	for _, p := range s.Report.Problems {
		fmt.Fprintf(w, "problem    %s\n", p)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the agent's version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version)
			return err
		},
	}
}
