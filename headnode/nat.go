package headnode

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// How an account's networks with internet_nat reach what is outside. A server that
// provides the NIC tag of the NAT network does it itself, with one external address
// for all accounts. For the others there are gatewayCount servers that do, reached
// over the account's transit VNI.
//
//	nat/index/<server>           number of the server's transit address
//	nat/indexed/<number>         the server that has the number
//	nat/gateway/<server>/<owner> the server is a gateway of the account
//	nat/via/<owner>/<server>     the same, by account
//	nat/down/<server>            NIC tags of the server that have no link
const (
	natIndexPrefix   = "nat/index/"
	natIndexedPrefix = "nat/indexed/"
	natGatewayPrefix = "nat/gateway/"
	natViaPrefix     = "nat/via/"
	natDownPrefix    = "nat/down/"
	gatewayCount     = 2
)

// putGateway and dropGateway note that a server is or is not a gateway of an account.
func putGateway(tx store.Tx, server, owner string) error {
	if err := store.Put(tx, natGatewayPrefix+server+"/"+owner, struct{}{}); err != nil {
		return err
	}
	return store.Put(tx, natViaPrefix+owner+"/"+server, struct{}{})
}

func dropGateway(tx store.Tx, server, owner string) error {
	if err := tx.Delete(natGatewayPrefix + server + "/" + owner); err != nil {
		return err
	}
	return tx.Delete(natViaPrefix + owner + "/" + server)
}

// transitMAC is the MAC that a router makes of its transit address.
func transitMAC(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// renat brings an account's NAT up to date with its networks and NICs, and touches
// the servers that begin or cease to be its gateways.
func (s *Server) renat(tx store.Tx, owner string) error {
	if owner == "" {
		return nil
	}
	return s.renatEach(tx, owner)
}

// renatEach is renat for several accounts.
func (s *Server) renatEach(tx store.Tx, owners ...string) error {
	w, err := natWays(tx)
	if err != nil {
		return err
	}
	for _, owner := range owners {
		if err := s.renatBy(tx, owner, w); err != nil {
			return err
		}
	}
	return touch(tx, w.touch...)
}

func (s *Server) renatBy(tx store.Tx, owner string, w *ways) error {
	was, err := gatewaysOf(tx, owner)
	if err != nil {
		return err
	}
	here, err := w.servers(tx, owner)
	if err != nil {
		return err
	}
	forwards, err := forwardsOf(tx, owner)
	if err != nil {
		return err
	}
	var away, gateways []string // away: those that must reach the gateways
	for _, server := range here {
		own := slices.Contains(w.can, server)
		if own {
			if err := s.ensureExternal(tx, server, w); err != nil {
				return err
			}
		}
		if !own || len(forwards) > 0 { // answers go back by the gateway they came in by
			away = append(away, server)
		}
	}
	if len(away) > 0 {
		gateways = chooseGateways(owner, w.can)
	}
	for _, server := range gateways {
		if err := s.ensureExternal(tx, server, w); err != nil {
			return err
		}
		if err := putGateway(tx, server, owner); err != nil {
			return err
		}
	}
	for _, server := range was {
		if !slices.Contains(gateways, server) {
			if len(away) > 0 {
				also(tx, "server %s is no longer a gateway of account %s, whose connections through it end", nameOf(tx, server), owner)
			}
			if err := dropGateway(tx, server, owner); err != nil {
				return err
			}
		}
	}
	reached := slices.Concat(away, gateways)
	slices.Sort(reached)
	if err := s.mapTransit(tx, owner, slices.Compact(reached), w); err != nil {
		return err
	}
	if !slices.Equal(was, gateways) {
		w.touch = append(w.touch, slices.Concat(was, gateways, here)...)
	}
	return nil
}

// natTags are the NIC tags of the network or pool that NAT uses.
func natTags(tx store.Tx, id string) ([]string, error) {
	p, err := networks.GetPool(tx, id)
	if err == nil {
		return p.NICTags, nil
	}
	if !isProblem(err, api.CodeNotFound) {
		return nil, err
	}
	n, err := networks.GetNetwork(tx, id)
	return []string{n.NICTag}, err
}

// chooseGateways takes the servers whose hash with the account is greatest
// (rendezvous hashing), so that accounts spread over them and few move when one
// comes or goes. They are in the order in which they are used.
func chooseGateways(owner string, can []string) []string {
	type weighed struct {
		sum    [sha256.Size]byte
		server string
	}
	all := make([]weighed, len(can))
	for i, server := range can {
		all[i] = weighed{sha256.Sum256([]byte(owner + server)), server}
	}
	slices.SortFunc(all, func(a, b weighed) int { return bytes.Compare(b.sum[:], a.sum[:]) })
	var out []string
	for _, w := range all[:min(len(all), gatewayCount)] {
		out = append(out, w.server)
	}
	return out
}

// gatewaysOf are an account's gateway servers, in the order in which they are used.
func gatewaysOf(tx store.Tx, owner string) ([]string, error) {
	var out []string
	prefix := natViaPrefix + owner + "/"
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return nil, err
		}
		out = append(out, it.Key[len(prefix):])
	}
	return chooseGateways(owner, out), nil
}

