package headnode

import (
	"cmp"
	"slices"

	"nereid/api"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// netFacts is what the network of one server is computed from, but for what is a set of
// the journal: ports, rules, VNIs and routers.
type netFacts struct {
	tags     map[string]api.NICTag
	uses     []api.NICTagUse
	bonds    []api.Bond
	underlay []networks.Underlay // of this server
	subnets  []string            // of all underlay networks
}

// networkSpec reads the facts of a server and says what its network should be.
func (s *Server) networkSpec(tx store.Tx, server string) (*api.NetworkSpec, error) {
	f := netFacts{tags: map[string]api.NICTag{}}
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
	return s
}
