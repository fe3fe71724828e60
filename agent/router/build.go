package router

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
)

// Account is what a server's VNIs and router of an account are computed from.
type Account struct {
	Owner    string
	Networks []api.AccountNetwork // all of the account's fabrics
	NAT      []api.AccountNAT     // in the order in which forwards are to be
	Hosts    []uint32             // VNIs that NICs of the account are on here
}

// defaultMTU is what no networks carry.
const defaultMTU = 1500

// Build says which VNIs a server takes part in, by number, and which routers it has, by
// owner: for each account the VNI of each of its networks with a gateway, so that traffic
// between them is routed where it begins, those of its NICs here, and the transit VNI
// where NAT goes over that. self is what the server has to do with NAT. The same facts give
// the same result.
func Build(self api.ServerNAT, accounts []Account) (vnis []api.VNISpec, routers []api.RouterSpec) {
	for _, a := range accounts {
		r := api.RouterSpec{Owner: a.Owner, NAT: natOf(self, a)}
		mtus := map[uint32]int{}
		least := defaultMTU
		for i, n := range a.Networks {
			if i == 0 || n.MTU < least {
				least = n.MTU
			}
			if n.Gateway == "" && !slices.Contains(a.Hosts, n.VNI) {
				continue
			}
			if mtu, there := mtus[n.VNI]; !there || n.MTU < mtu {
				mtus[n.VNI] = n.MTU
			}
			if n.Gateway != "" {
				r.Networks = append(r.Networks, n.RouterNetwork)
			}
		}
		if r.NAT != nil && r.NAT.VNI != 0 {
			mtus[r.NAT.VNI] = least
		}
		for vni, mtu := range mtus {
			vnis = append(vnis, api.VNISpec{VNI: vni, Owner: a.Owner, MTU: mtu})
		}
		if len(r.Networks) > 0 {
			slices.SortFunc(r.Networks, func(a, b api.RouterNetwork) int {
				return cmp.Or(cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Gateway, b.Gateway))
			})
			routers = append(routers, r)
		}
	}
	slices.SortFunc(vnis, func(a, b api.VNISpec) int { return cmp.Compare(a.VNI, b.VNI) })
	slices.SortFunc(routers, func(a, b api.RouterSpec) int { return cmp.Compare(a.Owner, b.Owner) })
	return vnis, routers
}

// natOf is the NAT of an account's router; nil: it has none.
func natOf(self api.ServerNAT, a Account) *api.NATSpec {
	if !slices.ContainsFunc(a.Networks, func(n api.AccountNetwork) bool { return n.InternetNAT && n.Gateway != "" }) {
		return nil
	}
	var transit api.AccountNAT
	var forwards []api.ForwardSpec
	for _, n := range a.NAT {
		if n.UUID == api.GatewaysKey {
			transit = n
		} else if n.Forward != nil {
			forwards = append(forwards, *n.Forward)
		}
	}
	own, _, _ := strings.Cut(self.Transit, "/")
	var out api.NATSpec
	if e := self.External; e == nil {
		if len(transit.Gateways) == 0 || transit.VNI == 0 || own == "" {
			return nil
		}
		for _, g := range transit.Gateways {
			out.Via = append(out.Via, g.Address)
		}
	} else {
		if e.Address == "" {
			return nil
		}
		out.Tag, out.VLAN, out.Address, out.Gateway = e.Tag, e.VLAN, e.Address, e.Gateway
		gateway := slices.ContainsFunc(transit.Gateways, func(g api.Gateway) bool { return g.Address == own })
		if gateway {
			out.Forwards = forwardsAt(e.Address, forwards)
		}
		// Only gateways, and who is asked by forwards, have to do with other servers.
		if !gateway && len(forwards) == 0 || transit.VNI == 0 || own == "" {
			return &out
		}
	}
	out.VNI, out.Transit = transit.VNI, self.Transit
	return &out
}

// forwardsAt are the forwards of an external address: those of its family.
func forwardsAt(external string, all []api.ForwardSpec) (out []api.PortForward) {
	from, err := netip.ParsePrefix(external)
	if err != nil {
		return nil // addresses are checked when they are given out
	}
	for _, f := range all {
		to, err := netip.ParseAddrPort(f.Internal)
		if err != nil || to.Addr().Is4() != from.Addr().Is4() { // the NAT network was another one
			continue
		}
		out = append(out, api.PortForward{Protocol: f.Protocol, External: netip.AddrPortFrom(from.Addr(), f.Port).String(), Internal: f.Internal})
	}
	return out
}
