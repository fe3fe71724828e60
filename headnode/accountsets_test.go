package headnode

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// accountSets are the sets of accounts that a server's agent follows: the global rules,
// those of the accounts whose ports are there, and the addresses that those of them name
// as peers which are about one of the ports; and what routers need.
type accountSets struct {
	at      map[string]api.Follow
	has     map[string]map[string]json.RawMessage // values, by set and key
	refused map[string]bool
}

// follow is what a server asks for with ports, of which the head node knows, and more VNIs of
// accounts, of which it does not.
func (a *accountSets) follow(t testing.TB, server string, ports map[string]api.PortSpec, more map[string][]uint32) []api.Follow {
	t.Helper()
	if a.at == nil {
		a.at, a.has, a.refused = map[string]api.Follow{}, map[string]map[string]json.RawMessage{}, map[string]bool{}
	}
	want := map[string]bool{api.ServerNATSet(server): true}
	for owner := range a.routed(server, ports, more) {
		want[api.NetworkSet(owner)], want[api.NATSet(owner)] = true, true
	}
	for _, owner := range append([]string{""}, ownersOf(ports)...) {
		set := api.RuleSet(owner)
		want[set] = true
		for _, r := range rulesIn(t, a.has[set]) {
			for _, p := range ports {
				if owner != "" && p.Owner != owner {
					continue
				}
				if concerns(r.To, p) {
					name(want, r.FromPeers)
				}
				if concerns(r.From, p) {
					name(want, r.ToPeers)
				}
			}
		}
	}
	var out []api.Follow
	for _, set := range slices.Sorted(maps.Keys(want)) {
		if a.refused[set] { // until there is another spec
			continue
		}
		f := a.at[set]
		f.Set = set
		a.at[set] = f
		out = append(out, f)
	}
	maps.DeleteFunc(a.at, func(set string, _ api.Follow) bool { return !want[set] })
	maps.DeleteFunc(a.has, func(set string, _ map[string]json.RawMessage) bool { return !want[set] })
	return out
}

func name(want map[string]bool, peers []api.RulePeers) {
	for _, p := range peers {
		if p.Set != "" {
			want[p.Set] = true
		}
	}
}

func ownersOf(ports map[string]api.PortSpec) []string {
	owners := map[string]bool{}
	for _, p := range ports {
		owners[p.Owner] = true
	}
	return slices.Sorted(maps.Keys(owners))
}

