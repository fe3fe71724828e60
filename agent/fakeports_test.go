package agent

import (
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

// deltas is what a sync's sender lacks. It is called with mu held.
func (h *fakeHead) deltas(in api.SyncRequest) (out []api.Delta) {
	if h.spec != nil {
		h.ports.bring(h.spec.Network)
	}
	for _, f := range in.Follow {
		if f.Set != api.PortSet(testUUID) {
			h.t.Errorf("asks for set %q", f.Set)
		}
		if d := h.ports.delta(f); d != nil && !h.ports.mute {
			out = append(out, *d)
		}
	}
	return out
}
