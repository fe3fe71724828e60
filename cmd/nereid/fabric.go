package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) fabricCommand() *cobra.Command {
	return noun("fabric", "Fabrics: accounts' private networks, carried in VXLAN",
		lines("nereid fabric settings --underlay-nic-tag underlay",
			"nereid fabric vlan create 930896af-bf8c-48d4-885c-6573a94b1853 2 --name web",
			"nereid fabric network create 930896af-bf8c-48d4-885c-6573a94b1853 2 web --subnet 10.0.1.0/24 --gateway 10.0.1.1 --internet-nat",
			"nereid fabric forward create 930896af-bf8c-48d4-885c-6573a94b1853 tcp 10.0.1.5:443 --port 8443",
			"nereid fabric map 7340"),
		a.fabricSettings(), a.fabricVLAN(), a.fabricNetwork(), a.fabricForward(), a.fabricMap())
}

func (a *app) fabricSettings() *cobra.Command {
	var in api.FabricSettings
	var yes bool
	cmd := &cobra.Command{
		Use: "settings", Short: "Show or change the datacenter's fabric settings",
		Long:              "Shows the settings; with flags, changes those that are named.",
		Example:           lines("nereid fabric settings", "nereid fabric settings --underlay-nic-tag underlay --nat-network external"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			s, err := c.FabricSettings(cmd.Context())
			if err != nil {
				return err
			}
			changed := false
			for name, set := range map[string]func(){
				"underlay-nic-tag": func() { s.UnderlayTag = in.UnderlayTag },
				"overlay-mtu":      func() { s.OverlayMTU = in.OverlayMTU },
				"nat-network":      func() { s.NATNetwork = in.NATNetwork },
				"mac-prefix":       func() { s.MACPrefix = in.MACPrefix },
			} {
				if cmd.Flags().Changed(name) {
					set()
					changed = true
				}
			}
			if changed {
				err := a.agree(cmd.Context(), yes, func(ctx context.Context) error {
					out, err := c.SetFabricSettings(ctx, s)
					if err == nil {
						s = out
					}
					return err
				})
				if err != nil {
					return err
				}
			}
			return a.show(s)
		},
	}
	fl := cmd.Flags()
	yesFlag(cmd, &yes)
	fl.StringVar(&in.UnderlayTag, "underlay-nic-tag", "", "NIC tag that carries VXLAN")
	fl.IntVar(&in.OverlayMTU, "overlay-mtu", 0, "MTU of fabric networks (0: what the underlay leaves)")
	fl.StringVar(&in.NATNetwork, "nat-network", "", "network or pool whose addresses internet_nat uses")
	fl.StringVar(&in.MACPrefix, "mac-prefix", "", "first three bytes of the MAC addresses that are made, as 02:4e:52")
	return cmd
}

func (a *app) fabricVLAN() *cobra.Command {
	k := kind[api.FabricVLAN, api.FabricVLANUpdate]{
		noun: "fabric vlan", thing: "fabric VLAN", parents: []string{"OWNER"}, id: "VLAN",
		example: []string{"930896af-bf8c-48d4-885c-6573a94b1853", "2"},
		open: func(c *api.Client, parents []string) (api.Objects[api.FabricVLAN, api.FabricVLANUpdate], error) {
			return c.FabricVLANs(parents[0]), nil
		},
		header: []string{"VLAN", "NAME", "VNI", "DESCRIPTION"}, prose: true,
		row: func(v api.FabricVLAN) []cell {
			return []cell{number("%d", v.VLAN), text(v.Name), number("%d", v.VNI), text(v.Description)}
		},
		name:   func(v api.FabricVLAN) string { return strconv.Itoa(v.VLAN) },
		delete: "Deletes a VLAN of an account's fabric. One with networks stays.",
	}
	return noun("vlan", "VLANs of accounts' fabrics", lines("nereid fabric vlan list 930896af-bf8c-48d4-885c-6573a94b1853"),
		list(a, k), get(a, k), a.fabricVLANCreate(), a.fabricVLANUpdate(), remove(a, k))
}

func (a *app) fabricVLANUpdate() *cobra.Command {
	var name, description string
	cmd := &cobra.Command{
		Use: "update OWNER VLAN", Short: "Change a VLAN's name or description",
		Example:           lines("nereid fabric vlan update 930896af-bf8c-48d4-885c-6573a94b1853 2 --name front"),
		Args:              wants("OWNER", "VLAN"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&name, "name", "", "its name")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	cmd.RunE = a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
		out, err := c.FabricVLANs(args[0]).Update(ctx, args[1], api.FabricVLANUpdate{
			Name: given(cmd, "name", name), Description: given(cmd, "description", description)}, "")
		if err != nil {
			return err
		}
		return a.done(out, "fabric VLAN %d is called %s", out.VLAN, out.Name)
	})
	return cmd
}

