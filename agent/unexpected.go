package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"nereid/api"
)

// keepNICs makes of the spec that the head node sent the one that is applied. before
// is the one that was applied until now. A NIC of before that next names neither among
// its ports nor among those that are gone is kept, with its last firewall rules and the
// NIC tag, bond, underlay, VNI and router that it needs, where next says nothing of
// them. Kept in the result names the NICs that next does not.
func keepNICs(before, next *api.NetworkSpec) *api.NetworkSpec {
	if next == nil || before == nil {
		return cmp.Or(next, before) // a head node that says nothing changes nothing
	}
	s := *next
	s.Kept = nil
	k := keeper{before: before, s: &s, macs: map[string]bool{}}
	named := make(map[string]bool, len(next.Ports))
	for _, p := range next.Ports {
		named[strings.ToLower(p.MAC)] = true
	}
	for _, p := range before.Ports {
		mac := strings.ToLower(p.MAC)
		gone := func(g api.GoneNIC) bool {
			return strings.EqualFold(g.MAC, mac) && (g.Instance == "" || g.Instance == p.Instance)
		}
		if !named[mac] && !slices.ContainsFunc(next.Gone, gone) {
			k.macs[mac] = true
			k.ports = append(k.ports, p)
		}
	}
	if len(k.ports) == 0 {
		return &s
	}
	s.Kept = &api.Kept{}
	for _, p := range k.ports {
		s.Kept.NICs = append(s.Kept.NICs, p.MAC)
		if p.VNI == 0 {
			k.tag(p.Tag)
		} else {
			k.fabric(p)
		}
	}
	s.Ports = slices.Concat(s.Ports, k.ports)
	k.rules()
	slices.SortFunc(s.VNIs, func(a, b api.VNISpec) int { return cmp.Compare(a.VNI, b.VNI) })
	slices.SortFunc(s.Routers, func(a, b api.RouterSpec) int { return cmp.Compare(a.Owner, b.Owner) })
	slices.SortFunc(s.Tags, func(a, b api.TagSpec) int { return cmp.Compare(a.Name, b.Name) })
	return &s
}

// keeper adds what kept NICs need to a spec. It replaces lists rather than changing
// them.
type keeper struct {
	before, s *api.NetworkSpec
	ports     []api.PortSpec
	macs      map[string]bool
}

// find is the element of a list that is what is looked for.
func find[T any](list []T, is func(T) bool) (T, bool) {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i], true
	}
	var none T
	return none, false
}

// tag keeps a NIC tag and the bond that provides it.
func (k *keeper) tag(name string) {
	is := func(t api.TagSpec) bool { return t.Name == name }
	if slices.ContainsFunc(k.s.Tags, is) {
		return
	}
	t, was := find(k.before.Tags, is)
	if !was {
		return
	}
	k.s.Tags = slices.Concat(k.s.Tags, []api.TagSpec{t})
	if t.Bond != "" {
		k.bond(t.Bond)
	}
	// NICs that are in a bond provide nothing themselves.
	k.s.Tags = slices.Clone(k.s.Tags)
	for i, t := range k.s.Tags {
		if b, in := find(k.s.Bonds, func(b api.BondSpec) bool { return hasMAC(b, t.MAC) }); in && t.MAC != "" {
			k.s.Tags[i].MAC, k.s.Tags[i].Bond = "", b.Name
		}
	}
}

func hasMAC(b api.BondSpec, mac string) bool {
	return slices.ContainsFunc(b.MACs, func(m string) bool { return strings.EqualFold(m, mac) })
}

// bond keeps a bond. Where the spec has its NICs in another one, that one provides the
// NIC tags of this.
func (k *keeper) bond(name string) {
	is := func(b api.BondSpec) bool { return b.Name == name }
	if slices.ContainsFunc(k.s.Bonds, is) {
		return
	}
	b, was := find(k.before.Bonds, is)
	if !was {
		return
	}
	if other, taken := find(k.s.Bonds, func(o api.BondSpec) bool {
		return slices.ContainsFunc(b.MACs, func(m string) bool { return hasMAC(o, m) })
	}); taken {
		k.s.Tags = slices.Clone(k.s.Tags)
		for i, t := range k.s.Tags {
			if t.Bond == name {
				k.s.Tags[i].Bond = other.Name
			}
		}
		return
	}
	k.s.Bonds = slices.Concat(k.s.Bonds, []api.BondSpec{b})
}

