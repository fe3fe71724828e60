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
// the addresses that they name, and the maps of the VNIs that its spec has. It keeps
// versions, and of the ports whose they are, and no map.
type follower struct {
	f *Fleet

	mu    sync.Mutex
	set   api.Follow        // of the server's ports
	ports map[string]string // instances, by key of the set
	owned map[string]string // accounts, by key of the set
	rules map[string]api.Follow
	peers map[string]bool // sets of addresses that rules name
	maps  []api.Follow    // of the spec's VNIs
}

func newFollower(f *Fleet) *follower {
	return &follower{f: f, ports: map[string]string{}, owned: map[string]string{}, rules: map[string]api.Follow{}, peers: map[string]bool{}}
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
	return slices.Concat([]api.Follow{w.set}, w.accounts(), w.maps)
}

// accounts is what is asked for of accounts' sets.
func (w *follower) accounts() []api.Follow {
	wanted := map[string]bool{api.RuleSet(""): true}
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

// take takes what a sync brought of the sets. It reports whether there was something
// of the server's own.
func (w *follower) take(out api.SyncResponse) (own bool) {
	var news []string
	w.mu.Lock()
	for _, r := range out.Refused {
		w.f.seen.failed("maps", fmt.Errorf("set %s: %w", r.Set, &r.Why))
		delete(w.peers, r.Set)
		w.maps = slices.DeleteFunc(w.maps, func(f api.Follow) bool { return f.Set == r.Set })
	}
	for _, d := range out.Deltas {
		if _, _, isAccounts := api.AccountOfSet(d.Set); isAccounts {
			w.takeAccounts(d)
			continue
		}
		if d.Set != w.set.Set {
			for i, f := range w.maps {
				if f.Set == d.Set {
					w.maps[i] = f.Take(d)
				}
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

// spec takes the network that is wanted.
func (w *follower) spec(n *api.NetworkSpec) {
	if n == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	had := map[string]api.Follow{}
	for _, f := range w.maps {
		had[f.Set] = f
	}
	w.maps = nil
	for _, v := range n.VNIs {
		f := had[api.MapSet(v.VNI)]
		f.Set = api.MapSet(v.VNI)
		w.maps = append(w.maps, f)
	}
}

// versions are those of the maps in use, as a report has them.
func (w *follower) versions() map[uint32]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[uint32]string{}
	for _, f := range w.maps {
		if vni, isMap := api.VNIOfMap(f.Set); isMap && f.Epoch != "" {
			out[vni] = fmt.Sprintf("%s:%d", f.Epoch, f.Since)
		}
	}
	return out
}
