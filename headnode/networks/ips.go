package networks

import (
	"net/netip"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// address reads an address of a network and what is known of it.
func address(tx store.Tx, n network, ip string) (netip.Addr, ipRecord, bool, error) {
	a, err := parseAddr(ip)
	if err != nil {
		return a, ipRecord{}, false, invalid("correct it", "%v", err)
	}
	if !n.subnet.Contains(a) {
		return a, ipRecord{}, false, refuse(404, api.CodeNotFound, "find its network with: nereid ip search "+a.String(), "%s is not in %s of network %s", a, n.Subnet, n.Name)
	}
	rec, found, err := store.Lookup[ipRecord](tx, ipKey(n.UUID, a))
	return a, rec, found, err
}

// show is an address as the API has it.
func show(tx store.Tx, n network, a netip.Addr, rec ipRecord) (api.IPAddress, error) {
	one := []api.IPAddress{shown(n, a, rec)}
	err := withHolders(tx, one)
	return one[0], err
}

// shown is an address without what its NIC says.
func shown(n network, a netip.Addr, rec ipRecord) api.IPAddress {
	out := api.IPAddress{IP: a.String(), Network: n.UUID, Reserved: rec.Reserved, Owner: rec.Owner, MAC: rec.MAC,
		Free: rec.free() && n.pooled(a)}
	if rec.Use != "" {
		out.MAC, out.BelongsTo, out.BelongsToType = rec.Holder, rec.Server, string(rec.Use)
		if rec.Server != "" {
			out.BelongsToType = api.BelongsToServer
		}
	}
	if rec.Freed != 0 {
		out.FreedAt = time.Unix(0, rec.Freed).UTC()
	}
	return out
}

// withHolders fills in whose the addresses of NICs are. The NICs are read together.
func withHolders(tx store.Tx, list []api.IPAddress) error {
	var keys []string
	var of []*api.IPAddress
	for i := range list {
		if a := &list[i]; a.MAC != "" && a.BelongsToType == "" {
			keys, of = append(keys, nicPrefix+a.MAC), append(of, a)
		}
	}
	nics, err := store.GetAll[api.NetworkNIC](tx, keys...)
	for i, nic := range nics {
		of[i].Owner, of[i].BelongsTo, of[i].BelongsToType = nic.Owner, nic.BelongsTo, nic.BelongsToType
	}
	return err
}

// GetIP says what is known of an address of a network, also of one never used.
func GetIP(tx store.Tx, id, ip string) (_ api.IPAddress, err error) {
	defer named(&err, "read address %s of network %s", ip, id)
	n, err := findNetwork(tx, id)
	if err != nil {
		return api.IPAddress{}, err
	}
	a, rec, _, err := address(tx, n, ip)
	if err != nil {
		return api.IPAddress{}, err
	}
	return show(tx, n, a, rec)
}

// findNetwork is GetNetwork with the addresses read.
func findNetwork(tx store.Tx, id string) (network, error) {
	a, err := GetNetwork(tx, id)
	if err != nil {
		return network{}, err
	}
	return normal(a)
}

// ListIPs reads a page of the addresses of a network that are in use, reserved, or
// were given back lately, in their order. after is an address.
func ListIPs(tx store.Tx, id, after string, limit int) (_ []api.IPAddress, next string, err error) {
	defer named(&err, "list addresses of network %s", id)
	n, err := findNetwork(tx, id)
	if err != nil {
		return nil, "", err
	}
	prefix, from := ipPrefix+n.UUID+"/", ""
	if after != "" {
		a, _, _, err := address(tx, n, after)
		if err != nil {
			return nil, "", err
		}
		from = ipKey(n.UUID, a)
	}
	var out []api.IPAddress
	for e, err := range store.EachBehind[ipRecord](tx, prefix, from) {
		if err != nil {
			return nil, "", err
		}
		if limit > 0 && len(out) == limit {
			next = out[limit-1].IP
			break
		}
		a, err := addrOf(e.Key[len(prefix):])
		if err != nil {
			return nil, "", err
		}
		out = append(out, shown(n, a, e.Value))
	}
	return out, next, withHolders(tx, out)
}

// SearchIPs says what is known of an address in every network it is in: the
// datacenter's, and those fabric networks that use or reserve it. At most 1000.
func SearchIPs(tx store.Tx, ip string) (_ []api.IPAddress, err error) {
	defer named(&err, "search address %s", ip)
	a, err := parseAddr(ip)
	if err != nil {
		return nil, invalid("correct it", "%v", err)
	}
	nets, err := containing(tx, a)
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(nets))
	for i, n := range nets {
		keys[i] = ipKey(n.UUID, a)
	}
	recs, err := store.LookupAll[ipRecord](tx, keys...)
	if err != nil {
		return nil, err
	}
	var out []api.IPAddress
	for i, n := range nets {
		if recs[i] == nil && n.Fabric {
			continue
		}
		rec := ipRecord{}
		if recs[i] != nil {
			rec = *recs[i]
		}
		if out = append(out, shown(n, a, rec)); len(out) == maxFound {
			break
		}
	}
	return out, withHolders(tx, out)
}