// fabric keeps what a NIC on a VNI needs: the underlay, the VNI and the account's
// router, with its NAT.
func (k *keeper) fabric(p api.PortSpec) {
	if k.s.Underlay == nil && k.before.Underlay != nil {
		k.s.Underlay = k.before.Underlay
		k.tag(k.s.Underlay.Tag)
	}
	k.vni(p.VNI)
	r, was := find(k.before.Routers, func(r api.RouterSpec) bool { return r.Owner == p.Owner })
	if !was {
		return
	}
	i := slices.IndexFunc(k.s.Routers, func(r api.RouterSpec) bool { return r.Owner == p.Owner })
	if i < 0 {
		k.s.Routers = slices.Concat(k.s.Routers, []api.RouterSpec{r})
		for _, n := range r.Networks {
			k.vni(n.VNI)
		}
		k.nat(r.NAT)
		return
	}
	on := func(n api.RouterNetwork) bool { return n.VNI == p.VNI }
	k.s.Routers = slices.Clone(k.s.Routers)
	now := &k.s.Routers[i]
	if !slices.ContainsFunc(now.Networks, on) {
		mine := slices.DeleteFunc(slices.Clone(r.Networks), func(n api.RouterNetwork) bool { return !on(n) })
		now.Networks = slices.Concat(now.Networks, mine)
	}
	// A head node that knows no NIC of an account gives it no way out.
	if now.NAT == nil && slices.ContainsFunc(now.Networks, func(n api.RouterNetwork) bool { return on(n) && n.InternetNAT }) {
		now.NAT = r.NAT
		k.nat(r.NAT)
	}
}

// nat keeps what a router's NAT goes over.
func (k *keeper) nat(n *api.NATSpec) {
	if n != nil && n.VNI != 0 {
		k.vni(n.VNI)
	}
	if n != nil && n.Tag != "" {
		k.tag(n.Tag)
	}
}

func (k *keeper) vni(vni uint32) {
	is := func(v api.VNISpec) bool { return v.VNI == vni }
	v, was := find(k.before.VNIs, is)
	if !was || slices.ContainsFunc(k.s.VNIs, is) {
		return
	}
	k.s.VNIs = slices.Concat(k.s.VNIs, []api.VNISpec{v})
	k.s.Kept.VNIs = append(k.s.Kept.VNIs, vni)
}

// specName is what of a spec has to be kept: its revision, and where it has NICs that no
// set names any more, these and their last rules, which are nowhere else.
func specName(s api.Spec) string {
	n := s.Network
	if n == nil || n.Kept == nil {
		return s.Revision
	}
	sum := sha256.New()
	_ = json.NewEncoder(sum).Encode(n.Kept) // strings and numbers: nothing that JSON lacks
	for _, r := range n.Firewall.Rules {
		if slices.ContainsFunc(r.Ports, func(mac string) bool { return slices.Contains(n.Kept.NICs, mac) }) {
			_ = json.NewEncoder(sum).Encode(r)
		}
	}
	return s.Revision + " with " + hex.EncodeToString(sum.Sum(nil)[:8])
}

// keepRules adds to the rules of a spec those of before that are about some ports, by MAC
// in lower case.
func keepRules(before, s *api.NetworkSpec, macs map[string]bool) {
	k := keeper{before: before, s: s, macs: macs}
	k.rules()
}

// rules keeps the rules of before that are about kept NICs, for these alone, with the
// addresses that they named then.
func (k *keeper) rules() {
	members := make(map[string][]string, len(k.before.Firewall.Sets))
	for _, a := range k.before.Firewall.Sets {
		members[a.Name] = a.Members
	}
	k.s.Firewall.Sets, k.s.Firewall.Rules = slices.Clone(k.s.Firewall.Sets), slices.Clone(k.s.Firewall.Rules)
	have := map[string]bool{}
	for _, a := range k.s.Firewall.Sets {
		have[a.Name] = true
	}
	for _, r := range k.before.Firewall.Rules {
		ports := slices.DeleteFunc(slices.Clone(r.Ports), func(m string) bool { return !k.macs[strings.ToLower(m)] })
		if len(ports) == 0 {
			continue
		}
		r.Ports, r.Peers = ports, slices.Clone(r.Peers)
		for i, name := range r.Peers {
			// By its members: the same name may stand for others by now.
			sum := sha256.Sum256([]byte(strings.Join(members[name], " ")))
			kept := "kept_" + hex.EncodeToString(sum[:12])
			if !have[kept] {
				have[kept] = true
				k.s.Firewall.Sets = append(k.s.Firewall.Sets, api.AddressSet{Name: kept, Members: members[name]})
			}
			r.Peers[i] = kept
		}
		k.s.Firewall.Rules = append(k.s.Firewall.Rules, r)
	}
}
