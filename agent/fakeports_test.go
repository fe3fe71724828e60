package agent

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"nereid/api"
)

// portsOf is the set of ports of a fake head node, in which a spec says what the ports
// are. A port that a later spec neither has nor names as gone was forgotten: the head
// node was restored from a backup, and begins another epoch.
type portsOf struct {
	epoch, version int
	from           *api.NetworkSpec // of the spec that it is made of
	has            map[string]portEntry
	parts          int  // entries of a part; 0: all
	mute           bool // a head node without sets
}

type portEntry struct {
	version int
	spec    api.PortSpec
	gone    bool
}

// bring makes the set what a spec says.
func (p *portsOf) bring(n *api.NetworkSpec) {
	if p.from == n || n == nil {
		return
	}
	p.from = n
	next := map[string]portEntry{}
	for _, s := range n.Ports {
		next[api.PortKey(s.MAC, s.Instance)] = portEntry{spec: s}
	}
	for _, g := range n.Gone {
		next[api.PortKey(g.MAC, g.Instance)] = portEntry{gone: true}
	}
	for _, key := range slices.Sorted(maps.Keys(p.has)) {
		if _, still := next[key]; !still && !p.has[key].gone {
			p.epoch++
			p.version, p.has = 0, nil
			break
		}
	}
	for _, key := range slices.Sorted(maps.Keys(next)) {
		e := next[key]
		if was, there := p.has[key]; there && was.gone == e.gone && reflect.DeepEqual(was.spec, e.spec) {
			e.version = was.version
		} else {
			p.version++
			e.version = p.version
		}
		next[key] = e
	}
	p.has = next
}

// delta is what a follower lacks; nil: nothing.
func (p *portsOf) delta(f api.Follow) *api.Delta {
	epoch := fmt.Sprint("e", p.epoch)
	d := api.Delta{Set: f.Set, Epoch: epoch, Version: uint64(p.version), Full: f.Epoch != epoch}
	if !d.Full && f.Since == d.Version && f.Toward == 0 {
		return nil
	}
	if d.Full {
		f.Since = 0
	}
	keys := slices.SortedFunc(maps.Keys(p.has), func(a, b string) int { return p.has[a].version - p.has[b].version })
	n := 0
	for _, key := range keys {
		e := p.has[key]
		if uint64(e.version) <= f.Since {
			continue
		}
		if n++; p.parts > 0 && n > p.parts {
			d.Toward = uint64(p.version)
			break
		}
		if d.Version = uint64(e.version); e.gone {
			d.Gone = append(d.Gone, key)
			continue
		}
		b, _ := json.Marshal(e.spec)
		d.Put = append(d.Put, b)
	}
	return &d
}

// mapDelta is a map as a sync's answer has it.
func mapDelta(m api.FabricMap) api.Delta {
	d := api.Delta{Set: api.MapSet(m.VNI), Epoch: m.Epoch, Version: m.Version, Full: m.Full}
	for _, e := range m.Entries {
		if e.Deleted {
			d.Gone = append(d.Gone, e.IP)
			continue
		}
		b, _ := json.Marshal(e)
		d.Put = append(d.Put, b)
	}
	return d
}

// followsMaps are the VNIs whose maps a sync follows.
func followsMaps(in api.SyncRequest) (vnis []uint32) {
	for _, f := range in.Follow {
		if vni, isMap := api.VNIOfMap(f.Set); isMap {
			vnis = append(vnis, vni)
		}
	}
	return vnis
}

// refuses are the maps of a sync that may not be followed. It is called with mu held.
func (h *fakeHead) refuses(in api.SyncRequest) (out []api.RefusedSet) {
	for _, vni := range followsMaps(in) {
		if h.refused[vni] {
			out = append(out, api.RefusedSet{Set: api.MapSet(vni), Why: api.Problem{Status: 403, Code: api.CodeForbidden, Title: "not yours"}})
		}
	}
	for _, f := range in.Follow {
		if h.refusedSets[f.Set] || h.strange(f.Set) {
			out = append(out, api.RefusedSet{Set: f.Set, Why: api.Problem{Status: 403, Code: api.CodeForbidden, Title: "not yours"}})
		}
	}
	return out
}

// deltas is what a sync's sender lacks. It is called with mu held.
func (h *fakeHead) deltas(in api.SyncRequest) (out []api.Delta) {
	if h.spec != nil {
		h.ports.bring(h.spec.Network)
	}
	for _, f := range in.Follow {
		if vni, isMap := api.VNIOfMap(f.Set); isMap {
			for _, m := range h.maps {
				if m.VNI == vni && !h.refused[vni] && (m.Epoch != f.Epoch || m.Version != f.Since) {
					out = append(out, mapDelta(m))
				}
			}
			continue
		}
		if s := h.sets[f.Set]; s != nil {
			if d := s.delta(f); d != nil {
				out = append(out, *d)
			}
			continue
		}
		if isCopy(f.Set) {
			if d := h.accountDelta(f); d != nil && !h.ports.mute && !h.late[f.Set] && !h.refusedSets[f.Set] && !h.strange(f.Set) {
				out = append(out, *d)
			}
			continue
		}
		if f.Set == api.InstanceSet(testUUID) || f.Set == api.ImageSet(testUUID) || f.Set == api.SnapshotSet(testUUID) {
			continue
		}
		if f.Set != api.PortSet(testUUID) {
			h.t.Errorf("asks for set %q", f.Set)
		}
		if d := h.ports.delta(f); d != nil && !h.ports.mute {
			out = append(out, *d)
		}
	}
	return out
}

