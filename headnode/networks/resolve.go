package networks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// target is a network, or a pool and its networks.
type target struct {
	pool *api.NetworkPool
	nets []network
}

// resolve finds a network or pool by UUID or name. The names of an account's
// fabric networks are known when owner is that account.
func resolve(tx store.Tx, owner, id string) (t target, err error) {
	uuid, isUUID := parseUUID(id)
	if !isUUID {
		if uuid, err = byName(tx, owner, id); err != nil {
			return t, err
		}
	}
	a, found, err := store.Lookup[api.Network](tx, netPrefix+uuid)
	if err != nil {
		return t, err
	}
	if found {
		n, err := normal(a)
		return target{nets: []network{n}}, err
	}
	p, found, err := store.Lookup[api.NetworkPool](tx, poolPrefix+uuid)
	if err != nil {
		return t, err
	}
	if !found {
		return t, missing("network or pool", fmt.Sprintf("%.64q", id), "nereid network list, nereid pool list")
	}
	t.pool = &p
	t.nets, err = members(tx, &p)
	return t, err
}

// byName gives the UUID that a name stands for; empty: none.
func byName(tx store.Tx, owner, name string) (string, error) {
	if name == "" || len(name) > 64 {
		return "", nil
	}
	uuid, found, err := store.Lookup[string](tx, namePrefix+name)
	if err != nil || owner == "" {
		return uuid, err
	}
	own, both, err := store.Lookup[string](tx, fabricNamePrefix+owner+"/"+name)
	switch {
	case err != nil:
		return "", err
	case found && both:
		return "", conflict("name it by UUID", "the name %s is that of %s and of fabric network %s", name, uuid, own)
	case both:
		return own, nil
	}
	return uuid, nil
}

// wish is an address that a NIC is to have: named, or any of the networks, the
// first that will do.
type wish struct {
	id   string // as the request names it
	nets []network
	ip   netip.Addr // not valid: choose one
}

// wishes reads the addresses that a NIC is to have and leaves those networks that
// the account may use and the server provides. provided are the NIC tags of the
// server; nil: any.
func wishes(tx store.Tx, nic api.NetworkNIC, provided []string) ([]wish, error) {
	if len(nic.Addresses) == 0 || len(nic.Addresses) > maxAddresses {
		return nil, invalid("name the networks it is on", "the NIC has %d addresses; want 1 to %d", len(nic.Addresses), maxAddresses)
	}
	s, err := GetSettings(tx)
	if err != nil {
		return nil, err
	}
	var out []wish
	var faults []error
	for _, a := range nic.Addresses {
		w := wish{id: a.Network}
		if a.IP != "" {
			if w.ip, err = parseAddr(a.IP); err != nil {
				faults = append(faults, invalid("correct it, or leave it out and one is chosen", "address of the NIC: %v", err))
			} else if slices.ContainsFunc(out, func(o wish) bool { return o.ip == w.ip }) {
				faults = append(faults, invalid("name each once", "%s is there twice", w.ip))
			}
		}
		t, err := resolve(tx, nic.Owner, a.Network)
		if faults = append(faults, err); api.Faults(faults...) != nil {
			continue
		}
		if t.pool != nil && !permits(t.pool.Owners, nic) {
			return nil, forbidden("use another network", "pool %s is not for account %q", t.pool.Name, nic.Owner)
		}
		var why []string
		for _, n := range t.nets {
			if err := usable(n, nic, w.ip, provided, s.UnderlayTag); err != nil {
				if t.pool == nil {
					return nil, err
				}
				why = append(why, err.Error())
				continue
			}
			w.nets = append(w.nets, n)
		}
		if len(w.nets) == 0 {
			return nil, &api.Problem{Title: "Conflict", Status: 409, Code: api.CodeConflict, Errors: why,
				Detail: fmt.Sprintf("no network of pool %s will do", t.pool.Name), Next: "add a network to the pool, or use another"}
		}
		out = append(out, w)
	}
	return out, api.Faults(faults...)
}

