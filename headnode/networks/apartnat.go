package networks

import (
	"slices"

	"nereid/headnode/store"
)

// Between a fabric and the outside stands the account's router, with an address on the
// NAT network. A fabric subnet over that network's would make its gateway, and whom the
// fabric wants to reach there, a neighbour on the fabric.

// apartFromNAT refuses a fabric network whose subnet is over the NAT network's.
func apartFromNAT(tx store.Tx, n network) error {
	if !n.Fabric {
		return nil
	}
	s, err := GetSettings(tx)
	if err != nil || s.NATNetwork == "" {
		return err
	}
	nets, err := natNetworks(tx, s.NATNetwork)
	if err != nil {
		return err
	}
	for _, o := range nets {
		if o.subnet.Overlaps(n.subnet) {
			return conflict("take another subnet", "subnet %s overlaps %s of network %s, from which internet_nat takes its addresses", n.Subnet, o.Subnet, o.Name)
		}
	}
	return nil
}

// natNetworks are the networks of the settings' network or pool.
func natNetworks(tx store.Tx, id string) ([]network, error) {
	t, err := resolve(tx, "", id)
	return t.nets, err
}

// fabricsApart refuses NAT networks over which there is a fabric subnet already. were
// are those that may be so.
func fabricsApart(tx store.Tx, nets []network, were []string) error {
	nets = slices.DeleteFunc(slices.Clone(nets), func(n network) bool { return slices.Contains(were, n.UUID) })
	if len(nets) == 0 {
		return nil
	}
	var fault error
	err := eachFabric(tx, func(f network) bool {
		for _, n := range nets {
			if n.subnet.Overlaps(f.subnet) {
				fault = conflict("take another network", "%s of network %s overlaps %s of fabric network %s of account %s",
					n.Subnet, n.Name, f.Subnet, f.Name, f.owner())
			}
		}
		return fault == nil
	})
	if err != nil {
		return err
	}
	return fault
}
