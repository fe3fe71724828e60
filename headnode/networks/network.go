package networks

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// network is a network with its addresses read.
type network struct {
	api.Network
	subnet      netip.Prefix
	first, last netip.Addr   // provision range
	gateway     netip.Addr   // not valid: none
	held        []netip.Addr // gateway, resolvers and next hops in the subnet: given only to who names them
}

// owner of a fabric network.
func (n network) owner() string {
	if len(n.Owners) == 0 {
		return ""
	}
	return n.Owners[0]
}

// pooled says whether the address may be chosen for a NIC that names none.
func (n network) pooled(a netip.Addr) bool {
	return between(n.first, a, n.last) && !slices.Contains(n.held, a)
}

// segment is the layer-2 segment, as part of a key.
func (n network) segment() string {
	if n.Fabric {
		return fmt.Sprintf("vni/%06x/", n.VNI)
	}
	return fmt.Sprintf("tag/%s/%04d/", n.NICTag, n.VLAN)
}

// where is the segment for people.
func (n network) where() string {
	if n.Fabric {
		return fmt.Sprintf("VNI %d", n.VNI)
	}
	return fmt.Sprintf("NIC tag %s VLAN %d", n.NICTag, n.VLAN)
}

// permits says whether an account may use the network.
func (n network) permits(owner string) bool {
	return len(n.Owners) == 0 || slices.Contains(n.Owners, owner)
}

// load reads a network by UUID.
func load(tx store.Tx, uuid string) (network, error) {
	n, found, err := store.Lookup[api.Network](tx, netPrefix+uuid)
	if err != nil {
		return network{}, err
	}
	if !found {
		return network{}, missing("network", fmt.Sprintf("%.64q", uuid), "nereid network list")
	}
	return normal(n)
}

