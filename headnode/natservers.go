package headnode

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/journal"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// natTags are the NIC tags of the network or pool that NAT uses; none without one.
func natTags(tx store.Tx) ([]string, error) {
	settings, err := networks.GetSettings(tx)
	if err != nil || settings.NATNetwork == "" {
		return nil, err
	}
	p, err := networks.GetPool(tx, settings.NATNetwork)
	if err == nil {
		return p.NICTags, nil
	}
	if !isProblem(err, api.CodeNotFound) {
		return nil, err
	}
	n, err := networks.GetNetwork(tx, settings.NATNetwork)
	return []string{n.NICTag}, err
}

// noteAble notes whether a server can do NAT: it provides a NIC tag of the NAT network,
// with a link, and has an underlay address.
func noteAble(tx store.Tx, server string, tags []string) error {
	up, cut := false, false
	reached, err := networks.HasUnderlay(tx, server)
	if err == nil && reached && len(tags) > 0 {
		var provided, down []string
		if provided, err = networks.ProvidedTags(tx, server); err != nil {
			return err
		}
		down, _, err = store.Lookup[[]string](tx, natDownPrefix+server)
		for _, tag := range tags {
			if slices.Contains(provided, tag) {
				up, cut = up || !slices.Contains(down, tag), true
			}
		}
	}
	for prefix, is := range map[string]bool{natUpPrefix: up, natCutPrefix: cut && !up} {
		if err != nil {
			return err
		}
		has := false
		if has, err = store.Has(tx, prefix+server); err != nil || has == is {
			continue
		}
		if is {
			err = store.Put(tx, prefix+server, struct{}{})
		} else {
			err = tx.Delete(prefix + server)
		}
	}
	return err
}

// reroute does what follows when a server provides other NIC tags, with a link or not, or
// has another underlay address. A server whose link to the external network is down does no
// NAT, unless that is so on all of them. Accounts that had, or would have, the server among
// their gateways are given others, and those with NICs where NAT begins or ends another way
// out. owners are looked at in any case.
func (s *Server) reroute(tx store.Tx, server string, owners ...string) error {
	return s.noteServer(tx, server, []string{server}, owners)
}

// noteServer notes whether a server can do NAT, and does what follows, for some servers and
// accounts also where nothing does.
func (s *Server) noteServer(tx store.Tx, server string, servers, owners []string) error {
	before, err := natWays(tx)
	if err != nil {
		return err
	}
	tags, err := natTags(tx)
	if err == nil {
		err = noteAble(tx, server, tags)
	}
	if err != nil {
		return err
	}
	return s.rerouted(tx, before, servers, owners)
}

// rerouteAll is reroute for all servers and accounts: the NAT network is another one.
func (s *Server) rerouteAll(tx store.Tx) error {
	before, err := natWays(tx)
	if err != nil {
		return err
	}
	tags, err := natTags(tx)
	if err != nil {
		return err
	}
	servers, err := notedAble(tx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		some, err := networks.ServersProviding(tx, tag)
		if err != nil {
			return err
		}
		servers = append(servers, some...)
	}
	slices.Sort(servers)
	servers = slices.Compact(servers)
	for _, server := range servers {
		if err := noteAble(tx, server, tags); err != nil {
			return err
		}
	}
	only := true
	nets, _, err := networks.ListNetworks(tx, networks.NetworkFilter{Fabric: &only}, "", 0)
	if err != nil {
		return err
	}
	var owners []string
	for _, n := range nets {
		owners = append(owners, n.Owners[0])
	}
	return s.rerouted(tx, before, servers, owners)
}

// notedAble are the servers of which it is noted that they can, or could, do NAT.
func notedAble(tx store.Tx) ([]string, error) {
	up, err := keysBelow(tx, natUpPrefix)
	if err != nil {
		return nil, err
	}
	cut, err := keysBelow(tx, natCutPrefix)
	return append(up, cut...), err
}

