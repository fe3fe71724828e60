package headnode

import (
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
	quiet bool // its silence was told to watchers
	old   bool // its agent follows no sets
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

func (l *live) get(uuid string) (time.Time, *api.Usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	return s.last, s.usage
}

// follows notes whether a server's agent follows sets. It reports whether that is new.
func (l *live) follows(uuid string, does bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[uuid]
	was := s.old
	s.old = !does
	l.seen[uuid] = s
	return was != s.old
}

// outdated says whether a server's agent follows no sets.
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
