package headnode

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/inventory"
	"nereid/headnode/journal"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// An instance's NIC that a server reports, and that it was not told to remove, stays in
// its VNI's map although the head node does not know it: a head node that was restored
// from a backup cuts no instance off. It stays until the server reports it no more: the
// NIC was adopted, or deleted.
//
//	kept/nic/<server>/<owner>/<VNI>/<MAC>  its addresses that are in the map for that
//	kept/seen/<server>                     digest of what these are from
//	kept/by/<owner>/<server>               the server has NICs of the account that are kept
//
// An account has its ways out also for them: else a gateway server would hear that it is
// none of the account's.
//
// What a server says gives it no address of others: neither one that another NIC has,
// nor a gateway's, nor one of another account's VNI. A NIC that is given the address
// later takes its place in the map.
const (
	keptPrefix     = "kept/nic/"
	keptSeenPrefix = "kept/seen/"
	keptByPrefix   = "kept/by/"
)

// maxKept is how many NICs of a server are kept in maps.
const maxKept = 4096

// keptNIC is a NIC that is kept in its map.
type keptNIC struct {
	owner string
	vni   uint32
	mac   string
	ips   []string
}

func (k keptNIC) key(server string) string {
	return keptKey(server, k.owner, k.vni) + k.mac
}

func keptKey(server, owner string, vni uint32) string {
	return fmt.Sprintf("%s%s/%s/%06x/", keptPrefix, server, owner, vni)
}

// keptOn are the NICs of a server that are kept in maps, by key.
func keptOn(tx store.Tx, server string) (map[string]keptNIC, error) {
	out := map[string]keptNIC{}
	prefix := keptPrefix + server + "/"
	for e, err := range store.Each[[]string](tx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("read kept NICs of server %s: %w", server, err)
		}
		owner, rest, _ := strings.Cut(e.Key[len(prefix):], "/")
		text, mac, _ := strings.Cut(rest, "/")
		vni, err := strconv.ParseUint(text, 16, 24)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", e.Key, err)
		}
		out[e.Key] = keptNIC{owner: owner, vni: uint32(vni), mac: mac, ips: e.Value}
	}
	return out, nil
}

