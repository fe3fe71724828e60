package networks

import (
	"net/netip"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// maxOwnAllowed bounds how many addresses of a prefix are looked at that are not
// another's, as those of the account itself.
const maxOwnAllowed = 1000

// notAnothers refuses addresses from which a NIC may send beside its own, where
// another account, a server or the data center has them on the NIC's networks. An
// account's own NICs may stand in for each other.
func notAnothers(tx store.Tx, n api.NetworkNIC) error {
	var faults []error
	for _, a := range n.Addresses {
		net, err := load(tx, a.Network)
		if err != nil {
			return err
		}
		for _, text := range n.AllowedIPs {
			p, err := prefixOf(text)
			if err != nil {
				return err
			}
			fault, err := anothers(tx, net, p, n)
			if err != nil {
				return err
			}
			faults = append(faults, fault)
		}
	}
	return api.Faults(faults...)
}

// prefixOf reads an address as the prefix that has only it.
func prefixOf(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return parseCIDR(text)
	}
	a, err := parseAddr(text)
	return netip.PrefixFrom(a, a.BitLen()), err
}

// anothers says which address of a network among those of a prefix is another's, the
// first there is.
func anothers(tx store.Tx, net network, p netip.Prefix, n api.NetworkNIC) (fault, err error) {
	if !p.Overlaps(net.subnet) {
		return nil, nil
	}
	if p.Bits() < net.subnet.Bits() {
		p = net.subnet
	}
	const next = "leave it out, or allow only addresses that nobody has"
	if p.Contains(net.gateway) && net.gateway.IsValid() && n.BelongsToType != api.BelongsToOther {
		return refuse(409, api.CodeInUse, next, "allowed_ips of the NIC: %s is the gateway of network %s", net.gateway, net.Name), nil
	}
	prefix, after, seen := ipPrefix+net.UUID+"/", "", 0
	if before := p.Addr().Prev(); before.IsValid() && before.Is4() == p.Addr().Is4() {
		after = ipKey(net.UUID, before)
	}
	for it, err := range tx.Scan(prefix, after) {
		if err != nil {
			return nil, err
		}
		a, err := addrOf(it.Key[len(prefix):])
		if err != nil {
			return nil, err
		}
		if seen++; !p.Contains(a) || seen > maxOwnAllowed {
			break
		}
		rec, err := store.Get[ipRecord](tx, it.Key)
		if err != nil {
			return nil, err
		}
		switch {
		case rec.MAC == n.MAC && rec.MAC != "":
		case rec.MAC != "":
			other, err := getNIC(tx, rec.MAC)
			if err != nil {
				return nil, err
			}
			if other.Owner == "" || other.Owner != n.Owner {
				return refuse(409, api.CodeInUse, next, "allowed_ips of the NIC: %s of network %s is the address of NIC %s", a, net.Name, rec.MAC), nil
			}
		case rec.Use != "":
			return refuse(409, api.CodeInUse, next, "allowed_ips of the NIC: %s of network %s %s", a, net.Name, rec.usedBy()), nil
		case rec.Reserved && rec.Owner != "" && rec.Owner != n.Owner:
			return forbidden(next, "allowed_ips of the NIC: %s of network %s is reserved for another account", a, net.Name), nil
		}
	}
	return nil, nil
}
