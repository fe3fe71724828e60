package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) serverList() *cobra.Command {
	var wide bool
	var states []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List servers",
		Long: `Lists the servers, one a line: state, when it was last seen, address, platform, memory in use, pool, and what needs attention.
On a terminal without room for all of it, what needs attention stands below its server, whole, and the columns named below the
list are left out; --wide shows them.

STATE is new (asked for an address and has not enrolled: the notes say how far it came), pending (waits for approval), approved (no pool yet),
setting up, running, booting, off, unknown (silent for 45 s), held (needs a decision: the notes say which), boot loop or
rejected. PLATFORM is what the server runs, or in parentheses what it will boot. "trial" means that this platform has yet to reach a first sync on this server.`,
		Example: lines("nereid server list",
			"nereid server list --state pending,held",
			"nereid server list --wide",
			"nereid server list -o json | jq -r '.[] | select(.state==\"running\") | .hostname'"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			servers, err := listServers(ctx, c, func(s api.Server) bool {
				return len(states) == 0 || slices.ContainsFunc(states, func(st string) bool {
					return strings.EqualFold(strings.ReplaceAll(st, "-", " "), string(s.State))
				})
			})
			if err != nil {
				return err
			}
			return a.emit(servers, func(w io.Writer) error {
				if len(servers) == 0 && len(states) == 0 {
					_, err := fmt.Fprintln(w, "No servers yet. One appears here when it asks for an address: power it on, with network boot first.")
					return err
				}
				return a.serverTable(servers, wide).write(w)
			})
		}),
	}
	cmd.Flags().BoolVar(&wide, "wide", false, "all columns, whole UUIDs and MAC addresses")
	cmd.Flags().StringSliceVar(&states, "state", nil, "only servers in these states")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{
		"new", "booting", "pending", "rejected", "approved", "setting-up", "running", "unknown", "held", "boot-loop", "off",
	}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// listServers gives the servers that keep wants, by hostname, and behind them the
// machines that have not enrolled.
func listServers(ctx context.Context, c *api.Client, keep func(api.Server) bool) ([]api.Server, error) {
	servers := []api.Server{}
	for s, err := range c.Servers(ctx) {
		if err != nil {
			return nil, err
		}
		if keep(s) {
			servers = append(servers, s)
		}
	}
	slices.SortStableFunc(servers, func(x, y api.Server) int {
		return cmp.Or(cmp.Compare(rankOf(x), rankOf(y)), cmp.Compare(x.Hostname, y.Hostname), cmp.Compare(x.UUID, y.UUID))
	})
	return servers, nil
}

func rankOf(s api.Server) int {
	if s.State == api.StateNew {
		return 1
	}
	return 0
}

func (a *app) serverTable(servers []api.Server, wide bool) *table {
	t := a.table("UUID", "HOSTNAME", "STATE", "LAST SEEN", "ADDRESS", "PLATFORM", "MEMORY", "POOL", "NOTES")
	t.prose = true
	if wide {
		t.header = slices.Insert(t.header, 5, "MACS")
	} else {
		t.spare, t.more = []string{"MEMORY", "UUID", "POOL", "ADDRESS", "PLATFORM", "LAST SEEN"}, "--wide"
	}
	n := shortUUID(servers)
	for _, s := range servers {
		uuid := s.UUID
		if !wide {
			uuid = s.UUID[:min(n, len(s.UUID))]
		}
		row := []cell{
			text(uuid), styled(s.Hostname, bold), styled(string(s.State), stateStyle(s.State)), text(a.lastSeen(s)),
			text(s.Address), text(platformCell(s.Platform)), text(memoryCell(s)), poolCell(s), styled(notes(s), yellow),
		}
		if wide {
			row = slices.Insert(row, 5, text(strings.Join(s.MACs, " ")))
		}
		t.add(row...)
	}
	return t
}

// shortUUID is how many characters tell all UUIDs apart: 8, but for machines
// whose maker begins every UUID alike.
func shortUUID(servers []api.Server) int {
	for n := 8; n < 36; n++ {
		seen, all := map[string]bool{}, 0
		for _, s := range servers {
			if s.UUID != "" { // of a machine that has not enrolled
				seen[s.UUID[:min(n, len(s.UUID))]] = true
				all++
			}
		}
		if len(seen) == all {
			return n
		}
	}
	return 36
}

func stateStyle(s api.ServerState) style {
	switch s {
	case api.StateRunning:
		return green
	case api.StateUnknown, api.StateHeld, api.StateBootLoop, api.StateRejected:
		return red
	case api.StateOff:
		return dim
	}
	return yellow
}

func (a *app) lastSeen(s api.Server) string {
	if s.LastSeen == nil {
		return "never"
	}
	return a.ago(*s.LastSeen)
}

func platformCell(p api.PlatformChoice) string {
	out := p.Running
	if out == "" && p.Next != "" {
		out = "(" + p.Next + ")"
	}
	if p.Trial && (p.Running == "" || p.Running == p.Next) {
		out += " trial"
	}
	return strings.TrimSpace(out)
}

// memoryCell prints used and total; only the total when nothing reports.
func memoryCell(s api.Server) string {
	if s.Sysinfo == nil || s.Sysinfo.MemoryBytes <= 0 {
		return ""
	}
	total := size(s.Sysinfo.MemoryBytes)
	if s.Usage == nil || s.Usage.MemoryFreeBytes <= 0 {
		return total
	}
	return size(s.Sysinfo.MemoryBytes-s.Usage.MemoryFreeBytes) + "/" + total
}

// systemPool is the pool that carries nereid:system=on, or else the first.
func systemPool(s api.Server) *api.Pool {
	if s.Report == nil || len(s.Report.Pools) == 0 {
		return nil
	}
	for i, p := range s.Report.Pools {
		if p.System {
			return &s.Report.Pools[i]
		}
	}
	return &s.Report.Pools[0]
}

func poolCell(s api.Server) cell {
	p := systemPool(s)
	if p == nil {
		return cell{}
	}
	return styled(p.Health+" "+percent(p.AllocatedBytes, p.SizeBytes), poolStyle(p.Health))
}

func poolStyle(health string) style {
	switch health {
	case "ONLINE":
		return plain
	case "DEGRADED":
		return yellow
	}
	return red
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return "?"
	}
	p := float64(part) / float64(whole) * 100
	if p > 0 && p < 1 {
		return "<1%"
	}
	return fmt.Sprintf("%.0f%%", p)
}

// notes joins what needs an operator's attention.
func notes(s api.Server) string {
	out := []string{}
	for _, n := range append([]string{s.StateReason}, s.Alerts...) {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return strings.Join(out, "; ")
}
