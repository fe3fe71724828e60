package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"nereid/api"
)

// follower is what a server follows beside its spec, and the one place that knows how:
// the set of its ports, the rules of all accounts and of those that have ports here, with
// the addresses that they name, the networks and NAT of accounts that it has a router of,
// and the maps of their VNIs. It keeps versions, of the ports whose they are, and which VNIs
// there are, and no map.
type follower struct {
	f *Fleet

	mu    sync.Mutex
	set   api.Follow        // of the server's ports
	ports map[string]string // instances, by key of the set
	owned map[string]string // accounts, by key of the set
	rules map[string]api.Follow
	peers map[string]bool // sets of addresses that rules name
	hosts map[uint32]bool // VNIs of ports
	nat   string          // the server's set of NAT
	guest map[string]bool // accounts that it is a gateway of
	nets  map[string]map[string]api.AccountNetwork
	over  map[string]uint32 // transit VNIs, by account
	maps  map[uint32]api.Follow
}

func newFollower(f *Fleet) *follower {
	return &follower{f: f, ports: map[string]string{}, owned: map[string]string{}, rules: map[string]api.Follow{}, peers: map[string]bool{},
		hosts: map[uint32]bool{}, guest: map[string]bool{}, nets: map[string]map[string]api.AccountNetwork{}, over: map[string]uint32{}, maps: map[uint32]api.Follow{}}
}

// sets is what a sync asks for. The server keeps nothing over a boot of its own, and
// acknowledges what it was told at once.
func (w *follower) sets(uuid string) []api.Follow {
	w.mu.Lock()
	defer w.mu.Unlock()
	if set := api.PortSet(uuid); w.set.Set != set {
		w.set = api.Follow{Set: set}
	}
	if w.set.Toward == 0 {
		w.set.Kept = w.set.Since
	}
	w.nat = api.ServerNATSet(uuid)
	out := append([]api.Follow{w.set}, w.accounts()...)
	return append(out, w.mapped()...)
}

// mapped is what is asked for of maps: of the VNIs of networks with a gateway, or with ports
// here, and of transit VNIs.
func (w *follower) mapped() (out []api.Follow) {
	wanted := map[uint32]bool{}
	for owner := range w.routed() {
		for _, n := range w.nets[owner] {
			if n.Gateway != "" || w.hosts[n.VNI] {
				wanted[n.VNI] = true
			}
		}
		if vni := w.over[owner]; vni != 0 {
			wanted[vni] = true
		}
	}
	maps.DeleteFunc(w.maps, func(vni uint32, _ api.Follow) bool { return !wanted[vni] })
	for _, vni := range slices.Sorted(maps.Keys(wanted)) {
		f := w.maps[vni]
		f.Set = api.MapSet(vni)
		w.maps[vni] = f
		out = append(out, f)
	}
	return out
}

// routed are the accounts that the server has a router of.
func (w *follower) routed() map[string]bool {
	out := maps.Clone(w.guest)
	for _, owner := range w.owned {
		out[owner] = true
	}
	return out
}

// accounts is what is asked for of accounts' sets.
func (w *follower) accounts() []api.Follow {
	wanted := map[string]bool{api.RuleSet(""): true, w.nat: true}
	for owner := range w.routed() {
		wanted[api.NetworkSet(owner)], wanted[api.NATSet(owner)] = true, true
	}
	maps.Copy(wanted, w.peers)
	for _, owner := range w.owned {
		wanted[api.RuleSet(owner)] = true
	}
	maps.DeleteFunc(w.rules, func(set string, _ api.Follow) bool { return !wanted[set] })
	var out []api.Follow
	for _, set := range slices.Sorted(maps.Keys(wanted)) {
		f := w.rules[set]
		f.Set = set
		w.rules[set] = f
		out = append(out, f)
	}
	return out
}