// accountDelta is what a follower lacks of a set of an account: rules and addresses that
// the spec says, as global ones, and what its VNIs and routers come from. It is a snapshot
// each time.
func (h *fakeHead) accountDelta(f api.Follow) *api.Delta {
	values := map[string]any{}
	if h.spec != nil && h.spec.Network != nil {
		fabricValues(h.spec.Network, f.Set, values)
		if f.Set == api.RuleSet("") {
			for _, r := range globalRules(h.spec.Network) {
				values[r.UUID] = r
			}
		}
		for _, s := range h.spec.Network.Firewall.Sets {
			for _, ip := range s.Members {
				if key := api.MemberKey(ip, "m"); f.Set == addressSet(s.Name) {
					values[key] = key
				}
			}
		}
	}
	d := api.Delta{Set: f.Set, Full: true, Version: 1}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		b, _ := json.Marshal(values[key])
		d.Put = append(d.Put, b)
	}
	d.Epoch = fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, d.Put)))[:16]
	if d.Epoch == f.Epoch {
		return nil
	}
	return &d
}

func addressSet(name string) string { return api.AccountSet("", "addresses/"+name) }

// globalRules are rules that come to what a spec says of its ports.
func globalRules(n *api.NetworkSpec) (out []api.RuleSpec) {
	for _, e := range n.Firewall.Rules {
		var named []api.RuleTarget
		for _, mac := range e.Ports {
			for _, p := range n.Ports {
				if p.MAC == mac {
					named = append(named, api.RuleTarget{Kind: api.TargetVM, Value: p.Instance})
				}
			}
		}
		any := []api.RuleTarget{{Kind: api.TargetAny}}
		var peers []api.RulePeers
		for _, name := range e.Peers {
			any = nil
			peers = append(peers, api.RulePeers{Name: name, Set: addressSet(name)})
		}
		r := api.RuleSpec{UUID: e.Rule, Log: e.Log, ParsedRule: api.ParsedRule{From: any, To: named, Action: e.Action, Protocol: e.Protocol, Ports: e.Dst, Types: e.Types, Priority: e.Priority}, FromPeers: peers}
		if e.Direction == "out" {
			r.From, r.To, r.FromPeers, r.ToPeers = named, any, nil, peers
		}
		out = append(out, r)
	}
	return out
}

// strange says whether a set is of an account that has no VNI and no router in the spec. It
// is called with mu held.
func (h *fakeHead) strange(set string) bool {
	owner, _, _ := api.AccountOfSet(set)
	if h.spec == nil || h.spec.Network == nil || set != api.NetworkSet(owner) && set != api.NATSet(owner) {
		return false
	}
	n := h.spec.Network
	return !slices.ContainsFunc(n.VNIs, func(v api.VNISpec) bool { return v.Owner == owner }) &&
		!slices.ContainsFunc(n.Routers, func(r api.RouterSpec) bool { return r.Owner == owner })
}

// fabricValues adds what a set has of which the VNIs and routers of a spec come.
func fabricValues(n *api.NetworkSpec, set string, values map[string]any) {
	owner, _, _ := api.AccountOfSet(set)
	on := map[uint32]bool{} // VNIs with a gateway, and the transit VNI
	for _, r := range n.Routers {
		hosted := slices.ContainsFunc(n.Ports, func(p api.PortSpec) bool { return p.Owner == r.Owner && p.VNI != 0 })
		if set == api.ServerNATSet(testUUID) && !hosted {
			values[r.Owner] = api.ServerNAT{UUID: r.Owner}
		}
		for i, on1 := range r.Networks {
			on[on1.VNI] = true
			if set == api.NetworkSet(r.Owner) {
				key := fmt.Sprint("n", on1.VNI, "-", i)
				values[key] = api.AccountNetwork{UUID: key, MTU: mtuOf(n, on1.VNI), RouterNetwork: on1}
			}
		}
		if r.NAT == nil {
			continue
		}
		on[r.NAT.VNI] = true
		self := api.ServerNAT{UUID: api.SelfKey, Transit: r.NAT.Transit}
		if r.NAT.Tag != "" {
			self.External = &api.External{Tag: r.NAT.Tag, VLAN: r.NAT.VLAN, Address: r.NAT.Address, Gateway: r.NAT.Gateway}
		}
		if set == api.ServerNATSet(testUUID) {
			values[self.UUID] = self
		}
		if set == api.NATSet(r.Owner) {
			g := api.AccountNAT{UUID: api.GatewaysKey, VNI: r.NAT.VNI}
			for _, via := range r.NAT.Via {
				g.Gateways = append(g.Gateways, api.Gateway{Address: via})
			}
			values[g.UUID] = g
		}
	}
	for _, v := range n.VNIs {
		if set == api.NetworkSet(owner) && v.Owner == owner && !on[v.VNI] {
			key := fmt.Sprint("n", v.VNI)
			values[key] = api.AccountNetwork{UUID: key, MTU: v.MTU, RouterNetwork: api.RouterNetwork{VNI: v.VNI}}
		}
	}
}

func mtuOf(n *api.NetworkSpec, vni uint32) int {
	for _, v := range n.VNIs {
		if v.VNI == vni {
			return v.MTU
		}
	}
	return 0
}
