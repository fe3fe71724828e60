package headnode

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"nereid/api"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// defaultMTU is what no networks carry.
const defaultMTU = 1500

// netFacts is what the network of one server is computed from.
type netFacts struct {
	tags     map[string]api.NICTag
	uses     []api.NICTagUse
	bonds    []api.Bond
	underlay []networks.Underlay      // of this server
	subnets  []string                 // of all underlay networks
	hosts    map[string][]uint32      // VNIs with NICs here, by owner
	fabrics  map[string][]api.Network // by owner, of those with a router here
	nat      map[string]*api.NATSpec  // by owner
}

// networkSpec reads the facts of a server and says what its network should be, but for
// its ports and their rules, which are sets of the journal.
func (s *Server) networkSpec(tx store.Tx, server string) (*api.NetworkSpec, error) {
	f := netFacts{tags: map[string]api.NICTag{}, fabrics: map[string][]api.Network{}}
	all, _, err := networks.ListNICTags(tx, "", 0)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		f.tags[t.Name] = t
	}
	if f.uses, err = networks.NICTagUses(tx, server); err != nil {
		return nil, err
	}
	if f.bonds, _, err = networks.ListBonds(tx, server, "", 0); err != nil {
		return nil, err
	}
	if f.underlay, err = networks.UnderlayOf(tx, server); err != nil {
		return nil, err
	}
	under, err := networks.UnderlayNetworks(tx)
	if err != nil {
		return nil, err
	}
	for _, n := range under {
		f.subnets = append(f.subnets, n.Subnet)
	}
	if f.hosts, err = hostsOf(tx, server); err != nil {
		return nil, err
	}
	owners, err := accountsOn(tx, server, f.hosts)
	if err != nil {
		return nil, err
	}
	f.nat = map[string]*api.NATSpec{}
	w := &ways{}
	if len(owners) > 0 {
		if w, err = natWays(tx); err != nil {
			return nil, err
		}
	}
	for _, o := range owners {
		if f.fabrics[o], err = networks.FabricNetworks(tx, o); err != nil {
			return nil, err
		}
		if f.nat[o], err = natSpec(tx, o, server, w); err != nil {
			return nil, err
		}
	}
	spec := f.spec()
	return &spec, nil
}

// spec is what follows from the facts. All lists are in a fixed order, so that the
// same facts give the same spec.
func (f netFacts) spec() api.NetworkSpec {
	var s api.NetworkSpec
	for _, b := range f.bonds {
		s.Bonds = append(s.Bonds, api.BondSpec{Name: b.Name, MACs: b.MACs, Mode: b.Mode, LACPRate: b.LACPRate})
		for _, t := range b.NICTags {
			s.Tags = append(s.Tags, api.TagSpec{Name: t, MTU: f.tags[t].MTU, Bond: b.Name})
		}
	}
	for _, u := range f.uses {
		for _, t := range u.NICTags {
			s.Tags = append(s.Tags, api.TagSpec{Name: t, MTU: f.tags[t].MTU, MAC: u.MAC})
		}
	}
	slices.SortFunc(s.Tags, func(a, b api.TagSpec) int { return cmp.Compare(a.Name, b.Name) })
	if len(f.underlay) > 0 {
		u := f.underlay[0]
		s.Underlay = &api.UnderlaySpec{Tag: u.Network.NICTag, VLAN: u.Network.VLAN, MTU: u.Network.MTU,
			Address: u.Address.String(), Gateway: u.Network.Gateway, Subnets: f.subnets}
	}
	f.fabric(&s)
	return s
}

// fabric adds VNIs and routers: for each account with a NIC on its fabric here, the
// VNI of each of its networks with a gateway, so that traffic between them is
// routed where it begins, and of each of those NICs.
func (f netFacts) fabric(s *api.NetworkSpec) {
	if s.Underlay == nil {
		return
	}
	vnis := map[uint32]api.VNISpec{}
	join := func(n api.Network, owner string) {
		v := vnis[n.VNI]
		if v.MTU == 0 || n.MTU < v.MTU {
			v.MTU = n.MTU
		}
		v.VNI, v.Owner = n.VNI, owner
		vnis[n.VNI] = v
	}
	for owner, nets := range f.fabrics {
		r := api.RouterSpec{Owner: owner}
		for _, n := range nets {
			here := slices.Contains(f.hosts[owner], n.VNI)
			if n.Gateway != "" || here {
				join(n, owner)
			}
			if n.Gateway == "" {
				continue
			}
			subnet, err := netip.ParsePrefix(n.Subnet)
			if err != nil {
				continue // networks are checked when they are made
			}
			r.Networks = append(r.Networks, api.RouterNetwork{VNI: n.VNI, Gateway: n.Gateway + "/" + strconv.Itoa(subnet.Bits()),
				MAC: gatewayMAC(n.VNI), InternetNAT: n.InternetNAT, Routes: n.Routes})
		}
		if r.NAT = f.nat[owner]; r.NAT != nil && r.NAT.VNI != 0 {
			vnis[r.NAT.VNI] = api.VNISpec{VNI: r.NAT.VNI, Owner: owner, MTU: leastMTU(nets)}
		}
		if len(r.Networks) > 0 {
			slices.SortFunc(r.Networks, func(a, b api.RouterNetwork) int {
				return cmp.Compare(fmt.Sprintf("%08x %s", a.VNI, a.Gateway), fmt.Sprintf("%08x %s", b.VNI, b.Gateway))
			})
			s.Routers = append(s.Routers, r)
		}
	}
	for _, v := range vnis {
		s.VNIs = append(s.VNIs, v)
	}
	slices.SortFunc(s.VNIs, func(a, b api.VNISpec) int { return int(a.VNI) - int(b.VNI) })
	slices.SortFunc(s.Routers, func(a, b api.RouterSpec) int { return cmp.Compare(a.Owner, b.Owner) })
}

// gatewayMAC is the MAC of a VNI's gateway on every server.
func gatewayMAC(vni uint32) string {
	return fmt.Sprintf(networks.GatewayMACPrefix+":%02x:%02x:%02x", byte(vni>>16), byte(vni>>8), byte(vni))
}

// leastMTU is what every one of some networks carries.
func leastMTU(nets []api.Network) int {
	least := defaultMTU
	for i, n := range nets {
		if i == 0 || n.MTU < least {
			least = n.MTU
		}
	}
	return least
}

// accountsOn are the accounts that have a router on a server: those with NICs on
// their fabric there, and those it is a gateway of.
func accountsOn(tx store.Tx, server string, hosts map[string][]uint32) ([]string, error) {
	owners, err := gatewayFor(tx, server)
	owners = slices.AppendSeq(owners, maps.Keys(hosts))
	slices.Sort(owners)
	return slices.Compact(owners), err
}
