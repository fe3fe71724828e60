package headnode

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/journal"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// How an account's networks with internet_nat reach what is outside. A server that
// provides the NIC tag of the NAT network does it itself, with one external address
// for all accounts. For the others there are gatewayCount servers that do, reached
// over the account's transit VNI. Servers hear of it by sets of the journal, where it is
// kept: api.NATSet of accounts, and api.ServerNATSet.
//
//	nat/index/<server>     number of the server's transit address
//	nat/indexed/<number>   the server that has the number
//	nat/down/<server>      NIC tags of the server that have no link
//	nat/up/<server>        it can do NAT
//	nat/cut/<server>       it could, and has no link to the external network
const (
	natIndexPrefix   = "nat/index/"
	natIndexedPrefix = "nat/indexed/"
	natDownPrefix    = "nat/down/"
	natUpPrefix      = "nat/up/"
	natCutPrefix     = "nat/cut/"
	gatewayCount     = 2
)

// transitMAC is the MAC that a router makes of its transit address.
func transitMAC(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// ways is what the ways of all accounts have in common, for one transaction.
type ways struct {
	network string   // the NAT network, or pool; empty: there is no NAT
	can     []string // servers that do NAT, sorted
	under   map[string]netip.Addr
}

// natWays reads what ways have in common: one key for each server that does NAT.
func natWays(tx store.Tx) (*ways, error) {
	w := &ways{under: map[string]netip.Addr{}}
	settings, err := networks.GetSettings(tx)
	if err != nil || settings.NATNetwork == "" {
		return w, err
	}
	w.network = settings.NATNetwork
	if w.can, err = keysBelow(tx, natUpPrefix); err == nil && len(w.can) == 0 {
		w.can, err = keysBelow(tx, natCutPrefix)
	}
	return w, err
}

// keysBelow are the keys with a prefix, which is cut off.
func keysBelow(tx store.Tx, prefix string) (out []string, err error) {
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return nil, err
		}
		out = append(out, it.Key[len(prefix):])
	}
	return out, nil
}

// does says whether a server does NAT.
func (w *ways) does(server string) bool {
	_, does := slices.BinarySearch(w.can, server)
	return does
}

// doesNAT is ways.does for one server. It costs a few reads.
func doesNAT(tx store.Tx, server string) (bool, error) {
	up, err := store.Has(tx, natUpPrefix+server)
	if err != nil || up {
		return up, err
	}
	cut, err := store.Has(tx, natCutPrefix+server)
	if err != nil || !cut {
		return false, err
	}
	some, err := store.HasBelow(tx, natUpPrefix)
	return !some, err
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

// gatewaysOf are an account's gateway servers and its transit VNI, as servers follow it;
// zero: it has none.
func gatewaysOf(tx store.Tx, owner string) (api.AccountNAT, error) {
	return ofSet[api.AccountNAT](tx, api.NATSet(owner), api.GatewaysKey)
}

// selfNAT is what a server has to do with NAT; zero: nothing.
func selfNAT(tx store.Tx, server string) (api.ServerNAT, error) {
	return ofSet[api.ServerNAT](tx, api.ServerNATSet(server), api.SelfKey)
}

// ofSet reads a value of a set; zero: there is none.
func ofSet[T any](tx store.Tx, set, key string) (v T, err error) {
	e, found, err := journal.Get(tx, set, key)
	if err == nil && found {
		err = json.Unmarshal(e.Value, &v)
	}
	if err != nil {
		return v, fmt.Errorf("read %s of set %s: %w", key, set, err)
	}
	return v, nil
}

// putSet writes a value of a set; nil: it has none any more.
func putSet(tx store.Tx, set, key string, value any) error {
	if value == nil {
		_, err := journal.Delete(tx, journal.Set{Name: set}, key)
		return err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s of set %s: %w", key, set, err)
	}
	_, err = journal.Put(tx, journal.Set{Name: set}, key, text)
	return err
}

// isGateway says whether a server is a gateway of an account.
func isGateway(tx store.Tx, server, owner string) (bool, error) {
	_, is, err := journal.Get(tx, api.ServerNATSet(server), owner)
	return is, err
}

// gatewayFor are the accounts that a server is a gateway of.
func gatewayFor(tx store.Tx, server string) (out []string, err error) {
	for e, err := range journal.Live(tx, api.ServerNATSet(server)) {
		if err != nil {
			return nil, err
		}
		if e.Key != api.SelfKey {
			out = append(out, e.Key)
		}
	}
	return out, nil
}

// needsNAT says whether an account has a network with internet_nat that a NAT network is
// behind, and whether it has port forwards.
func (w *ways) needsNAT(tx store.Tx, owner string) (needs, forwards bool, err error) {
	if w.network == "" {
		return false, false, nil
	}
	nets, err := networks.FabricNetworks(tx, owner)
	if err != nil || !slices.ContainsFunc(nets, routedOut) {
		return false, false, err
	}
	forwards, err = store.HasBelow(tx, forwardPrefix+owner+"/")
	return true, forwards, err
}

func routedOut(n api.Network) bool { return n.InternetNAT && n.Gateway != "" }

// serversOf are those with NICs, known or kept, on an account's fabrics.
func serversOf(tx store.Tx, owner string) ([]string, error) {
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{Owner: owner}, "", 0)
	if err != nil {
		return nil, err
	}
	here, err := keysBelow(tx, keptByPrefix+owner+"/")
	for _, n := range nics {
		if n.VNI != 0 && n.Server != "" {
			here = append(here, n.Server)
		}
	}
	slices.Sort(here)
	return slices.Compact(here), err
}

