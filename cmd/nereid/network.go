package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func networkKind() kind[api.Network, api.NetworkUpdate] {
	return kind[api.Network, api.NetworkUpdate]{
		noun: "network", thing: "network", id: "NETWORK", example: []string{"external"},
		open: func(c *api.Client, _ []string) (api.Objects[api.Network, api.NetworkUpdate], error) {
			return c.Networks(), nil
		},
		header: []string{"NAME", "SUBNET", "ON", "GATEWAY", "PROVISION", "MTU", "UUID"},
		row: func(n api.Network) []cell {
			return []cell{text(n.Name), text(n.Subnet), text(segment(n.NICTag, n.VLAN, n.VNI)), text(n.Gateway),
				text(n.ProvisionStart + "-" + n.ProvisionEnd), number("%d", n.MTU), text(n.UUID)}
		},
		name:   func(n api.Network) string { return n.Name },
		delete: "Deletes a network. One with NICs on it or in a pool stays, and what uses it is listed.",
	}
}

// segment names a layer-2 segment in a few characters.
func segment(tag string, vlan int, vni uint32) string {
	switch {
	case vni != 0:
		return "vni " + number("%d", vni).text
	case vlan != 0:
		return tag + " vlan " + number("%d", vlan).text
	}
	return tag
}

func (a *app) networkCommand() *cobra.Command {
	k := networkKind()
	return noun("network", "Networks: IPv4 and IPv6 subnets on NIC tags",
		lines("nereid network create external --nic-tag external --subnet 10.88.88.0/24 --gateway 10.88.88.2", "nereid network list"),
		list(a, k, filter{"nic-tag", "nic_tag", "only those on this NIC tag"}, filter{"owner", "owner", "only those that this account may use"},
			filter{"fabric", "fabric", "true: only fabric networks; false: only others"}),
		get(a, k), a.networkCreate(), a.networkUpdate(k), remove(a, k), a.networkTrace())
}

// networkFlags are the flags that describe a network.
type networkFlags struct {
	n      api.Network
	routes []string
}

func (f *networkFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.n.ProvisionStart, "start", "", "first address that is given out (default: the subnet's first host)")
	fl.StringVar(&f.n.ProvisionEnd, "end", "", "last one (default: the subnet's last host)")
	fl.StringVar(&f.n.Gateway, "gateway", "", "address of the gateway")
	fl.StringSliceVar(&f.n.Resolvers, "resolver", nil, "address of a DNS resolver; can be repeated")
	fl.StringSliceVar(&f.routes, "route", nil, "static route as CIDR=NEXTHOP; can be repeated")
	fl.IntVar(&f.n.MTU, "mtu", 0, "largest packet in bytes (default: the NIC tag's, or the overlay's)")
	fl.StringVar(&f.n.Description, "description", "", "what it is for")
}

