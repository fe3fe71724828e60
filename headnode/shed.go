package headnode

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"nereid/headnode/addresses"
	"nereid/headnode/store"
)

// shed counts what was not done for clients that ask for more than their share, so
// that an operator hears of it and of who it was. There are as many kinds as there
// are callers with a sentence of their own, so it is bounded.
type shed struct {
	mu    sync.Mutex
	kinds map[string]*shedKind
}

type shedKind struct {
	count       int
	who         string // the last
	since, last time.Time
}

// shedMemory is how long after the last time an operator is still told.
const shedMemory = time.Hour

// add counts one. It reports whether it is the first in a minute, to be logged.
func (s *shed) add(what, who string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[what]
	if k == nil || now.Sub(k.last) > shedMemory {
		k = &shedKind{since: now}
		if s.kinds == nil {
			s.kinds = map[string]*shedKind{}
		}
		s.kinds[what] = k
	}
	quiet := k.count > 0 && now.Sub(k.last) < time.Minute
	k.count++
	k.who, k.last = who, now
	return !quiet
}

// alerts says what was shed lately, one sentence for each kind.
func (s *shed) alerts(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for what, k := range s.kinds {
		if now.Sub(k.last) <= shedMemory {
			out = append(out, fmt.Sprintf("%d %s since %s, the last of %s.", k.count, what, k.since.UTC().Format(time.RFC3339), k.who))
		}
	}
	slices.Sort(out)
	return out
}

// Shed counts something that the boot server did not do for a client that asks for
// too much. what is in the plural, as "TFTP reads of one client beyond 8 at once".
func (s *Server) Shed(what, who string) {
	if s.shed.add(what, who, s.now()) {
		s.log.Warn("a client asks for more than its share", "what", what, "client", who)
	}
}

// quarantineAlert names the addresses that are kept back, and who declined them.
func quarantineAlert(tx store.Tx, now time.Time) (string, error) {
	bad, err := addresses.Quarantined(tx, now)
	if err != nil || len(bad) == 0 {
		return "", err
	}
	text, shown := "", min(len(bad), 8)
	for _, l := range bad[:shown] {
		text += fmt.Sprintf("; %s, declined by %s, until %s", l.Address, l.DeclinedBy, l.Expires.UTC().Format(time.RFC3339))
	}
	if more := len(bad) - shown; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return "Machines found other machines answering at addresses that the head node gave them" + text +
		". Find out what answers there, and give it an address outside the range.", nil
}