// leadOut brings an account's ways outside up to date: its gateway servers, who is on its
// transit VNI, and the external addresses of the servers that do its NAT.
func (s *Server) leadOut(tx store.Tx, owner string, w *ways) error {
	needs, forwards, err := w.needsNAT(tx, owner)
	if err != nil {
		return err
	}
	had, err := gatewaysOf(tx, owner)
	if err != nil || !needs && had.VNI == 0 {
		return err
	}
	var here, away, gateways []string // away: those that must reach the gateways
	if needs {
		if here, err = serversOf(tx, owner); err != nil {
			return err
		}
	}
	for _, server := range here {
		if w.does(server) {
			if err := s.ensureExternal(tx, server, w); err != nil {
				return err
			}
		}
		if !w.does(server) || forwards { // answers go back by the gateway they came in by
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
		if err := putSet(tx, api.ServerNATSet(server), owner, api.ServerNAT{UUID: owner}); err != nil {
			return err
		}
	}
	for _, g := range had.Gateways {
		if slices.Contains(gateways, g.Server) {
			continue
		}
		if len(away) > 0 {
			also(tx, "server %s is no longer a gateway of account %s, whose connections through it end", nameOf(tx, g.Server), owner)
		}
		if err := putSet(tx, api.ServerNATSet(g.Server), owner, nil); err != nil {
			return err
		}
	}
	reached := slices.Concat(away, gateways)
	slices.Sort(reached)
	vni, err := s.mapTransit(tx, owner, slices.Compact(reached), w)
	if err != nil {
		return err
	}
	if err := putGateways(tx, owner, vni, gateways); err != nil {
		return err
	}
	if len(gateways) == 0 || len(had.Gateways) > 0 && had.Gateways[0].Server == gateways[0] {
		return nil
	}
	return hintGateways(tx, owner)
}

// leadOutOf is leadOut, alone.
func (s *Server) leadOutOf(tx store.Tx, owner string) error {
	w, err := natWays(tx)
	if err != nil {
		return err
	}
	return s.leadOut(tx, owner, w)
}

// putGateways writes which gateway servers an account has, best first.
func putGateways(tx store.Tx, owner string, vni uint32, gateways []string) error {
	if vni == 0 {
		return putSet(tx, api.NATSet(owner), api.GatewaysKey, nil)
	}
	out := api.AccountNAT{UUID: api.GatewaysKey, VNI: vni}
	for _, server := range gateways {
		a, err := transitAddr(tx, server)
		if err != nil {
			return err
		}
		out.Gateways = append(out.Gateways, api.Gateway{Server: server, Address: a.String()})
	}
	return putSet(tx, api.NATSet(owner), api.GatewaysKey, out)
}

// leadOutAt is leadOut after the account's fabrics came to a server, or left it. Unless
// gateways come or go, it costs the same however many servers the account is on.
func (s *Server) leadOutAt(tx store.Tx, owner, server string) error {
	settings, err := networks.GetSettings(tx)
	if err != nil || settings.NATNetwork == "" {
		return err
	}
	w := &ways{network: settings.NATNetwork, under: map[string]netip.Addr{}}
	needs, forwards, err := w.needsNAT(tx, owner)
	if err != nil {
		return err
	}
	here, err := hostsAccount(tx, server, owner)
	if err != nil {
		return err
	}
	own, err := doesNAT(tx, server)
	if err != nil {
		return err
	}
	if needs && here && own {
		if err := s.ensureExternal(tx, server, w); err != nil {
			return err
		}
	}
	g, err := gatewaysOf(tx, owner)
	away := needs && here && (!own || forwards)
	switch {
	case err != nil || !away && g.VNI == 0:
		return err
	case away && len(g.Gateways) > 0:
		return reach(tx, g.VNI, server, w)
	case !away && len(g.Gateways) > 0:
		if last, err := leave(tx, owner, server, g); err != nil || !last {
			return err
		}
	}
	// It may be the first, or the last.
	return s.leadOutOf(tx, owner)
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

// reach puts a server on an account's transit VNI.
func reach(tx store.Tx, vni uint32, server string, w *ways) error {
	e, err := transitEntry(tx, server, w)
	if err != nil || e == nil {
		return err
	}
	_, err = fabric.Put(tx, vni, *e)
	return err
}

// leave takes a server that needs no gateway off an account's transit VNI, unless it is a
// gateway itself. last: there may be none now that does.
func leave(tx store.Tx, owner, server string, g api.AccountNAT) (last bool, err error) {
	is, err := isGateway(tx, server, owner)
	if err == nil && !is {
		var a netip.Addr
		var found bool
		if a, found, err = knownTransit(tx, server); err == nil && found {
			_, err = fabric.Delete(tx, g.VNI, a)
		}
	}
	if err != nil {
		return false, err
	}
	now, _, err := journal.ReadState(tx, fabric.MapSet(g.VNI))
	return now.Live <= len(g.Gateways), err
}

// transitEntry is a server in the maps of transit VNIs; nil: it has no underlay.
func transitEntry(tx store.Tx, server string, w *ways) (*api.MapEntry, error) {
	a, err := transitAddr(tx, server)
	if err != nil {
		return nil, err
	}
	under, err := w.underlay(tx, server)
	if err != nil || !under.IsValid() {
		return nil, err
	}
	return &api.MapEntry{IP: a.String(), MAC: transitMAC(a), Underlay: under.String()}, nil
}

// mapTransit makes the map of an account's transit VNI, which it gives, have these
// servers and no others; without any the VNI is given back, and 0.
func (s *Server) mapTransit(tx store.Tx, owner string, servers []string, w *ways) (vni uint32, err error) {
	vni, found, err := fabric.TransitOf(tx, owner)
	if err == nil && !found {
		if len(servers) == 0 {
			return 0, nil
		}
		vni, err = fabric.Transit(tx, owner, s.now())
	}
	if err != nil {
		return 0, err
	}
	now, err := fabric.Snapshot(tx, vni)
	if err != nil {
		return 0, err
	}
	var put []api.MapEntry
	keep := map[string]bool{}
	for _, server := range servers {
		e, err := transitEntry(tx, server, w)
		if err != nil {
			return 0, err
		}
		if e != nil {
			keep[e.IP] = true
			put = append(put, *e)
		}
	}
	var gone []netip.Addr
	for _, e := range now.Entries {
		if a, err := netip.ParseAddr(e.IP); err == nil && !keep[e.IP] {
			gone = append(gone, a)
		}
	}
	if _, err := fabric.Delete(tx, vni, gone...); err != nil {
		return 0, err
	}
	if len(put) == 0 {
		return 0, fabric.DropTransit(tx, owner, s.now())
	}
	_, err = fabric.Put(tx, vni, put...)
	return vni, err
}
