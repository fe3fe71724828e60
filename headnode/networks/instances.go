package networks

import (
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// ServerPrefixes are what the keys begin with that say what a server provides; its UUID
// follows.
func ServerPrefixes() []string { return []string{physPrefix, bondPrefix, underlayPrefix} }

// Way is a layer-2 segment that a NIC may be on, and what a server must provide.
type Way struct {
	Tag     string // NIC tag; of a fabric, the underlay's
	Fabric  bool
	Segment string // SegmentOf a NIC that is on it
	Network string // its name
}

// Ways are the segments that a NIC may be on, whatever server it comes to be on, in the
// order in which they are tried. It names all that is wrong with what the NIC asks for.
func Ways(tx store.Tx, nic api.NetworkNIC) (_ []Way, err error) {
	defer named(&err, "read networks of a NIC")
	ws, err := wishes(tx, nic, nil)
	if err != nil {
		return nil, err
	}
	segments, err := candidates(ws)
	if err != nil {
		return nil, err
	}
	s, err := GetSettings(tx)
	if err != nil {
		return nil, err
	}
	var out []Way
	for _, seg := range segments {
		for _, w := range ws {
			i := slices.IndexFunc(w.nets, func(n network) bool { return n.segment() == seg })
			if i < 0 {
				continue
			}
			n := w.nets[i]
			way := Way{Tag: n.NICTag, Fabric: n.Fabric, Segment: n.where(), Network: n.Name}
			if n.Fabric {
				way.Tag = s.UnderlayTag
			}
			out = append(out, way)
			break
		}
	}
	return out, nil
}

// SegmentOf names the layer-2 segment that a NIC is on.
func SegmentOf(n api.NetworkNIC) string {
	return network{Network: api.Network{Fabric: n.VNI != 0, VNI: n.VNI, NICTag: n.NICTag, VLAN: n.VLAN}}.where()
}

// Inside is a NIC as an instance sees it but for the interface's name, and the
// resolvers of its networks.
func Inside(tx store.Tx, n api.NetworkNIC) (_ api.InstanceNIC, resolvers []string, err error) {
	defer named(&err, "read networks of NIC %s", n.MAC)
	p, err := portSpec(tx, n)
	if err != nil {
		return api.InstanceNIC{}, nil, err
	}
	out := api.InstanceNIC{MAC: p.MAC, MTU: p.MTU, Primary: p.Primary, Addresses: p.Addresses}
	for i, a := range n.Addresses {
		if i == 0 {
			out.Network = a.Network
		}
		net, err := load(tx, a.Network)
		if err != nil {
			return api.InstanceNIC{}, nil, err
		}
		for _, r := range net.Resolvers {
			if !slices.Contains(resolvers, r) {
				resolvers = append(resolvers, r)
			}
		}
	}
	return out, resolvers, nil
}