func (a *app) fabricVLANCreate() *cobra.Command {
	var v api.FabricVLAN
	cmd := &cobra.Command{
		Use: "create OWNER VLAN", Short: "Make a VLAN in an account's fabric",
		Example:           lines("nereid fabric vlan create 930896af-bf8c-48d4-885c-6573a94b1853 2 --name web"),
		Args:              wants("OWNER", "VLAN"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return usagef("VLAN %q: want 0 or 2 to 4094", args[1])
			}
			v.Owner, v.VLAN = args[0], n
			if v.Name == "" {
				v.Name = "vlan" + args[1]
			}
			out, err := c.FabricVLANs(args[0]).Create(ctx, v)
			if err != nil {
				return err
			}
			return a.done(out, "fabric VLAN %d (%s) is made, VNI %d", out.VLAN, out.Name, out.VNI)
		}),
	}
	cmd.Flags().StringVar(&v.Name, "name", "", "its name (default vlanN)")
	cmd.Flags().StringVar(&v.Description, "description", "", "what it is for")
	return cmd
}

func (a *app) fabricNetwork() *cobra.Command {
	k := networkKind()
	k.noun, k.thing, k.parents = "fabric network", "fabric network", []string{"OWNER", "VLAN"}
	k.example = []string{"930896af-bf8c-48d4-885c-6573a94b1853", "2", "web"}
	k.open = func(c *api.Client, parents []string) (api.Objects[api.Network, api.NetworkUpdate], error) {
		n, err := strconv.Atoi(parents[1])
		if err != nil {
			return api.Objects[api.Network, api.NetworkUpdate]{}, usagef("VLAN %q: want 0 or 2 to 4094", parents[1])
		}
		return c.FabricNetworks(parents[0], n), nil
	}
	return noun("network", "Networks of accounts' fabrics", lines("nereid fabric network list 930896af-bf8c-48d4-885c-6573a94b1853 2"),
		list(a, k), get(a, k), a.fabricNetworkCreate(k), remove(a, k))
}

func (a *app) fabricNetworkCreate(k kind[api.Network, api.NetworkUpdate]) *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use: "create OWNER VLAN NAME", Short: "Make a network on a VLAN of an account's fabric",
		Long: `Makes a network of private addresses (RFC 1918, or fc00::/7). Without --subnet it gets a free /24 and its first host as the gateway.
Other accounts may use the same addresses.`,
		Example: lines("nereid fabric network create 930896af-bf8c-48d4-885c-6573a94b1853 2 web --subnet 10.0.1.0/24 --gateway 10.0.1.1 --internet-nat",
			"nereid fabric network create 930896af-bf8c-48d4-885c-6573a94b1853 2 web"),
		Args:              wants("OWNER", "VLAN", "NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			objs, err := k.open(c, args)
			if err != nil {
				return err
			}
			n := f.n
			n.Name = args[2]
			if n.Routes, err = routesFlag(f.routes); err != nil {
				return err
			}
			out, err := objs.Create(ctx, n)
			if err != nil {
				return err
			}
			return a.done(out, "fabric network %s (%s) is made: %s, VNI %d", out.Name, out.UUID, out.Subnet, out.VNI)
		}),
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.n.Subnet, "subnet", "", "subnet as CIDR (default: a free /24)")
	cmd.Flags().BoolVar(&f.n.InternetNAT, "internet-nat", false, "reach what is outside by NAT; needs a gateway")
	return cmd
}

func (a *app) fabricMap() *cobra.Command {
	return &cobra.Command{
		Use: "map VNI", Short: "Show where each address of a VNI is",
		Example:           lines("nereid fabric map 7340", "nereid fabric map 7340 -o json | jq .version"),
		Args:              wants("VNI"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			vni, err := strconv.ParseUint(args[0], 10, 24)
			if err != nil {
				return usagef("VNI %q: want a number below 16777216", args[0])
			}
			m, err := c.FabricMap(ctx, uint32(vni), "", 0)
			if err != nil {
				return err
			}
			return a.emit(m, func(w io.Writer) error {
				if _, err := fmt.Fprintf(w, "VNI %d, version %d of epoch %s, %s\n", m.VNI, m.Version, oneLine(m.Epoch), api.Plural(len(m.Entries), "address")); err != nil {
					return err
				}
				t := a.table("IP", "MAC", "UNDERLAY", "SINCE VERSION")
				for _, e := range m.Entries {
					t.add(text(e.IP), text(e.MAC), text(e.Underlay), number("%d", e.Version))
				}
				return t.write(w)
			})
		}),
	}
}
