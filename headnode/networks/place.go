package networks

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// subnetKey finds networks by an address in them: there are at most 33 (IPv4) or
// 129 (IPv6) prefixes that an address can be in.
func subnetKey(p netip.Prefix) string {
	return fmt.Sprintf("%s%s/%03d/", subnetPrefix, hexOf(p.Masked().Addr()), p.Bits())
}

// placeKeys are the keys by which a network is found where it is.
func placeKeys(n network) []string {
	keys := []string{segmentPrefix + n.segment() + n.UUID, subnetKey(n.subnet) + n.UUID}
	if n.Fabric {
		keys = append(keys, fabricPrefix+n.owner()+"/"+n.UUID)
	}
	for _, where := range wheres(n) {
		keys = append(keys, placeKey(where, n.subnet)+n.UUID)
	}
	return keys
}

// wheres are the places in which a network overlaps no other: its segment and, of a
// fabric network, the fabric of its owner.
func wheres(n network) []string {
	if n.Fabric {
		return []string{n.segment(), "fabric/" + n.owner() + "/"}
	}
	return []string{n.segment()}
}

// placeKey finds networks of a place by their subnets, in the order of their first
// addresses.
func placeKey(where string, p netip.Prefix) string {
	return fmt.Sprintf("%s%s%s/%03d/", placePrefix+where, family(p.Addr())+"/", hexOf(p.Masked().Addr()), p.Bits())
}

func placeNetwork(tx store.Tx, n network) error {
	for _, k := range placeKeys(n) {
		if err := tx.Put(k, []byte(n.Subnet)); err != nil {
			return err
		}
	}
	return nil
}

func unplaceNetwork(tx store.Tx, n network) error {
	for _, k := range placeKeys(n) {
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// placeFits refuses a network that overlaps another on its segment or, in a
// fabric, another of its owner, or whose VNI is that of another fabric VLAN.
func placeFits(tx store.Tx, n network) error {
	for _, where := range wheres(n) {
		uuid, err := overlapping(tx, where, n.subnet)
		if err != nil {
			return err
		}
		if uuid != "" {
			o, err := load(tx, uuid)
			if err != nil {
				return err
			}
			return conflict("take another subnet", "subnet %s overlaps %s of network %s (%s) on %s", n.Subnet, o.Subnet, o.Name, o.UUID, o.where())
		}
	}
	if !n.Fabric {
		return nil
	}
	for uuid, err := range below(tx, segmentPrefix+n.segment()) {
		if err != nil {
			return err
		}
		o, err := load(tx, uuid)
		if err != nil {
			return err
		}
		if o.owner() != n.owner() || o.VLAN != n.VLAN {
			return conflict("take the VNI of its fabric VLAN", "VNI %d is that of VLAN %d of %s", n.VNI, o.VLAN, o.owner())
		}
		break // all networks of a VNI are of one fabric VLAN
	}
	return nil
}

// overlapping gives a network of a place that overlaps a subnet; empty: none does. It
// looks for what contains the subnet, of which there are 32 (IPv4) or 128 (IPv6)
// prefixes at most, and for the first of what it contains.
func overlapping(tx store.Tx, where string, p netip.Prefix) (uuid string, err error) {
	if has, err := store.HasBelow(tx, placePrefix+where+family(p.Addr())+"/"); err != nil || !has {
		return "", err
	}
	for bits := p.Bits() - 1; bits >= 0; bits-- {
		for uuid, err := range below(tx, placeKey(where, netip.PrefixFrom(p.Addr(), bits))) {
			return uuid, err
		}
	}
	within := placePrefix + where + family(p.Addr()) + "/"
	for it, err := range tx.Scan(within, within+hexOf(p.Masked().Addr())) {
		if err != nil {
			return "", err
		}
		first, rest, _ := strings.Cut(it.Key[len(within):], "/")
		a, err := addrOf(first)
		if err != nil || !p.Contains(a) {
			return "", err
		}
		return rest[strings.IndexByte(rest, '/')+1:], nil
	}
	return "", nil
}

// containing gives the networks whose subnet an address is in, the smallest
// subnets first.
func containing(tx store.Tx, a netip.Addr) ([]network, error) {
	var out []network
	for bits := a.BitLen(); bits >= 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			return nil, err
		}
		for n, err := range networksAt(tx, subnetKey(p)) {
			if err != nil {
				return nil, err
			}
			out = append(out, n)
		}
	}
	return out, nil
}

// eachFabric calls fn for all fabric networks until it says false.
func eachFabric(tx store.Tx, fn func(network) bool) error {
	for n, err := range networksAt(tx, fabricPrefix) {
		if err != nil {
			return err
		}
		if !fn(n) {
			return nil
		}
	}
	return nil
}

// networksAt ranges over the networks whose UUIDs end the keys with a prefix.
func networksAt(tx store.Tx, prefix string) iter.Seq2[network, error] {
	return func(yield func(network, error) bool) {
		key := func(it store.Item) string { return netPrefix + it.Key[strings.LastIndexByte(it.Key, '/')+1:] }
		for e, err := range store.Through[api.Network](tx, prefix, "", key) {
			var n network
			if err == nil {
				n, err = normal(e.Value)
			}
			if !yield(n, err) || err != nil {
				return
			}
		}
	}
}

// networksBelow loads the networks whose UUIDs are keys below prefix.
func networksBelow(tx store.Tx, prefix string) ([]api.Network, error) {
	var out []api.Network
	for n, err := range networksAt(tx, prefix) {
		if err != nil {
			return nil, err
		}
		out = append(out, n.Network)
	}
	return out, nil
}

// NetworksOfVNI gives the networks of a fabric VLAN, by UUID.
func NetworksOfVNI(tx store.Tx, vni uint32) (_ []api.Network, err error) {
	defer named(&err, "list networks of VNI %d", vni)
	return networksBelow(tx, segmentPrefix+network{Network: api.Network{Fabric: true, VNI: vni}}.segment())
}

// HasGateway says whether a network of a fabric VLAN has a gateway.
func HasGateway(tx store.Tx, vni uint32) (bool, error) {
	nets, err := NetworksOfVNI(tx, vni)
	return slices.ContainsFunc(nets, func(n api.Network) bool { return n.Gateway != "" }), err
}

// FabricNetworks gives the fabric networks of an account, by UUID.
func FabricNetworks(tx store.Tx, owner string) (_ []api.Network, err error) {
	defer named(&err, "list fabric networks of %s", owner)
	return networksBelow(tx, fabricPrefix+strings.ToLower(owner)+"/")
}

// UnderlayNetworks gives the networks that servers have underlay addresses on.
func UnderlayNetworks(tx store.Tx) (_ []api.Network, err error) {
	defer named(&err, "list underlay networks")
	var uuids []string
	for network, err := range heads(tx, underlayOfPrefix, 1) {
		if err != nil {
			return nil, err
		}
		uuids = append(uuids, network[0])
	}
	slices.Sort(uuids)
	nets, err := loadAll(tx, uuids)
	if err != nil {
		return nil, err
	}
	out := make([]api.Network, 0, len(uuids))
	for _, n := range nets {
		out = append(out, n.Network)
	}
	return out, nil
}
