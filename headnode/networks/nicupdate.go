package networks

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// align makes the other NICs of an instance fit one of them: none of them is
// primary when this one becomes it, and all have its firewall tags when those were
// named; otherwise it has theirs. It gives those that changed, and as they were. Only
// what changes others reads all of them.
func align(tx store.Tx, nic *api.NetworkNIC, primary, tags bool) (changed, were []api.NetworkNIC, err error) {
	var all []api.NetworkNIC
	err = eachNICOf(tx, 'b', nic.BelongsTo, func(o api.NetworkNIC) bool {
		if o.MAC != nic.MAC {
			all = append(all, o)
		}
		return primary || tags || len(all) == 0
	})
	if err != nil {
		return nil, nil, err
	}
	if !tags && len(all) > 0 {
		nic.Tags = all[0].Tags // all have the same
	}
	for _, o := range all {
		after := o
		after.Primary = o.Primary && !primary
		after.Tags = nic.Tags
		if after.Primary == o.Primary && maps.Equal(after.Tags, o.Tags) {
			continue
		}
		if err := putNIC(tx, &o, &after); err != nil {
			return nil, nil, err
		}
		if err := withMTU(tx, &after); err != nil {
			return nil, nil, err
		}
		changed, were = append(changed, after), append(were, o)
	}
	return changed, were, nil
}

// UpdateNIC changes a NIC. A change of server moves it with its addresses;
// provided are the NIC tags of that server, nil: any. A NIC made primary takes
// that from the one that was; firewall tags are set on all NICs of the instance.
func UpdateNIC(tx store.Tx, mac string, u api.NICUpdate, provided []string) (_ Change, err error) {
	defer named(&err, "change NIC %s", mac)
	before, err := getNIC(tx, mac)
	if err != nil {
		return Change{}, err
	}
	n := before
	set(&n.Owner, u.Owner)
	set(&n.BelongsTo, u.BelongsTo)
	set(&n.Server, u.Server)
	set(&n.Primary, u.Primary)
	set(&n.State, u.State)
	set(&n.Tags, u.Tags)
	set(&n.NoFirewall, u.NoFirewall)
	set(&n.SpoofFlags, u.Flags)
	if err := checkNIC(&n); err != nil {
		return Change{}, err
	}
	if u.Flags != nil || n.Owner != before.Owner {
		if err := notAnothers(tx, n); err != nil {
			return Change{}, err
		}
	}
	if n.Owner != before.Owner {
		if err := notAllowedToOthers(tx, n); err != nil {
			return Change{}, err
		}
	}
	if n.Underlay && n.Server != before.Server {
		return Change{}, conflict("make one on the other server, and delete this one", "NIC %s is the underlay address of server %s and does not move", n.MAC, before.Server)
	}
	if err := staysUsable(tx, before, n, provided); err != nil {
		return Change{}, err
	}
	if n.Server != before.Server {
		if err := hostsFabric(tx, n); err != nil {
			return Change{}, err
		}
	}
	others, were, err := align(tx, &n, n.Primary && (!before.Primary || n.BelongsTo != before.BelongsTo), u.Tags != nil)
	if err != nil {
		return Change{}, err
	}
	if err := putNIC(tx, &before, &n); err != nil {
		return Change{}, err
	}
	if err := withMTU(tx, &before); err != nil {
		return Change{}, err
	}
	return Change{Before: &before, After: &n, Others: others, Were: were}, withMTU(tx, &n)
}

// staysUsable checks a new owner against the NIC's networks, and their tags
// against a new server. Addresses reserved for the old owner are for the new one.
func staysUsable(tx store.Tx, before, n api.NetworkNIC, provided []string) error {
	if n.Server == before.Server {
		provided = nil
	}
	if n.Owner == before.Owner && provided == nil {
		return nil
	}
	s, err := GetSettings(tx)
	if err != nil {
		return err
	}
	for _, a := range n.Addresses {
		net, err := load(tx, a.Network)
		if err != nil {
			return err
		}
		if err := usable(net, n, netip.Addr{}, provided, s.UnderlayTag); err != nil {
			return err
		}
		ip, err := parseAddr(a.IP)
		if err != nil {
			return fmt.Errorf("address of NIC %s: %w", n.MAC, err)
		}
		rec, err := store.Get[ipRecord](tx, ipKey(a.Network, ip))
		if err != nil {
			return err
		}
		if rec.Reserved && n.Owner != before.Owner {
			rec.Owner = n.Owner
			if err := store.Put(tx, ipKey(a.Network, ip), rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// DeleteNIC removes a NIC. Its addresses rest before others get them, but for
// reserved ones, which stay its owner's. A server's last underlay address stays
// while fabric NICs are on it.
func DeleteNIC(tx store.Tx, now time.Time, mac string) (_ Change, err error) {
	defer named(&err, "delete NIC %s", mac)
	n, err := getNIC(tx, mac)
	if err != nil {
		return Change{}, err
	}
	if n.Underlay {
		if err := underlayUnused(tx, n); err != nil {
			return Change{}, err
		}
	}
	return dropNIC(tx, now, n)
}

// dropNIC removes a NIC and gives its addresses back.
func dropNIC(tx store.Tx, now time.Time, n api.NetworkNIC) (Change, error) {
	if err := withMTU(tx, &n); err != nil {
		return Change{}, err
	}
	for _, a := range n.Addresses {
		net, err := load(tx, a.Network)
		if err != nil {
			return Change{}, err
		}
		ip, err := parseAddr(a.IP)
		if err != nil {
			return Change{}, fmt.Errorf("address of NIC %s: %w", n.MAC, err)
		}
		if err := unclaim(tx, net, ip, now); err != nil {
			return Change{}, err
		}
	}
	return Change{Before: &n}, putNIC(tx, &n, nil)
}

// underlayUnused refuses to take the last underlay address of a server that has
// fabric NICs.
func underlayUnused(tx store.Tx, n api.NetworkNIC) error {
	keys := slices.Collect(func(yield func(string) bool) {
		for k := range nicIndex(n) {
			if strings.HasPrefix(k, underlayPrefix) && !yield(k) {
				return
			}
		}
	})
	for it, err := range tx.Scan(underlayPrefix+n.Server+"/", "") {
		if err != nil {
			return err
		}
		if !slices.Contains(keys, it.Key) {
			return nil // another one carries on
		}
	}
	var u uses
	err := eachNICOf(tx, 's', n.Server, func(o api.NetworkNIC) bool {
		return o.VNI == 0 || u.add("NIC %s of %s %s", o.MAC, o.BelongsToType, o.BelongsTo)
	})
	if err != nil {
		return err
	}
	return u.refuse("move those to another server first", "NIC %s is the underlay address of server %s, and NICs there are on fabrics", n.MAC, n.Server)
}