// gatewayFor are the accounts that a server is a gateway of.
func gatewayFor(tx store.Tx, server string) ([]string, error) {
	var out []string
	prefix := natGatewayPrefix + server + "/"
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return nil, err
		}
		out = append(out, it.Key[len(prefix):])
	}
	return out, nil
}

// external is the NIC that holds a server's external address; nil when it has none.
func external(tx store.Tx, server string) (*api.NetworkNIC, error) {
	nics, err := networks.NICsOfServer(tx, server)
	if err != nil {
		return nil, err
	}
	for _, n := range nics {
		if n.BelongsToType == api.BelongsToServer && !n.Underlay && n.VNI == 0 {
			return &n, nil
		}
	}
	return nil, nil
}

// ensureExternal gives a server an external address unless it has one.
func (s *Server) ensureExternal(tx store.Tx, server string, w *ways) error {
	if w.ready[server] {
		return nil
	}
	n, err := external(tx, server)
	if err != nil {
		return err
	}
	if n == nil {
		provided, err := networks.ProvidedTags(tx, server)
		if err != nil {
			return err
		}
		_, err = s.createNIC(tx, api.NetworkNIC{BelongsTo: server, BelongsToType: api.BelongsToServer, Server: server,
			Addresses: []api.NICAddress{{Network: w.network}}}, provided)
		if err != nil {
			return fmt.Errorf("external address for NAT on server %s: %w", server, err)
		}
		w.touch = append(w.touch, server)
	}
	w.ready[server] = true
	return nil
}

// mapTransit makes the map of an account's transit VNI have these servers and no
// others; without any the VNI is given back.
func (s *Server) mapTransit(tx store.Tx, owner string, servers []string, w *ways) error {
	vni, found, err := fabric.TransitOf(tx, owner)
	if err == nil && !found {
		if len(servers) == 0 {
			return nil
		}
		vni, err = fabric.Transit(tx, owner, s.now())
	}
	if err != nil {
		return err
	}
	now, err := fabric.Snapshot(tx, vni)
	if err != nil {
		return err
	}
	var put []api.MapEntry
	keep := map[string]bool{}
	for _, server := range servers {
		a, err := transitAddr(tx, server)
		if err != nil {
			return err
		}
		under, err := w.underlay(tx, server)
		if err != nil {
			return err
		}
		if under.IsValid() {
			keep[a.String()] = true
			put = append(put, api.MapEntry{IP: a.String(), MAC: transitMAC(a), Underlay: under.String()})
		}
	}
	var gone []netip.Addr
	for _, e := range now.Entries {
		if a, err := netip.ParseAddr(e.IP); err == nil && !keep[e.IP] {
			gone = append(gone, a)
		}
	}
	if _, err := fabric.Delete(tx, vni, gone...); err != nil {
		return err
	}
	if len(put) == 0 {
		return fabric.DropTransit(tx, owner, s.now())
	}
	_, err = fabric.Put(tx, vni, put...)
	return err
}