// loadAll is load for several networks, which are read together.
func loadAll(tx store.Tx, uuids []string) ([]network, error) {
	keys := make([]string, len(uuids))
	for i, uuid := range uuids {
		keys[i] = netPrefix + uuid
	}
	found, err := store.GetAll[api.Network](tx, keys...)
	if err != nil {
		return nil, err
	}
	out := make([]network, len(uuids))
	for i, n := range found {
		if out[i], err = normal(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// GetNetwork reads a network by UUID or, unless it is a fabric's, by name.
func GetNetwork(tx store.Tx, id string) (api.Network, error) { return FindNetwork(tx, "", id) }

// FindNetwork is GetNetwork that also knows the fabric networks of an account by
// name.
func FindNetwork(tx store.Tx, owner, id string) (_ api.Network, err error) {
	defer named(&err, "read network %s", id)
	t, err := resolve(tx, strings.ToLower(owner), id)
	if err != nil {
		return api.Network{}, err
	}
	if t.pool != nil {
		return api.Network{}, missing("network", fmt.Sprintf("%.64q (it is a pool)", id), "nereid network list")
	}
	return t.nets[0].Network, nil
}

// NetworkFilter says which networks ListNetworks gives; zero fields do not limit.
type NetworkFilter struct {
	Owner  string // of a fabric network; of others, an account that may use it
	NICTag string
	VNI    uint32
	Fabric *bool
	Family string
}

// ListNetworks reads a page of networks by UUID; see store.Scan.
func ListNetworks(tx store.Tx, f NetworkFilter, after string, limit int) (_ []api.Network, next string, err error) {
	defer named(&err, "list networks")
	f.Owner = strings.ToLower(f.Owner)
	return page(tx, netPrefix, after, limit, func(n api.Network) bool {
		return (f.Owner == "" || network{Network: n}.permits(f.Owner)) && (f.NICTag == "" || n.NICTag == f.NICTag) &&
			(f.VNI == 0 || n.VNI == f.VNI) && (f.Fabric == nil || n.Fabric == *f.Fabric) && (f.Family == "" || n.Family == f.Family)
	})
}

// CreateNetwork makes a network. An empty UUID is made; of a fabric network the
// caller fills in VNI and VLAN of the fabric's, and Owners with its one owner.
func CreateNetwork(tx store.Tx, in api.Network) (_ api.Network, err error) {
	defer named(&err, "create network %s", in.Name)
	limit, why, below := mtuLimit(tx, in)
	if below != nil {
		limit, in.MTU = MaxMTU, cmp.Or(in.MTU, DefaultMTU)
	}
	if in.MTU == 0 {
		in.MTU = limit
	}
	n, err := normal(in)
	if err == nil {
		err = api.Faults(mtuFits(n, limit, why), subnetUsable(n))
	}
	if err := api.Faults(below, err); err != nil {
		return in, err
	}
	if err := apartFromAdmin(tx, n); err != nil {
		return in, err
	}
	if n.UUID == "" {
		n.UUID = newUUID()
	} else if has, err := store.Has(tx, netPrefix+n.UUID); err != nil || has {
		if err == nil {
			err = conflict("leave the UUID out, and one is made", "network %s exists", n.UUID)
		}
		return in, err
	}
	if err := api.Faults(takeNetworkName(tx, n), placeFits(tx, n), apartFromNAT(tx, n)); err != nil {
		return in, err
	}
	if err := placeNetwork(tx, n); err != nil {
		return in, err
	}
	if err := addFree(tx, n, n.first, n.last); err != nil {
		return in, err
	}
	if err := publishFabric(tx, n); err != nil {
		return in, err
	}
	n.Revision = newRevision()
	return n.Network, store.Put(tx, netPrefix+n.UUID, n.Network)
}

// mtuLimit is the greatest MTU of a network where it is, and what sets it.
func mtuLimit(tx store.Tx, n api.Network) (int, string, error) {
	if n.Fabric {
		limit, err := OverlayLimit(tx)
		if err == nil && limit == 0 {
			err = conflict("choose the NIC tag that carries VXLAN first: nereid fabric settings", "there is no underlay yet, so there can be no fabric network")
		}
		return limit, "the overlay", err
	}
	if !tagRE.MatchString(n.NICTag) {
		return MaxMTU, "no NIC tag", nil // normal says so
	}
	t, err := GetNICTag(tx, n.NICTag)
	return t.MTU, "NIC tag " + n.NICTag, err
}

// mtuFits compares a network's MTU with what is below it.
func mtuFits(n network, limit int, why string) error {
	if n.MTU > limit {
		return invalid("choose at most that, or raise the MTU of what is below", "MTU %d of network %s: %s has %d", n.MTU, n.Name, why, limit)
	}
	return nil
}

// takeNetworkName makes the name the network's.
func takeNetworkName(tx store.Tx, n network) error {
	if !n.Fabric {
		return takeName(tx, n.Name, n.UUID)
	}
	key := fabricNamePrefix + n.owner() + "/" + n.Name
	uuid, found, err := store.Lookup[string](tx, key)
	switch {
	case err != nil:
		return err
	case found && uuid != n.UUID:
		return conflict("take another name", "the name %s is that of fabric network %s of the same owner", n.Name, uuid)
	}
	return store.Put(tx, key, n.UUID)
}

// takeName makes a name a network's or pool's: they share names, so that a NIC can
// be put on either by name.
func takeName(tx store.Tx, name, uuid string) error {
	other, found, err := store.Lookup[string](tx, namePrefix+name)
	switch {
	case err != nil:
		return err
	case found && other != uuid:
		return conflict("take another name", "the name %s is that of the network or pool %s", name, other)
	}
	return store.Put(tx, namePrefix+name, uuid)
}

// dropNetworkName frees the name.
func dropNetworkName(tx store.Tx, n network) error {
	if n.Fabric {
		return tx.Delete(fabricNamePrefix + n.owner() + "/" + n.Name)
	}
	return tx.Delete(namePrefix + n.Name)
}

// DeleteNetwork removes a network that has no NICs, is in no pool, and has no
// address reserved for an account, and gives it as it was.
func DeleteNetwork(tx store.Tx, id string) (_ api.Network, err error) {
	defer named(&err, "delete network %s", id)
	a, err := GetNetwork(tx, id)
	if err != nil {
		return a, err
	}
	if is, err := isAdmin(tx, a.UUID); err != nil || is {
		if err == nil {
			err = conflict("", "network %s stays: servers boot from it", a.Name)
		}
		return a, err
	}
	n, err := normal(a)
	if err != nil {
		return a, err
	}
	u, err := networkUses(tx, n)
	if err != nil {
		return a, err
	}
	if err := u.refuse("delete or move those first", "network %s is in use", n.Name); err != nil {
		return a, err
	}
	for _, prefix := range []string{ipPrefix, freePrefix, freedPrefix} {
		for it, err := range tx.Scan(prefix+n.UUID+"/", "") {
			if err == nil {
				err = tx.Delete(it.Key)
			}
			if err != nil {
				return a, err
			}
		}
	}
	if err := dropNetworkName(tx, n); err != nil {
		return a, err
	}
	if err := unplaceNetwork(tx, n); err != nil {
		return a, err
	}
	if err := unpublishFabric(tx, n); err != nil {
		return a, err
	}
	return a, tx.Delete(netPrefix + n.UUID)
}

// networkUses lists what keeps a network from being deleted.
func networkUses(tx store.Tx, n network) (*uses, error) {
	u := &uses{}
	s, err := GetSettings(tx)
	if err != nil {
		return nil, err
	}
	if s.NATNetwork == n.UUID {
		u.add("internet_nat of the fabrics takes its addresses")
	}
	for uuid, err := range below(tx, poolOfPrefix+n.UUID+"/") {
		if err != nil {
			return nil, err
		}
		p, err := GetPool(tx, uuid)
		if err != nil {
			return nil, err
		}
		u.add("pool %s (%s)", p.Name, uuid)
	}
	for e, err := range store.Each[ipRecord](tx, ipPrefix+n.UUID+"/") {
		if err != nil {
			return nil, err
		}
		a, err := addrOf(e.Key[len(ipPrefix)+len(n.UUID)+1:])
		if err != nil {
			return nil, err
		}
		rec := e.Value
		more := true
		switch {
		case rec.MAC != "":
			more = u.add("NIC %s with %s", rec.MAC, a)
		case rec.Reserved && rec.Owner != "":
			more = u.add("%s is reserved for %s", a, rec.Owner)
		}
		if !more {
			break
		}
	}
	return u, nil
}
