package networks

import (
	"net/netip"
	"time"

	"nereid/headnode/store"
)

// UseUnexpected is that of an address which an instance has that its server reports, and
// that is not known: it is nobody else's until the instance is adopted, or gone.
const UseUnexpected Use = "unexpected instance"

// Hold keeps an address of a network back for the NIC of such an instance. held is false
// for one that somebody has, that is reserved, or that is none of the network's hosts: what
// a server says takes nothing from anybody. A fabric's address is held for its account only.
func Hold(tx store.Tx, id, owner, ip, mac, server string) (held bool, err error) {
	defer named(&err, "hold address %s of network %s", ip, id)
	n, a, ok, err := ofNetwork(tx, id, ip)
	if err != nil || !ok || n.Fabric && n.owner() != owner {
		return false, err
	}
	rec, found, err := store.Lookup[ipRecord](tx, ipKey(n.UUID, a))
	switch {
	case err != nil:
		return false, err
	case rec.Use == UseUnexpected && rec.Holder == mac && rec.Server == server:
		return true, nil
	case !rec.free():
		return false, nil
	}
	if found || n.pooled(a) {
		if err := takeOut(tx, n, a, rec); err != nil {
			return false, err
		}
	}
	return true, store.Put(tx, ipKey(n.UUID, a), ipRecord{Use: UseUnexpected, Holder: mac, Server: server})
}

// Release gives an address back that was held for a NIC.
func Release(tx store.Tx, now time.Time, id, ip, mac string) (err error) {
	defer named(&err, "release address %s of network %s", ip, id)
	n, a, ok, err := ofNetwork(tx, id, ip)
	if err != nil || !ok {
		return err
	}
	rec, _, err := store.Lookup[ipRecord](tx, ipKey(n.UUID, a))
	if err != nil || rec.Use != UseUnexpected || rec.Holder != mac {
		return err
	}
	return giveBack(tx, n, a, now)
}

// ofNetwork reads a network, and an address of one of its hosts; ok is false when there is
// none such. The admin network's are DHCP's.
func ofNetwork(tx store.Tx, id, ip string) (n network, a netip.Addr, ok bool, err error) {
	a, perr := netip.ParseAddr(ip)
	admin, err := isAdmin(tx, id)
	if perr != nil || err != nil || admin {
		return n, a, false, err
	}
	has, err := store.Has(tx, netPrefix+id)
	if err != nil || !has {
		return n, a, false, err
	}
	if n, err = load(tx, id); err != nil {
		return n, a, false, err
	}
	return n, a, n.subnet.Contains(a) && isHost(n.subnet, a) && a != n.gateway, nil
}
