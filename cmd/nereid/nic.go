package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func nicKind() kind[api.NetworkNIC, api.NICUpdate] {
	return kind[api.NetworkNIC, api.NICUpdate]{
		noun: "nic", thing: "NIC", id: "MAC", example: []string{"02:4e:52:00:00:01"},
		open: func(c *api.Client, _ []string) (api.Objects[api.NetworkNIC, api.NICUpdate], error) {
			return c.NICs(), nil
		},
		header: []string{"MAC", "ADDRESSES", "ON", "SERVER", "OWNER", "BELONGS TO"},
		row: func(n api.NetworkNIC) []cell {
			return []cell{text(n.MAC), text(nicAddresses(n)), text(segment(n.NICTag, n.VLAN, n.VNI)), text(n.Server), text(n.Owner),
				text(n.BelongsToType + " " + n.BelongsTo)}
		},
		name: func(n api.NetworkNIC) string { return n.MAC },
		alerts: func(ctx context.Context, c *api.Client, n api.NetworkNIC) (string, []string) {
			if n.Server == "" {
				return "", nil
			}
			s, err := c.Server(ctx, n.Server)
			if err != nil {
				return "Its server", []string{err.Error()}
			}
			if s.StateReason != "" && s.State != api.StateApproved { // without a pool it has NICs all the same
				s.Alerts = slices.Insert(s.Alerts, 0, fmt.Sprintf("It is %s: %s.", s.State, s.StateReason))
			}
			return "Alerts of its server, " + named(s), s.Alerts
		},
		delete: "Deletes a NIC and gives its addresses back; reserved ones keep their owner. On its server it is gone at once.",
	}
}

func nicAddresses(n api.NetworkNIC) string {
	ips := make([]string, len(n.Addresses))
	for i, ad := range n.Addresses {
		ips[i] = ad.IP
	}
	return strings.Join(ips, " ")
}

func (a *app) nicCommand() *cobra.Command {
	k := nicKind()
	return noun("nic", "NICs with addresses: of instances, of servers, of others",
		lines("nereid nic create --network external --on cn0 --owner UUID --belongs-to UUID", "nereid nic move 02:4e:52:00:00:01 cn1", "nereid nic list --on cn0"),
		list(a, k, filter{"owner", "owner", "only this account's"}, filter{"on", "server", "only those on this server"},
			filter{"network", "network", "only those on this network"}, filter{"belongs-to", "belongs_to", "only those of this instance or server"}),
		get(a, k), a.nicCreate(), a.nicUpdate(k), a.nicMove(k), remove(a, k), a.nicSearch())
}

// spoofFlags adds the flags that lift anti-spoofing.
func spoofFlags(cmd *cobra.Command, f *api.SpoofFlags) {
	fl := cmd.Flags()
	fl.BoolVar(&f.AllowIPSpoofing, "allow-ip-spoofing", false, "it may send from any address")
	fl.BoolVar(&f.AllowMACSpoofing, "allow-mac-spoofing", false, "it may send from any MAC")
	fl.BoolVar(&f.AllowDHCPSpoofing, "allow-dhcp-spoofing", false, "it may serve DHCP and advertise routers")
	fl.BoolVar(&f.AllowRestrictedTraffic, "allow-restricted-traffic", false, "it may send other EtherTypes than IPv4, ARP and IPv6")
	fl.StringSliceVar(&f.AllowedIPs, "allowed-ip", nil, "further address or CIDR that it may send from; can be repeated")
}

func (a *app) nicCreate() *cobra.Command {
	var n api.NetworkNIC
	var networks []string
	var yes bool
	cmd := &cobra.Command{
		Use: "create", Short: "Make a NIC with an address on each of some networks",
		Long: `Makes a NIC. --network is a network or a pool, by name or UUID, and may carry the address that is wanted, as NETWORK=ADDRESS; several
networks, as one of IPv4 and one of IPv6, must be on one layer-2 segment. --belongs-to gives it to an instance, which gets it while it runs. One
of type other is in a network namespace on its server at once, nic-MAC. --underlay makes it that server's address on the underlay, which VXLAN
uses. The NICs of an instance have one set of firewall tags, and one of them is primary: before --tag or --primary changes others, they are shown, and so are the rules that would end.`,
		Example: lines("nereid nic create --network external --on cn0 --owner 930896af-bf8c-48d4-885c-6573a94b1853 --belongs-to 11111111-1111-4111-8111-111111111111 --belongs-to-type other",
			"nereid nic create --network web=10.0.1.5 --network web6 --on cn0 --owner 930896af-bf8c-48d4-885c-6573a94b1853 --belongs-to 11111111-1111-4111-8111-111111111111 --belongs-to-type other",
			"nereid nic create --network underlay --on cn0 --underlay"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			in := n
			for _, s := range networks {
				name, ip, _ := strings.Cut(s, "=")
				in.Addresses = append(in.Addresses, api.NICAddress{Network: name, IP: ip})
			}
			if in.Server != "" {
				s, err := a.find(ctx, c, in.Server)
				if err != nil {
					return err
				}
				in.Server = s.UUID
			}
			if in.BelongsToType == "" {
				in.BelongsToType = api.BelongsToZone
				if in.Underlay {
					in.BelongsToType, in.BelongsTo = api.BelongsToServer, in.Server
				}
			}
			var out api.NetworkNIC
			err := a.agree(ctx, yes, func(ctx context.Context) (err error) {
				out, err = c.NICs().Create(ctx, in)
				return err
			})
			if err != nil {
				return err
			}
			return a.done(out, "NIC %s is made: %s on %s", out.MAC, nicAddresses(out), segment(out.NICTag, out.VLAN, out.VNI))
		}),
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&networks, "network", nil, "network or pool, or NETWORK=ADDRESS; can be repeated")
	fl.StringVar(&n.Server, "on", "", "server it is on, by hostname, UUID or MAC")
	fl.StringVar(&n.Owner, "owner", "", "account it belongs to, a UUID")
	fl.StringVar(&n.BelongsTo, "belongs-to", "", "UUID of the instance that gets it, or of what else it belongs to")
	fl.StringVar(&n.BelongsToType, "belongs-to-type", "", "zone, server or other (default zone: an instance)")
	fl.StringVar(&n.MAC, "mac", "", "its MAC address (default: one is made)")
	fl.BoolVar(&n.Primary, "primary", false, "its gateway is the default route")
	fl.StringToStringVar(&n.Tags, "tag", nil, "firewall tag of what it belongs to, as role=web; can be repeated")
	fl.BoolVar(&n.NoFirewall, "no-firewall", false, "everything may come in and go out")
	fl.BoolVar(&n.Underlay, "underlay", false, "it is the server's address on the underlay")
	spoofFlags(cmd, &n.SpoofFlags)
	yesFlag(cmd, &yes)
	_ = cmd.MarkFlagRequired("network")
	return cmd
}

