package networks

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Change is a NIC before and after a change; nil: there was, or is, none. From it
// the caller knows which fabric map and which servers are concerned.
type Change struct {
	Before, After *api.NetworkNIC
	Others        []api.NetworkNIC // of the same instance that changed with it, as they are now
	Were          []api.NetworkNIC // the same, as they were
}

// CreateNIC makes a NIC and gives it its addresses, all or none. provided are the
// NIC tags of the server the NIC is, or may come to be, on; nil: any. Of a pool,
// the first network is taken that has a free address and whose tag is provided.
// Without firewall tags it gets those of the other NICs of its instance.
func CreateNIC(tx store.Tx, now time.Time, nic api.NetworkNIC, provided []string) (_ Change, err error) {
	defer named(&err, "create NIC")
	if err := checkNIC(&nic); err != nil {
		_, more := wishes(tx, nic, provided)
		if p := (*api.Problem)(nil); errors.As(more, &p) && p.Status == http.StatusForbidden {
			more = nil // it is not known who asks
		}
		return Change{}, api.Faults(err, more)
	}
	ws, err := wishes(tx, nic, provided)
	if err != nil {
		return Change{}, err
	}
	nets, err := choose(tx, nic, ws)
	if err != nil {
		return Change{}, err
	}
	if nic.MAC == "" {
		nic.MAC, err = NewMAC(tx, DrawMAC, nil)
	} else {
		nic.MAC, err = namedMAC(tx, nic)
	}
	if err != nil {
		return Change{}, err
	}
	addrs, err := claim(tx, now, nic, ws, nets)
	if err != nil {
		return Change{}, err
	}
	nic.Addresses = make([]api.NICAddress, len(addrs))
	for i, a := range addrs {
		nic.Addresses[i] = api.NICAddress{Network: nets[i].UUID, IP: a.String()}
	}
	if err := notAnothers(tx, nic); err != nil {
		return Change{}, err
	}
	nic.NICTag, nic.VLAN, nic.VNI, nic.Created = nets[0].NICTag, nets[0].VLAN, nets[0].VNI, now.UTC()
	if nic.Underlay {
		if err := underlayFits(tx, nic, nets, addrs); err != nil {
			return Change{}, err
		}
	}
	if err := hostsFabric(tx, nic); err != nil {
		return Change{}, err
	}
	others, were, err := align(tx, &nic, nic.Primary, nic.Tags != nil)
	if err != nil {
		return Change{}, err
	}
	if err := putNIC(tx, nil, &nic); err != nil {
		return Change{}, err
	}
	if nic.Underlay {
		if err := overlayFits(tx, "the underlay cannot go over "+nets[0].Name); err != nil {
			return Change{}, err
		}
	}
	return Change{After: &nic, Others: others, Were: were}, withMTU(tx, &nic)
}

// claim gives the NIC its addresses, those it names first.
func claim(tx store.Tx, now time.Time, nic api.NetworkNIC, ws []wish, nets []network) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, len(ws))
	for i, w := range ws {
		if !w.ip.IsValid() {
			continue
		}
		if err := claimNamed(tx, nets[i], w.ip, nic); err != nil {
			return nil, err
		}
		addrs[i] = w.ip
	}
	for i, w := range ws {
		if w.ip.IsValid() {
			continue
		}
		a, err := claimFree(tx, nets[i], nic, now)
		if err != nil {
			return nil, err
		}
		addrs[i] = a
	}
	return addrs, nil
}

// underlayFits checks an underlay NIC: it is on the underlay's NIC tag, and its
// server has no other one of a family of it.
func underlayFits(tx store.Tx, nic api.NetworkNIC, nets []network, addrs []netip.Addr) error {
	s, err := GetSettings(tx)
	if err != nil {
		return err
	}
	byFamily, err := underlayAddresses(nets, addrs, s.UnderlayTag)
	if err != nil {
		return err
	}
	for _, f := range []string{familyIPv4, familyIPv6} {
		if _, has := byFamily[f]; !has {
			continue
		}
		mac, found, err := lookup(tx, underlayPrefix+nic.Server+"/"+f)
		if err != nil {
			return err
		}
		if found {
			return conflict("delete that one first", "server %s has an %s underlay address already, of NIC %s", nic.Server, f, mac)
		}
	}
	return nil
}

