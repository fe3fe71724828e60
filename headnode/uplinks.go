package headnode

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// ways is what the NAT of all accounts has in common, read once.
type ways struct {
	network string   // the NAT network, or pool; empty: there is no NAT
	tags    []string // of it
	can     []string // servers that can do NAT
	under   map[string]netip.Addr
	ready   map[string]bool // servers that have an external address
	touch   []string        // servers that have something to do
}

// natWays reads which servers can do NAT. One whose link to the external network is
// down cannot, unless that is so on all of them.
func natWays(tx store.Tx) (*ways, error) {
	w := &ways{under: map[string]netip.Addr{}, ready: map[string]bool{}}
	settings, err := networks.GetSettings(tx)
	if err != nil || settings.NATNetwork == "" {
		return w, err
	}
	w.network = settings.NATNetwork
	if w.tags, err = natTags(tx, w.network); err != nil {
		return w, err
	}
	down := map[string][]string{} // of all servers, for few have any
	for e, err := range store.Each[[]string](tx, natDownPrefix) {
		if err != nil {
			return w, err
		}
		down[e.Key[len(natDownPrefix):]] = e.Value
	}
	var cut []string
	for _, tag := range w.tags {
		servers, err := networks.ServersProviding(tx, tag)
		if err != nil {
			return w, err
		}
		for _, server := range servers {
			reached, err := networks.HasUnderlay(tx, server)
			switch {
			case err != nil:
				return w, err
			case !reached:
			case slices.Contains(down[server], tag):
				cut = append(cut, server)
			default:
				w.can = append(w.can, server)
			}
		}
	}
	if len(w.can) == 0 {
		w.can = cut
	}
	slices.Sort(w.can)
	w.can = slices.Compact(w.can)
	return w, nil
}

// underlay is a server's address on the underlay, read once.
func (w *ways) underlay(tx store.Tx, server string) (netip.Addr, error) {
	if a, known := w.under[server]; known {
		return a, nil
	}
	a, err := underlay(tx, server)
	w.under[server] = a
	return a, err
}

// servers are those with NICs, known or kept, of an account that has a network with internet_nat;
// none when NAT is not set up.
func (w *ways) servers(tx store.Tx, owner string) ([]string, error) {
	if w.network == "" {
		return nil, nil
	}
	has, err := hasNAT(tx, owner)
	if err != nil || !has {
		return nil, err
	}
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{Owner: owner}, "", 0)
	if err != nil {
		return nil, err
	}
	here, err := keptServers(tx, owner)
	if err != nil {
		return nil, err
	}
	for _, n := range nics {
		if n.VNI != 0 && n.Server != "" {
			here = append(here, n.Server)
		}
	}
	slices.Sort(here)
	return slices.Compact(here), nil
}

// hasNAT says whether an account has a network with internet_nat.
func hasNAT(tx store.Tx, owner string) (bool, error) {
	nets, err := networks.FabricNetworks(tx, owner)
	return slices.ContainsFunc(nets, func(n api.Network) bool { return n.InternetNAT && n.Gateway != "" }), err
}

// noteLinks takes in which NIC tags of a server have no link. Accounts that had, or
// would have, the server among their gateways are given others, and those with NICs
// where NAT begins or ends another way out.
func (s *Server) noteLinks(tx store.Tx, server string, down []string) error {
	was, _, err := store.Lookup[[]string](tx, natDownPrefix+server)
	if err != nil || slices.Equal(was, down) {
		return err
	}
	before, err := natWays(tx)
	if err != nil {
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
	w, err := natWays(tx)
	if err != nil || slices.Equal(before.can, w.can) {
		return err
	}
	owners, err := misled(tx, w)
	if err != nil {
		return err
	}
	// Others than this one are among them when the last link goes or the first comes.
	changed := slices.DeleteFunc(slices.Concat(before.can, w.can), func(server string) bool {
		return slices.Contains(before.can, server) && slices.Contains(w.can, server)
	})
	for _, server := range changed {
		nics, err := networks.NICsOfServer(tx, server)
		if err != nil {
			return err
		}
		for _, n := range nics {
			if n.VNI != 0 {
				owners[n.Owner] = true
			}
		}
		kept, err := keptOn(tx, server)
		if err != nil {
			return err
		}
		for _, k := range kept {
			owners[k.owner] = true
		}
	}
	if err := s.renatEach(tx, slices.Sorted(maps.Keys(owners))...); err != nil {
		return err
	}
	// One may be the gateway of nobody, and do NAT for its own instances alone.
	return touch(tx, changed...)
}

// misled are the accounts with other gateways than they should have now.
func misled(tx store.Tx, w *ways) (map[string]bool, error) {
	have := map[string][]string{}
	for it, err := range tx.Scan(natViaPrefix, "") {
		if err != nil {
			return nil, err
		}
		owner, server, _ := strings.Cut(it.Key[len(natViaPrefix):], "/")
		have[owner] = append(have[owner], server)
	}
	out := map[string]bool{}
	for owner, servers := range have {
		should := chooseGateways(owner, w.can)
		slices.Sort(should)
		if !slices.Equal(servers, should) { // the scan was in order
			out[owner] = true
		}
	}
	return out, nil
}
