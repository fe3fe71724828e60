package networks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// ServersOfVNI gives the servers that NICs of a VNI are on, by UUID. It costs one
// seek for each server, however many NICs there are.
func ServersOfVNI(tx store.Tx, vni uint32) (_ []string, err error) {
	defer named(&err, "list servers of VNI %d", vni)
	var out []string
	for server, err := range heads(tx, vniKey(vni), 1) {
		if err != nil {
			return nil, err
		}
		out = append(out, server[0])
	}
	return out, nil
}

// NICsOfVNI gives the NICs of a VNI that are on a server, by server and MAC.
func NICsOfVNI(tx store.Tx, vni uint32) (_ []api.NetworkNIC, err error) {
	defer named(&err, "list NICs of VNI %d", vni)
	var out []api.NetworkNIC
	key := func(it store.Item) string { return nicPrefix + it.Key[strings.LastIndexByte(it.Key, '/')+1:] }
	for e, err := range store.Through[api.NetworkNIC](tx, vniKey(vni), "", key) {
		if err != nil {
			return nil, err
		}
		out = append(out, e.Value)
	}
	return out, withMTUs(tx, out)
}

// ServersOfNetwork gives the servers that NICs of a network are on, by UUID: those
// that a change of the network concerns.
func ServersOfNetwork(tx store.Tx, uuid string) (_ []string, err error) {
	defer named(&err, "list servers of network %s", uuid)
	seen := map[string]bool{"": true}
	var out []string
	for it, err := range tx.Scan(nicByPrefix+"n/"+uuid+"/", "") {
		if err != nil {
			return nil, err
		}
		if server := string(it.Value); !seen[server] {
			seen[server] = true
			out = append(out, server)
		}
	}
	return out, nil
}

// Underlay is an underlay address of a server.
type Underlay struct {
	Server  string
	Family  string // "ipv4" or "ipv6"
	MAC     string
	Network api.Network
	Address netip.Prefix // with the length of the network's prefix
}

// UnderlayOf gives a server's underlay addresses, IPv4 first: none, one, or one of
// each family.
func UnderlayOf(tx store.Tx, server string) (_ []Underlay, err error) {
	defer named(&err, "read underlay addresses of server %s", server)
	return underlays(tx, underlayPrefix+server+"/")
}

// HasUnderlay says whether a server has an underlay address.
func HasUnderlay(tx store.Tx, server string) (_ bool, err error) {
	defer named(&err, "look for underlay address of server %s", server)
	return store.HasBelow(tx, underlayPrefix+server+"/")
}

// Underlays gives those of all servers.
func Underlays(tx store.Tx) (_ []Underlay, err error) {
	defer named(&err, "read underlay addresses")
	return underlays(tx, underlayPrefix)
}

func underlays(tx store.Tx, prefix string) ([]Underlay, error) {
	var out []Underlay
	var keys, uuids []string
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return nil, err
		}
		u := Underlay{MAC: string(it.Value)}
		u.Server, u.Family, _ = strings.Cut(it.Key[len(underlayPrefix):], "/")
		out, keys = append(out, u), append(keys, nicPrefix+u.MAC)
	}
	nics, err := store.GetAll[api.NetworkNIC](tx, keys...)
	if err != nil {
		return nil, err
	}
	for i, nic := range nics {
		for _, a := range nic.Addresses {
			ip, err := parseAddr(a.IP)
			if err != nil {
				return nil, fmt.Errorf("address of NIC %s: %w", nic.MAC, err)
			}
			if family(ip) == out[i].Family { // of which a NIC of the underlay has one
				out[i].Network.UUID, out[i].Address = a.Network, netip.PrefixFrom(ip, ip.BitLen())
			}
		}
		if !slices.Contains(uuids, out[i].Network.UUID) {
			uuids = append(uuids, out[i].Network.UUID)
		}
	}
	nets, err := loadAll(tx, uuids)
	if err != nil {
		return nil, err
	}
	for i, u := range out {
		n := nets[slices.Index(uuids, u.Network.UUID)]
		out[i].Network, out[i].Address = n.Network, netip.PrefixFrom(u.Address.Addr(), n.subnet.Bits())
	}
	return out, nil
}

// ForgetServer removes a server's bonds, its NIC tags and the NICs that belong to
// it, which it gives. Refused while NICs of others are on the server.
func ForgetServer(tx store.Tx, now time.Time, server string) (_ []Change, err error) {
	defer named(&err, "forget networks of server %s", server)
	var own []api.NetworkNIC
	var u uses
	err = eachNICOf(tx, 's', server, func(n api.NetworkNIC) bool {
		if n.BelongsToType == api.BelongsToServer {
			own = append(own, n)
			return true
		}
		return u.add("NIC %s of %s %s", n.MAC, n.BelongsToType, n.BelongsTo)
	})
	if err != nil {
		return nil, err
	}
	if err := u.refuse("delete those, or move them to another server", "server %s has NICs", server); err != nil {
		return nil, err
	}
	var out []Change
	for _, n := range own {
		c, err := dropNIC(tx, now, n)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	tags, err := ProvidedTags(tx, server)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if err := tx.Delete(providerPrefix + tag + "/" + server); err != nil {
			return nil, err
		}
	}
	for e, err := range store.Each[api.Bond](tx, bondPrefix+server+"/") {
		if err == nil {
			err = removeBond(tx, e.Value)
		}
		if err != nil {
			return nil, err
		}
	}
	for e, err := range store.Each[phys](tx, physPrefix+server+"/") {
		if err == nil {
			err = putPhys(tx, server, phys{MAC: e.Value.MAC})
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
