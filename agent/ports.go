package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"nereid/api"
)

// portState is what the agent knows of its server's ports: what the set of ports says,
// and what is left of what it said before. Nothing but a tombstone takes a port away.
type portState struct {
	Follow api.Follow              `json:"follow"` // of the set, up to its last whole delta
	Ports  map[string]api.PortSpec `json:"ports"`  // by MAC
	Stale  map[string]bool         `json:"stale"`  // MACs of Ports that the set does not name any more
	Gone   map[string]string       `json:"gone"`   // by api.PortKey, those that may still be there: id of the removal
}

func newPortState() portState {
	return portState{Ports: map[string]api.PortSpec{}, Stale: map[string]bool{}, Gone: map[string]string{}}
}

// portRecord is one change of a portState: it takes effect as a whole.
type portRecord struct {
	State  *portState  `json:"state,omitempty"`  // all before is void
	Deltas []api.Delta `json:"deltas,omitempty"` // the parts of an answer, up to its last
	Done   []string    `json:"done,omitempty"`   // ids of removals: these NICs are not there
}

// apply makes a change. What it cannot read of a delta it leaves out, and says.
func (s *portState) apply(r portRecord) (unread []error) {
	if r.State != nil {
		*s = newPortState()
		s.Follow = r.State.Follow
		maps.Copy(s.Ports, r.State.Ports)
		maps.Copy(s.Stale, r.State.Stale)
		maps.Copy(s.Gone, r.State.Gone)
	}
	for _, d := range r.Deltas {
		unread = append(unread, s.take(d)...)
	}
	for _, id := range r.Done {
		maps.DeleteFunc(s.Gone, func(_, gone string) bool { return gone == id })
	}
	return unread
}

// take takes in one part. A snapshot names all that the set has: what it does not name
// stays where it is, and is stale.
func (s *portState) take(d api.Delta) (unread []error) {
	if d.Full {
		for mac := range s.Ports {
			s.Stale[mac] = true
		}
	}
	for _, key := range d.Gone {
		mac, instance, _ := strings.Cut(strings.ToLower(key), "/")
		if p, there := s.Ports[mac]; there && p.Instance == instance {
			delete(s.Ports, mac)
			delete(s.Stale, mac)
		}
		s.Gone[api.PortKey(mac, instance)] = fmt.Sprintf("%s:%d %s", d.Epoch, d.Version, key)
	}
	for _, value := range d.Put {
		var p api.PortSpec
		if err := json.Unmarshal(value, &p); err != nil || p.MAC == "" {
			unread = append(unread, fmt.Errorf("port %.200s of the set: %w", value, err))
			continue
		}
		mac := strings.ToLower(p.MAC)
		s.Ports[mac] = p
		delete(s.Stale, mac)
		// The port is another instance's now, and its device with it.
		maps.DeleteFunc(s.Gone, func(key, _ string) bool { return strings.HasPrefix(key, mac+"/") })
	}
	s.Follow = s.Follow.Take(d)
	return unread
}

// list gives the ports that keep wants, by MAC.
func (s portState) list(keep func(mac string) bool) []api.PortSpec {
	var out []api.PortSpec
	for _, mac := range slices.Sorted(maps.Keys(s.Ports)) {
		if keep(mac) {
			out = append(out, s.Ports[mac])
		}
	}
	return out
}

// gone are the NICs that are to be removed, by key.
func (s portState) gone() []api.GoneNIC {
	var out []api.GoneNIC
	for _, key := range slices.Sorted(maps.Keys(s.Gone)) {
		mac, instance, _ := strings.Cut(key, "/")
		out = append(out, api.GoneNIC{ID: s.Gone[key], MAC: mac, Instance: instance})
	}
	return out
}

// applied is the network that is applied: what the head node wants of it, and the ports.
// before is the one that was applied until now: of it is kept what stale ports need. A
// head node that wants nothing of it leaves it as it was, but for the ports.
func (s portState) applied(before, wanted *api.NetworkSpec) *api.NetworkSpec {
	if before == nil && wanted == nil {
		return nil
	}
	all := s.list(func(string) bool { return true })
	named := s.list(func(mac string) bool { return !s.Stale[mac] })
	at := fmt.Sprintf("%s:%d", s.Follow.Epoch, s.Follow.Since)
	if wanted == nil {
		n := *before
		n.Ports, n.Gone, n.PortsAt, n.Kept = all, s.gone(), at, nil
		if len(named) < len(all) {
			n.Kept = &api.Kept{NICs: slices.Sorted(maps.Keys(s.Stale))}
			if before.Kept != nil {
				n.Kept.VNIs = before.Kept.VNIs
			}
		}
		return &n
	}
	next := *wanted
	next.Ports, next.Gone, next.PortsAt = named, s.gone(), at
	if before != nil {
		b := *before
		b.Ports = all
		before = &b
	}
	return keepNICs(before, &next)
}