// takeAccounts takes what came of such a set.
func (w *follower) takeAccounts(d api.Delta) {
	f, asked := w.rules[d.Set]
	if !asked {
		return
	}
	w.rules[d.Set] = f.Take(d)
	if owner, name, _ := api.AccountOfSet(d.Set); d.Set == w.nat || name == "networks" || name == "nat" {
		w.takeFabric(owner, name, d)
		return
	}
	for _, value := range d.Put {
		var r api.RuleSpec
		if json.Unmarshal(value, &r) != nil {
			continue // an address
		}
		for _, p := range slices.Concat(r.FromPeers, r.ToPeers) {
			if p.Set != "" {
				w.peers[p.Set] = true
			}
		}
	}
}

// takeFabric takes what came of networks and NAT.
func (w *follower) takeFabric(owner, name string, d api.Delta) {
	if d.Full {
		switch name {
		case "networks":
			w.nets[owner] = map[string]api.AccountNetwork{}
		case "nat":
			delete(w.over, owner)
		default:
			clear(w.guest)
		}
	}
	for _, key := range d.Gone {
		switch name {
		case "networks":
			delete(w.nets[owner], key)
		case "nat":
			if key == api.GatewaysKey {
				delete(w.over, owner)
			}
		default:
			delete(w.guest, key)
		}
	}
	for _, value := range d.Put {
		var v struct {
			api.AccountNetwork
			VNI uint32 `json:"vni"`
		}
		if err := json.Unmarshal(value, &v); err != nil {
			w.f.seen.failed("networks", err)
			continue
		}
		switch {
		case name == "networks":
			v.AccountNetwork.VNI = v.VNI
			w.nets[owner][v.UUID] = v.AccountNetwork
		case name == "nat" && v.UUID == api.GatewaysKey:
			w.over[owner] = v.VNI
		case name == "" && v.UUID != api.SelfKey:
			w.guest[v.UUID] = true
		}
	}
}

// take takes what a sync brought of the sets. It reports whether there was something
// of the server's own.
func (w *follower) take(out api.SyncResponse) (own bool) {
	var news []string
	w.mu.Lock()
	for _, r := range out.Refused {
		w.f.seen.failed("maps", fmt.Errorf("set %s: %w", r.Set, &r.Why))
		delete(w.peers, r.Set)
	}
	for _, d := range out.Deltas {
		if _, _, isAccounts := api.AccountOfSet(d.Set); isAccounts || d.Set == w.nat {
			w.takeAccounts(d)
			continue
		}
		if vni, isMap := api.VNIOfMap(d.Set); isMap {
			if f, asked := w.maps[vni]; asked {
				w.maps[vni] = f.Take(d)
			}
			continue
		}
		own = true
		for _, key := range d.Gone {
			delete(w.ports, key)
			delete(w.owned, key)
		}
		for _, value := range d.Put {
			var p api.PortSpec
			if err := json.Unmarshal(value, &p); err != nil {
				w.f.seen.failed("ports", err)
				continue
			}
			key := api.PortKey(p.MAC, p.Instance)
			if _, known := w.ports[key]; !known {
				news = append(news, p.Instance)
			}
			w.ports[key], w.owned[key] = p.Instance, p.Owner
			w.hosts[p.VNI] = true
		}
		w.set = w.set.Take(d)
	}
	w.mu.Unlock()
	w.f.seen.ports(news, time.Now())
	return own
}

// portsAt is the version of the ports, as a report has it.
func (w *follower) portsAt() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%s:%d", w.set.Epoch, w.set.Since)
}

// setsAt names the versions of accounts' sets.
func (w *follower) setsAt() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return api.Versions(slices.Collect(maps.Values(w.rules)))
}

// versions are those of the maps in use, as a report has them.
func (w *follower) versions() map[uint32]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[uint32]string{}
	for vni, f := range w.maps {
		if f.Epoch != "" {
			out[vni] = fmt.Sprintf("%s:%d", f.Epoch, f.Since)
		}
	}
	return out
}