func (a *app) nicUpdate(k kind[api.NetworkNIC, api.NICUpdate]) *cobra.Command {
	var u api.NICUpdate
	var primary bool
	var owner, belongs, state string
	var flags api.SpoofFlags
	var tags map[string]string
	var noFirewall, yes bool
	cmd := &cobra.Command{
		Use: "update MAC", Short: "Change a NIC; what is not named stays",
		Long:              "Changes a NIC. The five --allow flags are set as a whole when one of them is given.",
		Example:           lines("nereid nic update 02:4e:52:00:00:01 --allow-ip-spoofing", "nereid nic update 02:4e:52:00:00:01 --allowed-ip 10.0.1.200"),
		Args:              wants("MAC"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			u.Owner, u.BelongsTo, u.Primary, u.State = given(cmd, "owner", owner), given(cmd, "belongs-to", belongs), given(cmd, "primary", primary), given(cmd, "state", state)
			u.Tags, u.NoFirewall = given(cmd, "tag", tags), given(cmd, "no-firewall", noFirewall)
			for _, name := range []string{"allow-ip-spoofing", "allow-mac-spoofing", "allow-dhcp-spoofing", "allow-restricted-traffic", "allowed-ip"} {
				if cmd.Flags().Changed(name) {
					u.Flags = &flags
				}
			}
			var out api.NetworkNIC
			err = a.agree(cmd.Context(), yes, func(ctx context.Context) (err error) {
				out, err = c.NICs().Update(ctx, args[0], u, "")
				return err
			})
			if err != nil {
				return err
			}
			return a.done(out, "NIC %s is changed", out.MAC)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&owner, "owner", "", "account it belongs to, a UUID")
	fl.StringVar(&belongs, "belongs-to", "", "UUID of what it belongs to")
	fl.StringVar(&state, "state", "", "provisioning, stopped or running")
	fl.StringToStringVar(&tags, "tag", nil, "its firewall tags, as a whole")
	fl.BoolVar(&noFirewall, "no-firewall", false, "everything may come in and go out")
	fl.BoolVar(&primary, "primary", false, "its gateway is the default route")
	spoofFlags(cmd, &flags)
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) nicMove(k kind[api.NetworkNIC, api.NICUpdate]) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "move MAC SERVER", Short: "Move a NIC with its addresses to another server",
		Long:              "Moves a NIC to another server. Within a second every server that hosts its VNI sends there.\n\n" + serverIDs,
		Example:           lines("nereid nic move 02:4e:52:00:00:01 cn1"),
		Args:              wants("MAC", "SERVER"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			s, err := a.find(ctx, c, args[1])
			if err != nil {
				return err
			}
			var out api.NetworkNIC
			err = a.agree(ctx, yes, func(ctx context.Context) (err error) {
				out, err = c.NICs().Update(ctx, args[0], api.NICUpdate{Server: &s.UUID}, "")
				return err
			})
			if err != nil {
				return err
			}
			return a.done(out, "NIC %s (%s) is on %s now", out.MAC, nicAddresses(out), named(s))
		}),
	}
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) nicSearch() *cobra.Command {
	return &cobra.Command{
		Use: "search MAC", Short: "Find what has a MAC address",
		Example:           lines("nereid nic search 02:4e:52:00:00:01"),
		Args:              wants("MAC"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			found, err := c.SearchNICs(ctx, args[0])
			if err != nil {
				return err
			}
			k := nicKind()
			return a.emit(found, func(w io.Writer) error {
				return k.table(a, found).write(w)
			})
		}),
	}
}