// ports is the follower of the set of this server's ports. Its methods are for any
// goroutine, and wait for nothing.
type ports struct {
	a *Agent

	mu    sync.Mutex
	state portState
	at    api.Follow   // what is asked with: the last part's
	parts []api.Delta  // that came of an answer which is not whole
	queue []portRecord // that the keeper has not taken
	whole bool         // the queue is not all: the state is to be kept whole
	news  chan struct{}
}

// maxQueue is how many changes wait for the keeper; instead of more it keeps the state.
const maxQueue = 256

func newPorts(a *Agent) *ports {
	return &ports{a: a, state: newPortState(), whole: true, news: make(chan struct{}, 1)}
}

// begin starts with what was kept of the ports, and without that with what the last
// spec says of them, as older agents kept it.
func (p *ports) begin(kept *portState, last *api.NetworkSpec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case kept != nil:
		p.state = *kept
	case last != nil:
		for _, port := range last.Ports {
			p.state.Ports[strings.ToLower(port.MAC)] = port
		}
		if last.Kept != nil {
			for _, mac := range last.Kept.NICs {
				p.state.Stale[strings.ToLower(mac)] = true
			}
		}
		for _, g := range last.Gone {
			p.state.Gone[strings.ToLower(api.PortKey(g.MAC, g.Instance))] = g.ID
		}
	}
	p.at = p.state.Follow
}

// follow says what is to be asked for, as the server with the UUID.
func (p *ports) follow(uuid string) api.Follow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set := api.PortSet(uuid); p.at.Set != set { // nothing of it is known
		p.state.Follow, p.parts = api.Follow{Set: set}, nil
		p.at = p.state.Follow
	}
	return p.at
}

// take takes in what the head node says of the set. A delta takes effect with its last
// part. news says whether that was something new; whole that it took effect.
func (p *ports) take(d api.Delta) (news, whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.Set != p.at.Set {
		return false, false
	}
	was := p.at
	p.at = p.at.Take(d)
	was.Kept = p.at.Kept
	if d.Full {
		p.parts = nil // it begins anew
	}
	p.parts = append(p.parts, d)
	if news = p.at != was; d.Toward != 0 {
		return news, false
	}
	r := portRecord{Deltas: p.parts}
	p.parts = nil
	p.change(r)
	p.at = p.state.Follow
	return news, true
}

// partial says whether an answer of which some came is not whole.
func (p *ports) partial() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parts != nil
}

// done notes that NICs that were to be removed are not there, by the ids of removals.
func (p *ports) done(ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		for _, gone := range p.state.Gone {
			if gone == id {
				return false
			}
		}
		return true
	})
	if len(ids) > 0 {
		p.change(portRecord{Done: ids})
	}
}

// change makes a change, and hands it to the keeper. It is called with mu held.
func (p *ports) change(r portRecord) {
	for _, err := range p.state.apply(r) {
		p.a.Log.Error("this agent does not understand", "err", err)
	}
	if len(p.queue) == maxQueue {
		p.queue, p.whole = nil, true
	}
	if !p.whole {
		p.queue = append(p.queue, r)
	}
	poke(p.news)
}

// network is the network that is applied: see portState.applied.
func (p *ports) network(before, wanted *api.NetworkSpec) *api.NetworkSpec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.applied(before, wanted)
}

// wanted is what the keeper has to write: the changes since it was asked last, or all;
// at is where the set is with them.
func (p *ports) wanted() (changes []portRecord, whole bool, at api.Follow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changes, whole = p.queue, p.whole
	p.queue, p.whole = nil, false
	return changes, whole, p.state.Follow
}

// file is the state as the keeper writes it. Changes that it has already do no harm when
// they follow it.
func (p *ports) file() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return logLines(portRecord{State: &p.state})
}

// kept notes up to where the set is kept: a restart goes on from there.
func (p *ports) kept(f api.Follow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.Follow.Set == f.Set && p.state.Follow.Epoch == f.Epoch {
		p.state.Follow.Kept = f.Since
	}
	if p.at.Set == f.Set && p.at.Epoch == f.Epoch && !p.at.Full {
		p.at.Kept = f.Since
	}
}