// natSpec is the NAT of an account's router on a server that has one; nil when there is
// none.
func natSpec(tx store.Tx, owner, server string, w *ways) (*api.NATSpec, error) {
	if w.network == "" {
		return nil, nil
	}
	has, err := hasNAT(tx, owner)
	if err != nil || !has {
		return nil, err
	}
	gateways, err := gatewaysOf(tx, owner)
	if err != nil {
		return nil, err
	}
	var n api.NATSpec
	if slices.Contains(w.can, server) {
		nic, err := external(tx, server)
		if err != nil || nic == nil {
			return nil, err
		}
		net, err := networks.GetNetwork(tx, nic.Addresses[0].Network)
		if err != nil {
			return nil, err
		}
		subnet, err := netip.ParsePrefix(net.Subnet)
		if err != nil {
			return nil, err
		}
		n.Tag, n.VLAN, n.Gateway = net.NICTag, net.VLAN, net.Gateway
		n.Address = nic.Addresses[0].IP + "/" + strconv.Itoa(subnet.Bits())
		forwards, err := forwardsOf(tx, owner)
		if err != nil {
			return nil, err
		}
		if slices.Contains(gateways, server) {
			n.Forwards = natForwards(forwards, nic.Addresses[0].IP)
		} else if len(forwards) == 0 {
			return &n, nil
		}
	} else if len(gateways) == 0 {
		return nil, nil
	}
	vni, found, err := fabric.TransitOf(tx, owner)
	if err != nil || !found {
		return nil, err
	}
	own, err := transitAddr(tx, server)
	if err != nil {
		return nil, err
	}
	n.VNI, n.Transit = vni, netip.PrefixFrom(own, networks.Transit.Bits()).String()
	if n.Tag == "" {
		for _, g := range gateways {
			a, err := transitAddr(tx, g)
			if err != nil {
				return nil, err
			}
			n.Via = append(n.Via, a.String())
		}
	}
	return &n, nil
}

// natForwards are the forwards of an external address.
func natForwards(all []api.FabricForward, external string) []api.PortForward {
	from, err := netip.ParseAddr(external)
	if err != nil {
		return nil // addresses are checked when they are given out
	}
	var out []api.PortForward
	for _, f := range all {
		to, err := netip.ParseAddr(f.IP)
		if err != nil || to.Is4() != from.Is4() { // the NAT network was another one
			continue
		}
		out = append(out, api.PortForward{Protocol: f.Protocol, External: netip.AddrPortFrom(from, f.Port).String(), Internal: netip.AddrPortFrom(to, f.ToPort).String()})
	}
	return out
}

// renatAll is renat for every account with a fabric: what concerns all changed.
func (s *Server) renatAll(tx store.Tx) error {
	owners := map[string]bool{}
	only := true
	nets, _, err := networks.ListNetworks(tx, networks.NetworkFilter{Fabric: &only}, "", 0)
	if err != nil {
		return err
	}
	for _, n := range nets {
		owners[n.Owners[0]] = true
	}
	return s.renatEach(tx, slices.Sorted(maps.Keys(owners))...)
}

// forgetNAT frees what is kept of a server that is forgotten.
func forgetNAT(tx store.Tx, server string) error {
	owners, err := gatewayFor(tx, server)
	for _, o := range owners {
		if err == nil {
			err = dropGateway(tx, server, o)
		}
	}
	n, found, nerr := store.Lookup[uint32](tx, natIndexPrefix+server)
	if err = cmp.Or(err, nerr); err == nil && found {
		err = tx.Delete(indexedKey(n))
	}
	for _, prefix := range []string{natIndexPrefix, natDownPrefix} {
		if err == nil {
			err = tx.Delete(prefix + server)
		}
	}
	return err
}
