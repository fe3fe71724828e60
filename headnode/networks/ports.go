package networks

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// PortSet is the journal's set of the ports of a server: the instances' NICs that are
// on it, as api.PortSpec by api.PortKey. A NIC that leaves the server leaves a
// tombstone, which is kept until the server has it.
func PortSet(server string) journal.Set {
	return journal.Set{Name: api.PortSet(server), Keep: true}
}

// portOn is the server that a NIC is a port of; empty: of none.
func portOn(n *api.NetworkNIC) string {
	if n == nil || n.BelongsToType == api.BelongsToServer {
		return ""
	}
	return n.Server
}

// movePort brings the sets of ports up to date with a change of a NIC.
func movePort(tx store.Tx, before, after *api.NetworkNIC) error {
	was, is := portOn(before), portOn(after)
	if was != "" && (is != was || api.PortKey(before.MAC, before.BelongsTo) != api.PortKey(after.MAC, after.BelongsTo)) {
		if _, err := journal.Delete(tx, PortSet(was), api.PortKey(before.MAC, before.BelongsTo)); err != nil {
			return err
		}
	}
	if is == "" {
		return nil
	}
	return putPort(tx, *after)
}

// putPort writes the port that a NIC is on its server.
func putPort(tx store.Tx, n api.NetworkNIC) error {
	p, err := portSpec(tx, n)
	if err != nil {
		return err
	}
	value, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("port of NIC %s: %w", n.MAC, err)
	}
	_, err = journal.Put(tx, PortSet(n.Server), api.PortKey(p.MAC, p.Instance), value)
	return err
}

// portSpec is a NIC as its server makes it.
func portSpec(tx store.Tx, n api.NetworkNIC) (api.PortSpec, error) {
	p := api.PortSpec{MAC: n.MAC, Instance: n.BelongsTo, Owner: n.Owner, Brand: n.Brand, Tag: n.NICTag, VLAN: n.VLAN, VNI: n.VNI,
		Primary: n.Primary, Firewall: !n.NoFirewall, Tags: n.Tags, SpoofFlags: n.SpoofFlags}
	if n.VNI != 0 {
		p.Tag, p.VLAN = "", 0
	}
	for _, a := range n.Addresses {
		net, err := load(tx, a.Network)
		if err != nil {
			return p, err
		}
		p.Addresses = append(p.Addresses, api.PortAddress{Address: a.IP + "/" + strconv.Itoa(net.subnet.Bits()), Gateway: net.Gateway, Routes: net.Routes})
		if p.MTU == 0 || net.MTU < p.MTU {
			p.MTU = net.MTU
		}
	}
	return p, nil
}

// renewPorts writes the ports on a network that changed.
func renewPorts(tx store.Tx, network string) error {
	var nics []api.NetworkNIC
	err := eachNICOf(tx, 'n', network, func(n api.NetworkNIC) bool {
		if portOn(&n) != "" {
			nics = append(nics, n)
		}
		return true
	})
	for _, n := range nics {
		if err == nil {
			err = putPort(tx, n)
		}
	}
	return err
}

// PortsOfServer gives the ports of a server, by MAC.
func PortsOfServer(tx store.Tx, server string) (_ []api.PortSpec, err error) {
	defer named(&err, "read ports of server %s", server)
	nics, err := NICsOfServer(tx, server)
	if err != nil {
		return nil, err
	}
	var out []api.PortSpec
	for _, n := range nics {
		if portOn(&n) == "" {
			continue
		}
		p, err := portSpec(tx, n)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Hosts are the accounts that have NICs on their fabric on a server, each with the
// VNIs of these NICs. It costs one seek for each account and VNI, however many NICs
// there are.
func Hosts(tx store.Tx, server string) (_ map[string][]uint32, err error) {
	defer named(&err, "read VNIs of server %s", server)
	out := map[string][]uint32{}
	for head, err := range heads(tx, hostsPrefix+server+"/", 2) {
		if err != nil {
			return nil, err
		}
		owner, text := head[0], head[len(head)-1]
		vni, err := strconv.ParseUint(text, 16, 24)
		if err != nil {
			return nil, fmt.Errorf("VNI %q of account %s: %w", text, owner, err)
		}
		out[owner] = append(out[owner], uint32(vni))
	}
	return out, nil
}

// HostsAccount says whether an account has NICs on its fabrics on a server.
func HostsAccount(tx store.Tx, server, owner string) (_ bool, err error) {
	defer named(&err, "look for NICs of account %s on server %s", owner, server)
	return store.HasBelow(tx, hostsPrefix+server+"/"+owner+"/")
}

// HostsVNI says whether an account has NICs on a server and a VNI.
func HostsVNI(tx store.Tx, server, owner string, vni uint32) (_ bool, err error) {
	defer named(&err, "look for NICs of VNI %d on server %s", vni, server)
	return store.HasBelow(tx, hostsKey(api.NetworkNIC{Server: server, Owner: owner, VNI: vni}))
}

// HasNICsOf says whether an account has NICs on a server, on fabrics or not.
func HasNICsOf(tx store.Tx, server, owner string) (_ bool, err error) {
	defer named(&err, "look for NICs of account %s on server %s", owner, server)
	return store.HasBelow(tx, ownedPrefix+server+"/"+owner+"/")
}

// ownedKey is where a port is by its server and account; empty: it has none.
func ownedKey(n api.NetworkNIC) string {
	server := portOn(&n)
	if server == "" || n.Owner == "" {
		return ""
	}
	return ownedPrefix + server + "/" + n.Owner + "/" + n.MAC
}

// Newcomer says whether no other NIC of its account is on the server of a NIC, on any
// of the account's fabrics.
func Newcomer(tx store.Tx, n api.NetworkNIC) (_ bool, err error) {
	defer named(&err, "look for NICs of account %s on server %s", n.Owner, n.Server)
	for rest, err := range below(tx, hostsPrefix+n.Server+"/"+n.Owner+"/") {
		if _, mac, _ := strings.Cut(rest, "/"); err != nil || mac != n.MAC {
			return false, err
		}
	}
	return true, nil
}

// hostsKey is where the NICs of a NIC's account, server and VNI are.
func hostsKey(n api.NetworkNIC) string {
	return fmt.Sprintf("%s%s/%s/%06x/", hostsPrefix, n.Server, n.Owner, n.VNI)
}
