package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"nereid/api"
)

func ipKind() kind[api.IPAddress, api.IPUpdate] {
	return kind[api.IPAddress, api.IPUpdate]{
		noun: "ip", thing: "address", parents: []string{"NETWORK"}, id: "IP", example: []string{"external", "10.88.88.20"},
		open: func(c *api.Client, parents []string) (api.Objects[api.IPAddress, api.IPUpdate], error) {
			return c.IPs(parents[0]), nil
		},
		header: []string{"IP", "STATE", "MAC", "OWNER", "BELONGS TO", "NETWORK"},
		row: func(i api.IPAddress) []cell {
			state := "in use"
			switch {
			case i.Reserved && i.MAC == "":
				state = "reserved"
			case i.Reserved:
				state = "in use, reserved"
			case i.Free:
				state = "free"
			}
			return []cell{text(i.IP), text(state), text(i.MAC), text(i.Owner), text(i.BelongsToType + " " + i.BelongsTo), text(i.Network)}
		},
		name: func(i api.IPAddress) string { return i.IP },
	}
}

func (a *app) ipCommand() *cobra.Command {
	k := ipKind()
	return noun("ip", "Addresses of networks: who has them, reservations",
		lines("nereid ip list external", "nereid ip reserve external 10.88.88.20", "nereid ip search 10.88.88.20"),
		list(a, k), get(a, k), a.ipReserve(true), a.ipReserve(false), a.ipSearch())
}

// ipReserve makes "reserve" and "release".
func (a *app) ipReserve(reserved bool) *cobra.Command {
	verb, short, said := "reserve", "Keep an address for those who name it", "is reserved"
	if !reserved {
		verb, short, said = "release", "End an address's reservation", "is reserved no longer"
	}
	var owner string
	cmd := &cobra.Command{
		Use: verb + " NETWORK IP", Short: short,
		Example:           lines("nereid ip " + verb + " external 10.88.88.20"),
		Args:              wants("NETWORK", "IP"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			out, err := c.IPs(args[0]).Update(cmd.Context(), args[1], api.IPUpdate{Reserved: &reserved, Owner: given(cmd, "owner", owner)}, "")
			if err != nil {
				return err
			}
			return a.done(out, "%s %s", out.IP, said)
		},
	}
	if reserved {
		cmd.Flags().StringVar(&owner, "owner", "", "account it is kept for, a UUID")
	}
	return cmd
}

func (a *app) ipSearch() *cobra.Command {
	return &cobra.Command{
		Use: "search IP", Short: "Find an address in all networks",
		Example:           lines("nereid ip search 10.88.88.20"),
		Args:              wants("IP"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			found, err := c.SearchIPs(ctx, args[0])
			if err != nil {
				return err
			}
			if found == nil {
				found = []api.IPAddress{}
			}
			k := ipKind()
			return a.emit(found, func(w io.Writer) error {
				return k.table(a, found).write(w)
			})
		}),
	}
}