// rerouted brings up to date what depends on which servers do NAT.
func (s *Server) rerouted(tx store.Tx, before *ways, servers, owners []string) error {
	w, err := natWays(tx)
	if err != nil {
		return err
	}
	// Others than one that changed are among them when the last link goes or the first comes.
	for _, server := range slices.Concat(before.can, w.can) {
		if before.does(server) != w.does(server) {
			servers = append(servers, server)
		}
	}
	slices.Sort(servers)
	concerned := map[string]bool{}
	for _, server := range slices.Compact(servers) {
		if err := tellNAT(tx, server); err != nil {
			return err
		}
		on, err := accountsAt(tx, server)
		if err != nil {
			return err
		}
		owners = append(owners, on...)
	}
	for _, owner := range owners {
		concerned[owner] = true
	}
	if !slices.Equal(before.can, w.can) {
		// Also those that have other gateways than they should have now.
		for owner, err := range fabric.Transits(tx) {
			if err != nil {
				return err
			}
			g, err := gatewaysOf(tx, owner)
			if err != nil {
				return err
			}
			is := func(g api.Gateway, server string) bool { return g.Server == server }
			concerned[owner] = concerned[owner] || !slices.EqualFunc(g.Gateways, chooseGateways(owner, w.can), is)
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(concerned)) {
		if err := s.leadOut(tx, owner, w); err != nil {
			return err
		}
		g, err := gatewaysOf(tx, owner)
		if err == nil && len(g.Gateways) > 0 && slices.Contains(servers, g.Gateways[0].Server) { // it may have moved
			err = hintGateways(tx, owner)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// accountsAt are the accounts that have a router on a server: those with NICs on their
// fabric there, known or kept, and those that it is a gateway of.
func accountsAt(tx store.Tx, server string) ([]string, error) {
	hosts, err := networks.Hosts(tx, server)
	if err != nil {
		return nil, err
	}
	kept, err := keptOn(tx, server)
	if err != nil {
		return nil, err
	}
	out, err := gatewayFor(tx, server)
	out = slices.AppendSeq(out, maps.Keys(hosts))
	for _, k := range kept {
		out = append(out, k.owner)
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

// external is the NIC that holds a server's external address; nil when it has none.
func external(tx store.Tx, server string) (*api.NetworkNIC, error) {
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{BelongsTo: server}, "", 0)
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
	self, err := selfNAT(tx, server)
	if err != nil || self.External != nil && self.External.Address != "" {
		return err
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
	}
	return tellNAT(tx, server)
}

// tellNAT writes what a server is to know of itself for NAT.
func tellNAT(tx store.Tx, server string) error {
	does, err := doesNAT(tx, server)
	if err != nil {
		return err
	}
	self := api.ServerNAT{UUID: api.SelfKey}
	a, found, err := knownTransit(tx, server)
	if err != nil {
		return err
	}
	if found {
		self.Transit = netip.PrefixFrom(a, networks.Transit.Bits()).String()
	}
	if does {
		if self.External, err = externalOf(tx, server); err != nil {
			return err
		}
	}
	if !does && !found {
		return putSet(tx, api.ServerNATSet(server), api.SelfKey, nil)
	}
	return putSet(tx, api.ServerNATSet(server), api.SelfKey, self)
}

// externalOf is how a server that does NAT reaches what is outside.
func externalOf(tx store.Tx, server string) (*api.External, error) {
	nic, err := external(tx, server)
	if err != nil || nic == nil {
		return &api.External{}, err
	}
	net, err := networks.GetNetwork(tx, nic.Addresses[0].Network)
	if err != nil {
		return nil, err
	}
	subnet, err := netip.ParsePrefix(net.Subnet)
	if err != nil {
		return nil, fmt.Errorf("subnet of network %s: %w", net.Name, err)
	}
	return &api.External{Tag: net.NICTag, VLAN: net.VLAN, Gateway: net.Gateway, Address: nic.Addresses[0].IP + "/" + strconv.Itoa(subnet.Bits())}, nil
}

// noteLinks takes in which NIC tags of a server have no link.
func (s *Server) noteLinks(tx store.Tx, server string, down []string) error {
	was, _, err := store.Lookup[[]string](tx, natDownPrefix+server)
	if err != nil || slices.Equal(was, down) {
		return err
	}
	if len(down) == 0 {
		err = tx.Delete(natDownPrefix + server)
	} else {
		err = store.Put(tx, natDownPrefix+server, down)
	}
	if err != nil {
		return err
	}
	return s.noteServer(tx, server, nil, nil)
}

// forgetNAT frees what is kept of a server that is forgotten.
func forgetNAT(tx store.Tx, server string) error {
	n, found, err := store.Lookup[uint32](tx, natIndexPrefix+server)
	if err == nil && found {
		err = tx.Delete(indexedKey(n))
	}
	for _, prefix := range []string{natIndexPrefix, natDownPrefix, natUpPrefix, natCutPrefix} {
		if err == nil {
			err = tx.Delete(prefix + server)
		}
	}
	if err != nil {
		return err
	}
	return journal.Clear(tx, api.ServerNATSet(server))
}
