package headnode

import (
	"maps"
	"sync"
	"time"

	"nereid/api"
)

// live is what is known of servers while the head node runs and is never stored.
type live struct {
	mu   sync.Mutex
	seen map[string]liveServer
}

type liveServer struct {
	last  time.Time
	usage *api.Usage
	parts map[string]string // digests of the parts of usage
	quiet bool              // its silence was told to watchers
	old   bool              // its agent does not follow all of its network
	zones bool              // its agent follows the set of its instances
	sets  []string          // of accounts, and of NAT, that its agent follows

	reported string // Now of the report of instances that was taken in last; empty: none
	asked    bool   // it was told that none was taken in
}

// touch notes that a server was heard of. usage may be nil. It reports whether
// the server was silent before.
func (l *live) touch(uuid string, now time.Time, usage *api.Usage) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, known := l.seen[uuid]
	back := !known || s.quiet || now.Sub(s.last) > api.SilentAfter
	s.last, s.quiet = now, false
	if usage != nil {
		s.usage = usage
	}
	l.seen[uuid] = s
	return back
}

// fill puts what an agent left out of the usage that it sent into it, as it sent it
// before. It gives the digests of what the head node has of it now, for the agent; nil for
// an agent that leaves nothing out.
func (l *live) fill(uuid string, sync *api.SyncRequest) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	if sync.Digests == nil {
		if s.parts != nil { // they are of another usage than this one
			s.parts = nil
			l.seen[uuid] = s
		}
		return nil
	}
	have := map[string]string{api.PartMaps: "", api.PartDrops: "", api.PartGateways: ""}
	if n := sync.Usage.Network; n != nil {
		var was api.NetworkReport
		if s.usage != nil && s.usage.Network != nil {
			was = *s.usage.Network
		}
		part := func(name string, sent bool, keep func()) {
			d := sync.Digests[name]
			switch {
			case d == "":
			case sent:
				have[name] = d
			case s.parts[name] == d:
				keep()
				have[name] = d
			}
		}
		part(api.PartMaps, n.Maps != nil, func() { n.Maps = was.Maps })
		part(api.PartDrops, n.Drops != nil, func() { n.Drops = was.Drops })
		part(api.PartGateways, n.Gateways != nil, func() { n.Gateways = was.Gateways })
	}
	s.parts = maps.Clone(have)
	l.seen[uuid] = s
	return have
}

func (l *live) get(uuid string) (time.Time, *api.Usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	return s.last, s.usage
}

// follows notes whether a server's agent follows all of its network. It reports whether that
// is new.
func (l *live) follows(uuid string, does bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	was := s.old
	s.old = !does
	l.seen[uuid] = s
	return was != s.old
}

// accounts notes which sets of accounts a server's agent follows.
func (l *live) accounts(uuid string, sets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	s.sets = sets
	l.seen[uuid] = s
}

// account are the sets of accounts that a server's agent follows.
func (l *live) account(uuid string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[uuid].sets
}

// instances notes whether a server's agent follows the set of its instances. It reports
// whether the agent is to be told, once, that no report of them was taken in yet.
func (l *live) instances(uuid string, does bool) (ask bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	s.zones = does
	ask = does && s.reported == "" && !s.asked
	s.asked = s.asked || ask
	l.seen[uuid] = s
	return ask
}

// runs says whether a server's agent follows the set of its instances.
func (l *live) runs(uuid string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[uuid].zones
}

// took notes which report of a server's instances was taken in; empty: none is known.
func (l *live) took(uuid, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	s.reported = name
	l.seen[uuid] = s
}

// report is the name of the report of instances that was taken in last.
func (l *live) report(uuid string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[uuid].reported
}

// outdated says whether a server's agent does not follow all of its network.
func (l *live) outdated(uuid string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[uuid].old
}

func (l *live) forget(uuid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, uuid)
}

// silent lists the servers that fell silent since it was last asked.
func (l *live) silent(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for uuid, s := range l.seen {
		if !s.quiet && now.Sub(s.last) > api.SilentAfter {
			s.quiet = true
			l.seen[uuid] = s
			out = append(out, uuid)
		}
	}
	return out
}