// permits says whether a list of owners lets the NIC's owner in. What belongs to
// servers is the datacenter's own.
func permits(owners []string, nic api.NetworkNIC) bool {
	return len(owners) == 0 || nic.BelongsToType == api.BelongsToServer || slices.Contains(owners, nic.Owner)
}

// usable says why a network will not do for a NIC.
func usable(n network, nic api.NetworkNIC, ip netip.Addr, provided []string, underlayTag string) error {
	tag := n.NICTag
	if n.Fabric {
		tag = underlayTag
	}
	switch {
	case !permits(n.Owners, nic), n.Fabric && !n.permits(nic.Owner):
		return forbidden("use another network", "network %s is not for account %q", n.Name, nic.Owner)
	case provided != nil && !slices.Contains(provided, tag):
		return conflict("choose a server that does, or let one of its NICs provide the tag", "network %s needs NIC tag %s, which the server does not provide", n.Name, tag)
	case ip.IsValid() && !n.subnet.Contains(ip):
		return conflict("take an address of the subnet", "%s is not in %s of network %s", ip, n.Subnet, n.Name)
	}
	return nil
}

// choose picks one network for each wish of a NIC, all on one segment: the first segment on
// which there is room for all.
func choose(tx store.Tx, nic api.NetworkNIC, ws []wish) ([]network, error) {
	segments, err := candidates(ws)
	if err != nil {
		return nil, err
	}
	var named []netip.Addr
	for _, w := range ws {
		if w.ip.IsValid() {
			named = append(named, w.ip)
		}
	}
	var why []string
	for _, seg := range segments {
		nets, reason, err := chooseOn(tx, nic, ws, seg, named)
		if err != nil {
			return nil, err
		}
		if reason == nil {
			return nets, nil
		}
		if len(segments) == 1 {
			return nil, reason
		}
		why = append(why, reason.Error())
	}
	return nil, &api.Problem{Title: "Conflict", Status: 409, Code: api.CodeConflict, Errors: why,
		Detail: "there is no layer-2 segment with a free address for the whole NIC", Next: "widen provision ranges, or add networks to the pool"}
}

// candidates are the segments to try, in order: the one that a network named by
// itself is on, else those of the first pool.
func candidates(ws []wish) ([]string, error) {
	lead := ws[0]
	for _, w := range ws {
		if len(w.nets) > 1 {
			continue
		}
		if len(lead.nets) == 1 && lead.nets[0].segment() != w.nets[0].segment() {
			a, b := lead.nets[0], w.nets[0]
			return nil, conflict("make a NIC for each segment", "the addresses of a NIC are on one layer-2 segment; network %s is on %s, network %s on %s", a.Name, a.where(), b.Name, b.where())
		}
		lead = w
	}
	var out []string
	for _, n := range lead.nets {
		if !slices.Contains(out, n.segment()) {
			out = append(out, n.segment())
		}
	}
	return out, nil
}

// chooseOn tries one segment. reason says why it will not do.
func chooseOn(tx store.Tx, nic api.NetworkNIC, ws []wish, segment string, named []netip.Addr) (nets []network, reason, err error) {
	want := map[string]int{} // chosen addresses by network
	for _, w := range ws {
		var here []string
		var fullness error
		i := slices.IndexFunc(w.nets, func(n network) bool {
			if err != nil || n.segment() != segment {
				return false
			}
			here = append(here, n.Name)
			if w.ip.IsValid() {
				return true
			}
			fullness, err = room(tx, n, nic, want[n.UUID]+1, named)
			return fullness == nil && err == nil
		})
		switch {
		case err != nil:
			return nil, nil, err
		case i >= 0:
			nets = append(nets, w.nets[i])
			if !w.ip.IsValid() {
				want[w.nets[i].UUID]++
			}
		case len(here) == 0:
			return nil, conflict("make a NIC for each segment", "the addresses of a NIC are on one layer-2 segment; %s has no network on the other addresses' one", w.id), nil
		case len(w.nets) == 1:
			return nil, fullness, nil
		default:
			return nil, conflict("widen their provision ranges, or add a network to the pool", "no address is free in %s", strings.Join(here, ", ")), nil
		}
	}
	return nets, nil, nil
}
