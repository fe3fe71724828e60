package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) bondCommand() *cobra.Command {
	k := kind[api.Bond, api.Bond]{
		noun: "bond", thing: "bond", parents: []string{"SERVER"}, id: "NAME", example: []string{"cn0", "bond0"},
		open: func(c *api.Client, parents []string) (api.Objects[api.Bond, api.Bond], error) {
			return c.Bonds(parents[0]), nil
		},
		header: []string{"NAME", "MODE", "LACP RATE", "NICS", "NIC TAGS"},
		row: func(b api.Bond) []cell {
			return []cell{text(b.Name), text(b.Mode), text(b.LACPRate), text(strings.Join(b.MACs, " ")), text(strings.Join(b.NICTags, " "))}
		},
		name:   func(b api.Bond) string { return b.Name },
		delete: "Ends a bond: its NICs are single again. The server follows at once, and takes the change back after 30 s when it loses the head node by it.",
	}
	return noun("bond", "Bonds of servers' physical NICs (aggregations)",
		lines("nereid bond set cn0 bond0 52:54:00:00:00:11 52:54:00:00:00:12 --mode 802.3ad --nic-tag external", "nereid bond list cn0"),
		list(a, k), get(a, k), a.bondSet(), remove(a, k))
}

func (a *app) bondSet() *cobra.Command {
	var b api.Bond
	var yes bool
	cmd := &cobra.Command{
		Use: "set SERVER NAME MAC...", Short: "Make a bond, or change it, without a reboot",
		Long: `Makes a bond of physical NICs of a server, or replaces the one of that name. A NIC tag that the bond provides moves there from what provided it before;
when that is not one of the bond's NICs, the command shows what moves and asks.
The server follows at once; when it loses the head node by
it, it takes the change back after 30 s. State and counters: nereid server nics SERVER.` + "\n\n" + serverIDs,
		Example: lines("nereid bond set cn0 bond0 52:54:00:00:00:11 52:54:00:00:00:12 --nic-tag external",
			"nereid bond set cn0 bond0 52:54:00:00:00:11 52:54:00:00:00:12 --mode 802.3ad --lacp-rate fast --nic-tag external --nic-tag underlay"),
		Args:              wants("SERVER", "NAME", "MAC..."),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, args []string) error {
			b.Server, b.Name, b.MACs = s.UUID, args[1], args[2:]
			var out api.Bond
			err := a.agree(ctx, yes, func(ctx context.Context) (err error) {
				out, err = c.Bonds(s.UUID).Create(ctx, b)
				return err
			})
			if err != nil {
				return err
			}
			return a.done(out, "bond %s of %s (%s) is made of %s", out.Name, named(s), out.Mode, strings.Join(out.MACs, ", "))
		}),
	}
	cmd.Flags().StringVar(&b.Mode, "mode", "active-backup", "active-backup or 802.3ad")
	cmd.Flags().StringVar(&b.LACPRate, "lacp-rate", "", "802.3ad: slow or fast (default slow)")
	cmd.Flags().StringSliceVar(&b.NICTags, "nic-tag", nil, "NIC tag it provides; can be repeated")
	yesFlag(cmd, &yes)
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"active-backup", "802.3ad"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("lacp-rate", cobra.FixedCompletions([]string{"slow", "fast"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