// hostsFabric refuses a fabric NIC on a server without underlay address: nobody
// could reach it there.
func hostsFabric(tx store.Tx, nic api.NetworkNIC) error {
	if nic.VNI == 0 || nic.Server == "" {
		return nil
	}
	has, err := HasUnderlay(tx, nic.Server)
	if err == nil && !has {
		err = conflict("give the server a NIC with underlay set, or choose another server", "server %s has no underlay address, so no fabric reaches it", nic.Server)
	}
	return err
}

// getNIC reads a NIC as it is stored.
func getNIC(tx store.Tx, mac string) (api.NetworkNIC, error) {
	mac, err := parseMAC(mac)
	if err != nil {
		return api.NetworkNIC{}, err
	}
	n, found, err := store.Lookup[api.NetworkNIC](tx, nicPrefix+mac)
	if err == nil && !found {
		err = missing("NIC", mac, "nereid nic list")
	}
	return n, err
}

// GetNIC reads a NIC.
func GetNIC(tx store.Tx, mac string) (_ api.NetworkNIC, err error) {
	defer named(&err, "read NIC %s", mac)
	n, err := getNIC(tx, mac)
	if err != nil {
		return n, err
	}
	return n, withMTU(tx, &n)
}

// withMTU fills in the MTU: the least of its networks'.
func withMTU(tx store.Tx, n *api.NetworkNIC) error {
	one := []api.NetworkNIC{*n}
	err := withMTUs(tx, one)
	n.MTU = one[0].MTU
	return err
}

// withMTUs fills in the MTUs of NICs, whose networks are read together.
func withMTUs(tx store.Tx, nics []api.NetworkNIC) error {
	var keys []string
	at := map[string]int{} // of a network in keys
	for _, n := range nics {
		for _, a := range n.Addresses {
			if _, known := at[a.Network]; !known {
				at[a.Network] = len(keys)
				keys = append(keys, netPrefix+a.Network)
			}
		}
	}
	nets, err := store.GetAll[api.Network](tx, keys...)
	if err != nil {
		return err
	}
	for i := range nics {
		n := &nics[i]
		n.MTU = 0
		for _, a := range n.Addresses {
			if mtu := nets[at[a.Network]].MTU; n.MTU == 0 || mtu < n.MTU {
				n.MTU = mtu
			}
		}
	}
	return nil
}

// putNIC writes a NIC, with a new revision, and its index keys; nil: none.
func putNIC(tx store.Tx, before, after *api.NetworkNIC) error {
	if err := movePort(tx, before, after); err != nil {
		return err
	}
	var old, keys map[string]string
	if before != nil {
		old = nicIndex(*before)
	}
	if after != nil {
		keys = nicIndex(*after)
	}
	for k := range old {
		if _, stays := keys[k]; stays {
			continue
		}
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	for k, v := range keys {
		if was, there := old[k]; there && was == v {
			continue
		}
		if err := tx.Put(k, []byte(v)); err != nil {
			return err
		}
	}
	if after == nil {
		return tx.Delete(nicPrefix + before.MAC)
	}
	after.MTU, after.Revision = 0, newRevision()
	return store.Put(tx, nicPrefix+after.MAC, *after)
}

// nicIndex are the keys by which a NIC is found, and their values.
func nicIndex(n api.NetworkNIC) map[string]string {
	keys := map[string]string{}
	by := func(kind, id, value string) {
		if id != "" {
			keys[nicByPrefix+kind+"/"+id+"/"+n.MAC] = value
		}
	}
	by("o", n.Owner, "")
	by("b", n.BelongsTo, "")
	by("s", n.Server, "")
	for _, a := range n.Addresses {
		by("n", a.Network, n.Server)
	}
	for _, k := range allowedKeys(n) {
		keys[k] = ""
	}
	if k := ownedKey(n); k != "" {
		keys[k] = ""
	}
	if n.VNI != 0 && n.Server != "" {
		keys[vniKey(n.VNI)+n.Server+"/"+n.MAC] = ""
		keys[hostsKey(n)+n.MAC] = ""
	}
	if n.Underlay {
		for _, a := range n.Addresses {
			f := familyIPv4
			if strings.Contains(a.IP, ":") {
				f = familyIPv6
			}
			keys[underlayPrefix+n.Server+"/"+f] = n.MAC
			keys[underlayOfPrefix+a.Network+"/"+n.MAC] = n.Server
		}
	}
	return keys
}