// UpdateIP reserves an address, for an account or for the first that names it, or
// ends that. One that is in use is reserved for the owner of its NIC.
func UpdateIP(tx store.Tx, now time.Time, id, ip string, u api.IPUpdate) (_ api.IPAddress, err error) {
	defer named(&err, "change address %s of network %s", ip, id)
	n, err := findNetwork(tx, id)
	if err != nil {
		return api.IPAddress{}, err
	}
	a, rec, found, err := address(tx, n, ip)
	if err != nil {
		return api.IPAddress{}, err
	}
	reserved, owner := rec.Reserved, rec.Owner
	set(&reserved, u.Reserved)
	set(&owner, u.Owner)
	if err := checkReservation(tx, n, a, rec, reserved, &owner, u.Owner != nil); err != nil {
		return api.IPAddress{}, err
	}
	switch {
	case reserved:
		if !rec.Reserved && rec.MAC == "" && (found || n.pooled(a)) {
			if err := takeOut(tx, n, a, rec); err != nil {
				return api.IPAddress{}, err
			}
		}
		rec = ipRecord{MAC: rec.MAC, Reserved: true, Owner: owner}
		err = store.Put(tx, ipKey(n.UUID, a), rec)
	case rec.Reserved && rec.MAC != "":
		rec = ipRecord{MAC: rec.MAC}
		err = store.Put(tx, ipKey(n.UUID, a), rec)
	case rec.Reserved:
		if err = giveBack(tx, n, a, now); err == nil {
			rec, _, err = store.Lookup[ipRecord](tx, ipKey(n.UUID, a))
		}
	}
	if err != nil {
		return api.IPAddress{}, err
	}
	return show(tx, n, a, rec)
}

// checkReservation refuses what cannot be reserved, and fills in the owner of an
// address in use.
func checkReservation(tx store.Tx, n network, a netip.Addr, rec ipRecord, reserved bool, owner *string, ownerNamed bool) error {
	if rec.Use != "" {
		return refuse(409, api.CodeInUse, "take another address", "%s of network %s %s", a, n.Name, rec.usedBy())
	}
	if !reserved {
		if ownerNamed && *owner != "" {
			return invalid("reserve the address too", "%s is not reserved, so it is nobody's", a)
		}
		return nil
	}
	switch uuid, ok := parseUUID(*owner); {
	case !ok && *owner != "":
		return invalid("give the account's UUID", "owner %.64q is not a UUID", *owner)
	case !isHost(n.subnet, a):
		return conflict("take an address a host can have", "%s is the network's or the broadcast address of network %s", a, n.Name)
	case a == n.gateway:
		return conflict("take another address", "%s is the gateway of network %s and given to nobody", a, n.Name)
	case len(n.Owners) > 0 && uuid != "" && !n.permits(uuid):
		return forbidden("use another network", "network %s is not for account %s", n.Name, uuid)
	default:
		*owner = uuid
	}
	if rec.MAC == "" {
		if *owner == "" {
			return nil
		}
		return notAllowed(tx, n, a, api.NetworkNIC{Owner: *owner})
	}
	nic, err := store.Get[api.NetworkNIC](tx, nicPrefix+rec.MAC)
	if err != nil {
		return err
	}
	if ownerNamed && *owner != "" && *owner != nic.Owner {
		return refuse(409, api.CodeInUse, "delete the NIC first, or leave the owner out", "%s is the address of NIC %s of account %s", a, nic.MAC, nic.Owner)
	}
	*owner = nic.Owner
	return nil
}