func rulesIn(t testing.TB, values map[string]json.RawMessage) (out []api.RuleSpec) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		var r api.RuleSpec
		if err := json.Unmarshal(values[key], &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func concerns(side []api.RuleTarget, p api.PortSpec) bool {
	return slices.ContainsFunc(side, func(t api.RuleTarget) bool {
		v, tagged := p.Tags[t.Value]
		switch t.Kind {
		case api.TargetAllVMs:
			return true
		case api.TargetVM:
			return t.Value == p.Instance
		case api.TargetTag:
			return tagged && (t.TagValue == nil || *t.TagValue == v)
		}
		return false
	})
}

// routed are the accounts that a server has a router of, with the VNIs of NICs there.
func (a *accountSets) routed(server string, ports map[string]api.PortSpec, more map[string][]uint32) map[string][]uint32 {
	out := map[string][]uint32{}
	for key := range a.has[api.ServerNATSet(server)] {
		if key != api.SelfKey {
			out[key] = nil
		}
	}
	for owner, vnis := range more {
		out[owner] = append(out[owner], vnis...)
	}
	for _, p := range ports {
		if p.VNI != 0 {
			out[p.Owner] = append(out[p.Owner], p.VNI)
		}
	}
	return out
}

// fabric is what the sets say of VNIs and routers, in short: what an agent makes of them is
// tested with it, and that both mean the same in integration/fabric.
func (a *accountSets) fabric(t testing.TB, server string, ports map[string]api.PortSpec, more map[string][]uint32) (vnis []api.VNISpec, routers []api.RouterSpec) {
	t.Helper()
	var self api.ServerNAT
	decode(t, a.has[api.ServerNATSet(server)][api.SelfKey], &self)
	own, _, _ := strings.Cut(self.Transit, "/")
	routed := a.routed(server, ports, more)
	for _, owner := range slices.Sorted(maps.Keys(routed)) {
		r, out := api.RouterSpec{Owner: owner}, false
		for _, value := range a.has[api.NetworkSet(owner)] {
			var n api.AccountNetwork
			decode(t, value, &n)
			if n.Gateway != "" || slices.Contains(routed[owner], n.VNI) {
				vnis = append(vnis, api.VNISpec{VNI: n.VNI, Owner: owner, MTU: n.MTU})
			}
			if n.Gateway != "" {
				r.Networks = append(r.Networks, n.RouterNetwork)
				out = out || n.InternetNAT
			}
		}
		var transit api.AccountNAT
		decode(t, a.has[api.NATSet(owner)][api.GatewaysKey], &transit)
		gateway := slices.ContainsFunc(transit.Gateways, func(g api.Gateway) bool { return g.Address == own })
		n := &api.NATSpec{}
		if e := self.External; e != nil {
			n.Tag, n.VLAN, n.Address, n.Gateway = e.Tag, e.VLAN, e.Address, e.Gateway
		} else {
			for _, g := range transit.Gateways {
				n.Via = append(n.Via, g.Address)
			}
		}
		forwards := 0
		for key, value := range a.has[api.NATSet(owner)] {
			if key == api.GatewaysKey {
				continue
			}
			forwards++
			var f api.AccountNAT
			decode(t, value, &f)
			if gateway {
				address, _, _ := strings.Cut(n.Address, "/")
				n.Forwards = append(n.Forwards, api.PortForward{Protocol: f.Forward.Protocol, External: fmt.Sprint(address, ":", f.Forward.Port), Internal: f.Forward.Internal})
			}
		}
		if n.Tag == "" || gateway || forwards > 0 {
			n.VNI, n.Transit = transit.VNI, self.Transit
		}
		if out && len(n.Tag)+len(n.Via) > 0 {
			if r.NAT = n; n.VNI != 0 {
				vnis = append(vnis, api.VNISpec{VNI: n.VNI, Owner: owner})
			}
		}
		if len(r.Networks) > 0 {
			routers = append(routers, r)
		}
	}
	return vnis, routers
}

func decode(t testing.TB, value json.RawMessage, v any) {
	t.Helper()
	if value != nil {
		if err := json.Unmarshal(value, v); err != nil {
			t.Fatal(err)
		}
	}
}

// take takes in a delta of such a set.
func (a *accountSets) take(d api.Delta) (is bool) {
	if _, _, is := api.AccountOfSet(d.Set); !is && !strings.HasSuffix(d.Set, "/nat") {
		return false
	}
	if d.Full || a.has[d.Set] == nil {
		a.has[d.Set] = map[string]json.RawMessage{}
	}
	for _, key := range d.Gone {
		delete(a.has[d.Set], key)
	}
	for _, v := range d.Put {
		var r api.RuleSpec
		var key string
		if json.Unmarshal(v, &key) != nil {
			_ = json.Unmarshal(v, &r)
			key = r.UUID // which the others have too
		}
		a.has[d.Set][key] = v
	}
	a.at[d.Set] = a.at[d.Set].Take(d)
	return true
}

func (a *accountSets) refuse(sets []api.RefusedSet) {
	for _, r := range sets {
		a.refused[r.Set] = true
	}
}

// rules are those of an account that a server follows, or the global ones.
func (m *machine) rules(owner string) []api.RuleSpec {
	m.h.t.Helper()
	return rulesIn(m.h.t, m.sets.has[api.RuleSet(owner)])
}

// peers are the addresses of a rule's peers that a server follows.
func (m *machine) peers(peers []api.RulePeers) string {
	m.h.t.Helper()
	var out []string
	for _, p := range peers {
		out = append(out, p.Members...)
		for key := range m.sets.has[p.Set] {
			ip, _, _ := strings.Cut(key, "/")
			out = append(out, ip)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

// network is the network that a server is to have, once it has heard all: its spec, its ports,
// and what the sets say.
func (m *machine) network() *api.NetworkSpec {
	m.h.t.Helper()
	m.mustDrain()
	if m.wanted == nil {
		return nil
	}
	n := *m.wanted
	n.Ports = nil
	for _, key := range slices.Sorted(maps.Keys(m.ports)) {
		n.Ports = append(n.Ports, m.ports[key])
	}
	if n.VNIs, n.Routers = m.sets.fabric(m.h.t, m.uuid, m.ports, m.unknown()); n.Underlay == nil {
		n.VNIs, n.Routers = nil, nil
	}
	return &n
}

// unknown are the VNIs of NICs that the server reports as unexpected, by account.
func (m *machine) unknown() map[string][]uint32 {
	out := map[string][]uint32{}
	for _, u := range m.rep.UnexpectedNICs {
		out[u.Owner] = append(out[u.Owner], u.VNI)
	}
	return out
}
