package main

import (
	"context"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) fabricForward() *cobra.Command {
	k := kind[api.FabricForward, api.FabricForwardUpdate]{
		noun: "fabric forward", thing: "port forward", parents: []string{"OWNER"}, id: "UUID",
		example: []string{"930896af-bf8c-48d4-885c-6573a94b1853", "5d4b3c2a-1111-4222-8333-444455556666"},
		open: func(c *api.Client, parents []string) (api.Objects[api.FabricForward, api.FabricForwardUpdate], error) {
			return c.FabricForwards(parents[0]), nil
		},
		header: []string{"UUID", "PROTO", "PORT", "TO", "ADDRESSES", "DESCRIPTION"}, prose: true,
		row: func(f api.FabricForward) []cell {
			return []cell{text(f.UUID), text(f.Protocol), number("%d", f.Port), text(forwardTo(f)), text(strings.Join(f.Addresses, " ")), text(f.Description)}
		},
		name:   func(f api.FabricForward) string { return f.UUID },
		delete: "Deletes a port forward. Connections that it made end.",
	}
	return noun("forward", "Ports of external addresses that go to instances", lines("nereid fabric forward list 930896af-bf8c-48d4-885c-6573a94b1853"),
		list(a, k), get(a, k), a.forwardCreate(), a.forwardUpdate(), remove(a, k))
}

func forwardTo(f api.FabricForward) string {
	ip, err := netip.ParseAddr(f.IP)
	if err != nil {
		return f.IP
	}
	return netip.AddrPortFrom(ip, f.ToPort).String()
}

// forwardTarget reads ADDRESS or ADDRESS:PORT, of IPv6 in brackets.
func forwardTarget(s string) (ip string, port uint16, err error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String(), ap.Port(), nil
	}
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return "", 0, usagef("%q: want an address, or address and port as 10.0.1.5:443", s)
	}
	return addr.String(), 0, nil
}

func (a *app) forwardCreate() *cobra.Command {
	var f api.FabricForward
	cmd := &cobra.Command{
		Use: "create OWNER tcp|udp ADDRESS[:PORT]", Short: "Forward a port to an instance",
		Long: `Lets what comes to a port of the account's external addresses go to an instance. ADDRESS is that of a NIC of the account on a fabric network with
internet_nat; without PORT it is the external port. The addresses are those of two gateway servers, which serve all accounts: each port can be forwarded
once in the datacenter. A firewall rule has to allow it, FROM any: when the packet came in by another server than the instance's, its source is that server's
address between servers (of 100.64.0.0/10).`,
		Example: lines("nereid fabric forward create 930896af-bf8c-48d4-885c-6573a94b1853 tcp 10.0.1.5:443 --port 8443",
			"nereid fabric forward create 930896af-bf8c-48d4-885c-6573a94b1853 udp 10.0.1.5:53"),
		Args: wants("OWNER", "tcp|udp", "ADDRESS[:PORT]"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []string{"tcp", "udp"}, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			var err error
			if f.IP, f.ToPort, err = forwardTarget(args[2]); err != nil {
				return err
			}
			f.Owner, f.Protocol = args[0], args[1]
			out, err := c.FabricForwards(args[0]).Create(ctx, f)
			if err != nil {
				return err
			}
			where := "no server has an external address for it yet"
			if len(out.Addresses) > 0 {
				where = "at " + strings.Join(out.Addresses, " and ")
			}
			return a.done(out, "%s port %d goes to %s (%s); %s", out.Protocol, out.Port, forwardTo(out), out.UUID, where)
		}),
	}
	cmd.Flags().Uint16Var(&f.Port, "port", 0, "external port, 1 to 32767 (default: a free one)")
	cmd.Flags().StringVar(&f.Description, "description", "", "what it is for")
	return cmd
}

func (a *app) forwardUpdate() *cobra.Command {
	var to, description string
	cmd := &cobra.Command{
		Use: "update OWNER UUID", Short: "Let a port forward go elsewhere, or describe it",
		Example:           lines("nereid fabric forward update 930896af-bf8c-48d4-885c-6573a94b1853 5d4b3c2a-1111-4222-8333-444455556666 --to 10.0.1.6:443"),
		Args:              wants("OWNER", "UUID"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&to, "to", "", "address and port of an instance, as 10.0.1.6:443")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	cmd.RunE = a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
		var u api.FabricForwardUpdate
		if cmd.Flags().Changed("to") {
			ip, port, err := forwardTarget(to)
			if err != nil {
				return err
			}
			u.IP = &ip
			if port != 0 {
				u.ToPort = &port
			}
		}
		if cmd.Flags().Changed("description") {
			u.Description = &description
		}
		out, err := c.FabricForwards(args[0]).Update(ctx, args[1], u, "")
		if err != nil {
			return err
		}
		return a.done(out, "%s port %d goes to %s", out.Protocol, out.Port, forwardTo(out))
	})
	return cmd
}
