package networks

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// UpdateNetwork changes a network and gives it as it was and as it is. Addresses
// in use stay where they are when the provision range no longer covers them. A
// gateway cannot be the address of a NIC, unless that belongs to something other
// than servers and instances. A former gateway, resolver or next hop rests like
// an address that was given back. Removing an owner keeps its NICs.
func UpdateNetwork(tx store.Tx, now time.Time, id string, u api.NetworkUpdate) (before, after api.Network, err error) {
	defer named(&err, "change network %s", id)
	if before, err = GetNetwork(tx, id); err != nil {
		return before, after, err
	}
	old, err := normal(before)
	if err != nil {
		return before, after, err
	}
	limit, why, err := mtuLimit(tx, before)
	if err != nil {
		return before, after, err
	}
	changed := apply(before, u)
	if changed.MTU == 0 {
		changed.MTU = limit
	}
	n, err := normal(changed)
	if n.MTU != old.MTU && n.MTU <= MaxMTU {
		err = api.Faults(err, mtuFits(n, limit, why))
	}
	if err != nil {
		return before, after, err
	}
	if n.Fabric && n.owner() != old.owner() {
		return before, after, conflict("make a network in the other account's fabric", "fabric network %s is in the fabric of %s and stays there", n.Name, old.owner())
	}
	if err := api.Faults(rename(tx, old, n), heldFit(tx, old, n)); err != nil {
		return before, after, err
	}
	if err := moveFree(tx, old, n, now); err != nil {
		return before, after, err
	}
	n.Revision = newRevision()
	if err := store.Put(tx, netPrefix+n.UUID, n.Network); err != nil {
		return before, after, err
	}
	if err := publishFabric(tx, n); err != nil {
		return before, after, err
	}
	if err := renewPorts(tx, n.UUID); err != nil {
		return before, after, err
	}
	if n.MTU < old.MTU {
		err = overlayFits(tx, fmt.Sprintf("network %s cannot have MTU %d", n.Name, n.MTU))
	}
	return before, n.Network, err
}

// apply gives the network with the fields of an update set.
func apply(n api.Network, u api.NetworkUpdate) api.Network {
	set(&n.Name, u.Name)
	set(&n.ProvisionStart, u.ProvisionStart)
	set(&n.ProvisionEnd, u.ProvisionEnd)
	set(&n.Gateway, u.Gateway)
	set(&n.Resolvers, u.Resolvers)
	set(&n.Routes, u.Routes)
	set(&n.Owners, u.Owners)
	set(&n.MTU, u.MTU)
	set(&n.Description, u.Description)
	set(&n.InternetNAT, u.InternetNAT)
	return n
}

// set changes a field where an update has it.
func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

func rename(tx store.Tx, old, n network) error {
	if old.Name == n.Name {
		return nil
	}
	if is, err := isAdmin(tx, n.UUID); err != nil || is {
		if err == nil {
			err = conflict("leave the name out", "network %s keeps its name: servers boot from it", old.Name)
		}
		return err
	}
	if err := takeNetworkName(tx, n); err != nil {
		return err
	}
	return dropNetworkName(tx, old)
}

// heldFit refuses a new gateway, resolver or next hop that a machine leases: it would
// lose its address. A new gateway is no NIC's address, and no account's.
func heldFit(tx store.Tx, old, n network) error {
	for _, h := range n.held {
		if slices.Contains(old.held, h) {
			continue
		}
		rec, _, err := store.Lookup[ipRecord](tx, ipKey(n.UUID, h))
		if err != nil {
			return err
		}
		what := "a resolver or next hop"
		if h == n.gateway {
			what = "the gateway"
		}
		if rec.Use == UseLease || h == n.gateway && rec.Owner != "" && rec.MAC == "" {
			return refuse(409, api.CodeInUse, "take another address", "%s cannot be %s of network %s: it %s", h, what, n.Name, rec.usedBy())
		}
	}
	return gatewayFits(tx, old, n)
}

// gatewayFits refuses a new gateway that is the address of a NIC, or from which one may
// send.
func gatewayFits(tx store.Tx, old, n network) error {
	if n.gateway == old.gateway || !n.gateway.IsValid() {
		return nil
	}
	if err := gatewayNotAllowed(tx, n); err != nil {
		return err
	}
	rec, _, err := store.Lookup[ipRecord](tx, ipKey(n.UUID, n.gateway))
	if err != nil || rec.MAC == "" {
		return err
	}
	nic, err := store.Get[api.NetworkNIC](tx, nicPrefix+rec.MAC)
	if err != nil || nic.BelongsToType == api.BelongsToOther {
		return err
	}
	return refuse(409, api.CodeInUse, "take another address for the gateway, or delete the NIC first",
		"%s cannot be the gateway of network %s: it is the address of NIC %s of %s %s", n.gateway, n.Name, rec.MAC, nic.BelongsToType, nic.BelongsTo)
}

// moveFree makes the free spans and the queue those of the changed network: first
// what is not given out any more leaves them, then what is now joins them.
func moveFree(tx store.Tx, old, n network, now time.Time) error {
	for _, h := range n.held {
		if old.pooled(h) {
			if err := drop(tx, n, h); err != nil {
				return err
			}
		}
	}
	gone := difference(span{old.first, old.last}, span{n.first, n.last})
	for _, s := range gone {
		if err := cutFree(tx, n.UUID, s.first, s.last); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		err := freed(tx, n.UUID, func(f freedAddr) (bool, error) {
			if n.pooled(f.addr) {
				return true, nil
			}
			return true, drop(tx, n, f.addr)
		})
		if err != nil {
			return err
		}
	}
	for _, h := range old.held { // neighbours still know them
		if !n.pooled(h) {
			continue
		}
		used, err := store.Has(tx, ipKey(n.UUID, h))
		if err == nil && !used {
			err = giveBack(tx, n, h, now)
		}
		if err != nil {
			return err
		}
	}
	for _, s := range difference(span{n.first, n.last}, span{old.first, old.last}) {
		if err := addFree(tx, n, s.first, s.last); err != nil {
			return err
		}
	}
	return nil
}

// drop takes a free address out of the spans or the queue; one in use or reserved
// stays as it is.
func drop(tx store.Tx, n network, a netip.Addr) error {
	rec, found, err := store.Lookup[ipRecord](tx, ipKey(n.UUID, a))
	if err != nil || found && rec.Freed == 0 {
		return err
	}
	if err := takeOut(tx, n, a, rec); err != nil {
		return err
	}
	return tx.Delete(ipKey(n.UUID, a))
}

// difference is what of s is not in t.
func difference(s, t span) []span {
	if t.last.Less(s.first) || s.last.Less(t.first) {
		return []span{s}
	}
	var out []span
	if s.first.Less(t.first) {
		out = append(out, span{s.first, t.first.Prev()})
	}
	if t.last.Less(s.last) {
		out = append(out, span{t.last.Next(), s.last})
	}
	return out
}