func (a *app) networkCreate() *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a network on a NIC tag",
		Long: "Makes a network on a NIC tag and VLAN. Fabric networks are made with: nereid fabric network create.",
		Example: lines("nereid network create external --nic-tag external --subnet 10.88.88.0/24 --gateway 10.88.88.2",
			"nereid network create ext6 --nic-tag external --vlan 10 --subnet 2001:db8:10::/64 --gateway 2001:db8:10::1",
			"nereid network create underlay --nic-tag underlay --subnet 10.77.0.0/24 --mtu 9000"),
		Args:              wants("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			n := f.n
			n.Name = args[0]
			var err error
			if n.Routes, err = routesFlag(f.routes); err != nil {
				return err
			}
			out, err := c.Networks().Create(ctx, n)
			if err != nil {
				return err
			}
			return a.done(out, "network %s (%s) is made: %s on %s", out.Name, out.UUID, out.Subnet, segment(out.NICTag, out.VLAN, out.VNI))
		}),
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.n.NICTag, "nic-tag", "", "NIC tag that carries it")
	fl.IntVar(&f.n.VLAN, "vlan", 0, "VLAN, 2 to 4094 (default 0: untagged)")
	fl.StringVar(&f.n.Subnet, "subnet", "", "subnet as CIDR")
	fl.StringSliceVar(&f.n.Owners, "owner", nil, "account that may use it; can be repeated (default: all)")
	for _, name := range []string{"nic-tag", "subnet"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

func (a *app) networkUpdate(k kind[api.Network, api.NetworkUpdate]) *cobra.Command {
	var f networkFlags
	var name string
	var yes bool
	cmd := &cobra.Command{
		Use: "update NETWORK", Short: "Change a network; what is not named stays",
		Example:           lines("nereid network update external --start 10.88.88.100 --end 10.88.88.200", "nereid network update external --gateway ''"),
		Args:              wants("NETWORK"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			routes, err := routesFlag(f.routes)
			if err != nil {
				return err
			}
			u := api.NetworkUpdate{
				Name: given(cmd, "name", name), ProvisionStart: given(cmd, "start", f.n.ProvisionStart), ProvisionEnd: given(cmd, "end", f.n.ProvisionEnd),
				Gateway: given(cmd, "gateway", f.n.Gateway), Resolvers: given(cmd, "resolver", f.n.Resolvers), Routes: given(cmd, "route", routes),
				Owners: given(cmd, "owner", f.n.Owners), MTU: given(cmd, "mtu", f.n.MTU), Description: given(cmd, "description", f.n.Description),
				InternetNAT: given(cmd, "internet-nat", f.n.InternetNAT),
			}
			var out api.Network
			err = a.agree(cmd.Context(), yes, func(ctx context.Context) (err error) {
				out, err = c.Networks().Update(ctx, args[0], u, "")
				return err
			})
			if err != nil {
				return err
			}
			return a.done(out, "network %s is changed", out.Name)
		},
	}
	f.add(cmd)
	yesFlag(cmd, &yes)
	cmd.Flags().StringVar(&name, "name", "", "another name")
	cmd.Flags().StringSliceVar(&f.n.Owners, "owner", nil, "accounts that may use it, as a whole")
	cmd.Flags().BoolVar(&f.n.InternetNAT, "internet-nat", false, "fabric networks: reach what is outside by NAT")
	return cmd
}

func (a *app) poolCommand() *cobra.Command {
	k := kind[api.NetworkPool, api.NetworkPoolUpdate]{
		noun: "pool", thing: "network pool", id: "POOL", example: []string{"external"},
		open: func(c *api.Client, _ []string) (api.Objects[api.NetworkPool, api.NetworkPoolUpdate], error) {
			return c.NetworkPools(), nil
		},
		header: []string{"NAME", "FAMILY", "NIC TAGS", "NETWORKS", "UUID"},
		row: func(p api.NetworkPool) []cell {
			return []cell{text(p.Name), text(p.Family), text(strings.Join(p.NICTags, " ")), number("%d", len(p.Networks)), text(p.UUID)}
		},
		name:   func(p api.NetworkPool) string { return p.Name },
		delete: "Deletes a pool; its networks stay.",
	}
	return noun("pool", "Network pools: networks that are tried in order",
		lines("nereid pool create external --network external-rack1 --network external-rack2", "nereid pool list"),
		list(a, k), get(a, k), a.poolCreate(), a.poolUpdate(k), remove(a, k))
}

func (a *app) poolCreate() *cobra.Command {
	var p api.NetworkPool
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a network pool",
		Long:              "Makes a pool. A NIC on a pool gets an address of the first of its networks that has one and whose NIC tag the server provides.",
		Example:           lines("nereid pool create external --network external-rack1 --network external-rack2"),
		Args:              wants("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			p.Name = args[0]
			out, err := c.NetworkPools().Create(ctx, p)
			if err != nil {
				return err
			}
			return a.done(out, "pool %s (%s) is made of %s", out.Name, out.UUID, api.Plural(len(out.Networks), "network"))
		}),
	}
	cmd.Flags().StringSliceVar(&p.Networks, "network", nil, "a network, by name or UUID; repeated, in the order in which they are tried")
	cmd.Flags().StringSliceVar(&p.Owners, "owner", nil, "account that may use it; can be repeated (default: all)")
	cmd.Flags().StringVar(&p.Description, "description", "", "what it is for")
	_ = cmd.MarkFlagRequired("network")
	return cmd
}

func (a *app) poolUpdate(k kind[api.NetworkPool, api.NetworkPoolUpdate]) *cobra.Command {
	var p api.NetworkPool
	cmd := &cobra.Command{
		Use: "update POOL", Short: "Change a network pool; what is not named stays",
		Example:           lines("nereid pool update external --network external-rack2 --network external-rack1"),
		Args:              wants("POOL"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			out, err := c.NetworkPools().Update(cmd.Context(), args[0], api.NetworkPoolUpdate{
				Name: given(cmd, "name", p.Name), Networks: given(cmd, "network", p.Networks), Owners: given(cmd, "owner", p.Owners),
				Description: given(cmd, "description", p.Description)}, "")
			if err != nil {
				return err
			}
			return a.done(out, "pool %s is changed", out.Name)
		},
	}
	cmd.Flags().StringVar(&p.Name, "name", "", "another name")
	cmd.Flags().StringSliceVar(&p.Networks, "network", nil, "its networks, as a whole, in order")
	cmd.Flags().StringSliceVar(&p.Owners, "owner", nil, "accounts that may use it, as a whole")
	cmd.Flags().StringVar(&p.Description, "description", "", "what it is for")
	return cmd
}