// keepMapped keeps the NICs that a server reports, and is not told of, in their maps,
// and no others.
func (s *Server) keepMapped(tx store.Tx, server string, reported []api.UnexpectedNIC) error {
	digest := ""
	if len(reported) > 0 {
		text, err := json.Marshal(reported)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		digest = hex.EncodeToString(sum[:])
	}
	seen, _, err := store.Lookup[string](tx, keptSeenPrefix+server)
	if err != nil || seen == digest {
		return err
	}
	had, err := keptOn(tx, server)
	if err != nil {
		return err
	}
	under, err := underlay(tx, server)
	if err != nil {
		return err
	}
	wanted := map[string]keptNIC{}
	for _, u := range reported[:min(len(reported), maxKept)] {
		k, err := keeps(tx, server, u)
		if err != nil {
			return err
		}
		if len(k.ips) > 0 && under.IsValid() {
			wanted[k.key(server)] = k
		}
	}
	change := false
	for key, k := range had {
		if w, still := wanted[key]; still && slices.Equal(w.ips, k.ips) {
			continue
		}
		change = true
		if err := dropKept(tx, k, wanted[key].ips); err != nil {
			return err
		}
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	for key, k := range wanted {
		if slices.Equal(had[key].ips, k.ips) {
			continue
		}
		change = true
		if err := k.remap(tx, under); err != nil {
			return err
		}
		if err := store.Put(tx, key, k.ips); err != nil {
			return err
		}
		s.log.Warn("a NIC that the head node does not know stays in its map", "server", server, "mac", k.mac, "vni", k.vni, "addresses", strings.Join(k.ips, " "))
	}
	if digest == "" {
		err = tx.Delete(keptSeenPrefix + server)
	} else {
		err = store.Put(tx, keptSeenPrefix+server, digest)
	}
	if err != nil || !change {
		return err
	}
	owners := map[string]bool{}
	for _, some := range []map[string]keptNIC{had, wanted} {
		for _, k := range some {
			owners[k.owner] = true
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(owners)) {
		if err := noteKept(tx, server, owner); err != nil {
			return err
		}
		if err := s.leadOutAt(tx, owner, server); err != nil {
			return err
		}
	}
	return touch(tx, server) // with its spec it asks again for the sets that it was refused
}

// noteKept notes whether an account has NICs of a server that are kept.
func noteKept(tx store.Tx, server, owner string) error {
	key := keptByPrefix + owner + "/" + server
	has, err := store.HasBelow(tx, keptPrefix+server+"/"+owner+"/")
	if err != nil {
		return err
	}
	if has {
		return store.Put(tx, key, struct{}{})
	}
	return tx.Delete(key)
}

// keeps says what of a NIC that a server reports is kept in a map.
func keeps(tx store.Tx, server string, u api.UnexpectedNIC) (k keptNIC, err error) {
	hw, err := net.ParseMAC(u.MAC)
	owner, isUUID := inventory.ParseUUID(u.Owner)
	if err != nil || len(hw) != 6 || !isUUID || u.VNI == 0 {
		return k, nil
	}
	k = keptNIC{owner: owner, vni: u.VNI, mac: hw.String()}
	of, transit, used, err := fabric.OwnerOf(tx, u.VNI)
	if err != nil || !used || transit || of != owner {
		return k, err
	}
	if _, err := networks.GetNIC(tx, k.mac); err == nil || !isProblem(err, api.CodeNotFound) && !isProblem(err, api.CodeInvalid) {
		return k, err // where it is known to be, the map has it
	} else if isProblem(err, api.CodeInvalid) {
		return k, nil
	}
	gone, err := journal.IsGone(tx, api.PortSet(server), api.PortKey(k.mac, u.Instance))
	if err != nil || gone {
		return k, err
	}
	nets, err := networks.NetworksOfVNI(tx, u.VNI)
	if err != nil {
		return k, err
	}
	for _, text := range u.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		ip := p.Addr().Unmap()
		free, err := unclaimed(tx, nets, u.VNI, ip, k.mac)
		if err != nil {
			return k, err
		}
		if free {
			k.ips = append(k.ips, ip.String())
		}
	}
	return k, nil
}

// unclaimed says whether an address of a VNI is nobody's but that of a MAC.
func unclaimed(tx store.Tx, nets []api.Network, vni uint32, ip netip.Addr, mac string) (bool, error) {
	for _, n := range nets {
		in, host := networks.HasHost(n, ip)
		if !in {
			continue
		}
		if !host {
			return false, nil
		}
		a, err := networks.GetIP(tx, n.UUID, ip.String())
		if err != nil || a.MAC != "" {
			return false, err
		}
	}
	e, found, err := fabric.ByIP(tx, vni, ip)
	return !found || e.MAC == mac, err
}

// remap puts a kept NIC's addresses behind an underlay address.
func (k keptNIC) remap(tx store.Tx, under netip.Addr) error {
	var entries []api.MapEntry
	for _, ip := range k.ips {
		entries = append(entries, api.MapEntry{IP: ip, MAC: k.mac, Underlay: under.String()})
	}
	_, err := fabric.Put(tx, k.vni, entries...)
	if isProblem(err, api.CodeInvalid) || isProblem(err, api.CodeNotFound) {
		return nil // what a server says makes no change of its own fail
	}
	return err
}

// dropKept takes a NIC out of its map that is not kept any more, but for addresses that
// are still kept, or that are another's or its own by now.
func dropKept(tx store.Tx, k keptNIC, still []string) error {
	nic, err := networks.GetNIC(tx, k.mac)
	if err != nil && !isProblem(err, api.CodeNotFound) {
		return err
	}
	var gone []netip.Addr
	for _, text := range k.ips {
		ip, err := netip.ParseAddr(text)
		if err != nil || slices.Contains(still, text) ||
			slices.ContainsFunc(nic.Addresses, func(a api.NICAddress) bool { return nic.VNI == k.vni && a.IP == text }) {
			continue
		}
		e, found, err := fabric.ByIP(tx, k.vni, ip)
		if err != nil {
			return err
		}
		if found && e.MAC == k.mac {
			gone = append(gone, ip)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if _, err = fabric.Delete(tx, k.vni, gone...); isProblem(err, api.CodeNotFound) {
		return nil // with the VNI its map went
	}
	return err
}

// rehomeKept is rehome for the NICs of a server that are kept in maps.
func rehomeKept(tx store.Tx, server string, under netip.Addr) error {
	all, err := keptOn(tx, server)
	for key, k := range all {
		switch {
		case err != nil:
			return err
		case under.IsValid():
			err = k.remap(tx, under)
		default:
			if err = dropKept(tx, k, nil); err == nil {
				err = tx.Delete(key)
			}
			if err == nil {
				err = noteKept(tx, server, k.owner)
			}
			if err == nil {
				err = tx.Delete(keptSeenPrefix + server) // looked at again with the next report
			}
		}
	}
	return err
}

// hostsVNI says whether an account has a NIC on a server and a VNI, known or kept.
func hostsVNI(tx store.Tx, server, owner string, vni uint32) (bool, error) {
	has, err := networks.HostsVNI(tx, server, owner, vni)
	if err != nil || has {
		return has, err
	}
	return store.HasBelow(tx, keptKey(server, owner, vni))
}

// hostsAccount says whether an account has NICs on its fabrics on a server, known or kept.
func hostsAccount(tx store.Tx, server, owner string) (bool, error) {
	has, err := networks.HostsAccount(tx, server, owner)
	if err != nil || has {
		return has, err
	}
	return store.HasBelow(tx, keptPrefix+server+"/"+owner+"/")
}

// routes says whether an account has a router on a server: see accountsAt. It costs a few
// reads, however much is there.
func routes(tx store.Tx, server, owner string) (bool, error) {
	has, err := hostsAccount(tx, server, owner)
	if err != nil || has {
		return has, err
	}
	return isGateway(tx, server, owner)
}
