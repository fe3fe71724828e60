package events

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"nereid/api"
)

// Kept is how many events a head node keeps: at 600 changes a second, those of half a
// minute.
const Kept = 1 << 15

// scanned bounds how many events one Read looks at, and so how long it keeps others
// from publishing.
const scanned = 1024

// Log is the newest events. Make it with New.
type Log struct {
	epoch string
	now   func() time.Time

	mu   sync.Mutex
	ring []api.Event   // the event with the number n is at (n-1) % cap(ring)
	last uint64        // number of the newest event; 0: there was none
	more chan struct{} // closed at the next event; nil: nobody waits
}

// New makes a log that keeps so many events, and has the time from now.
func New(kept int, now func() time.Time) *Log {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return &Log{epoch: hex.EncodeToString(b), now: now, ring: make([]api.Event, 0, kept)}
}

// Page is what a reader lacks.
type Page struct {
	ID     string      // what the reader has after it, and names next time
	Missed bool        // events that the reader lacks are not kept: it is to read anew what it looks at
	Events []api.Event // with their ids, oldest first

	// More is closed when there is more to read. Nil: there may be more at once.
	More <-chan struct{}
}

// Publish adds events, and gives each its id and its time.
func (l *Log) Publish(evs ...api.Event) {
	if len(evs) == 0 {
		return
	}
	now := l.now().UTC()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ev := range evs {
		l.last++
		ev.ID, ev.Time = l.id(l.last), now
		if len(l.ring) < cap(l.ring) {
			l.ring = append(l.ring, ev)
		} else {
			l.ring[(l.last-1)%uint64(cap(l.ring))] = ev
		}
	}
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// Now is the id of the newest event: who reads from it on hears of what is published
// after the call.
func (l *Log) Now() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id(l.last)
}

// Read gives the events behind the one with an id that the filter wants, of at most
// the next 1024. An id that this log did not give, or whose successor it has no more,
// gives a page with Missed and without events, whose ID is that of the newest.
func (l *Log) Read(id string, f Filter) Page {
	l.mu.Lock()
	defer l.mu.Unlock()
	from, ok := l.number(id)
	if !ok {
		return Page{ID: l.id(l.last), Missed: true}
	}
	to := min(l.last, from+scanned)
	p := Page{ID: l.id(to)}
	for n := from; n < to; n++ { // the event with the number n+1
		if ev := l.ring[n%uint64(cap(l.ring))]; f.wants(ev) {
			p.Events = append(p.Events, ev)
		}
	}
	if to == l.last && len(p.Events) == 0 {
		if l.more == nil {
			l.more = make(chan struct{})
		}
		p.More = l.more
	}
	return p
}

func (l *Log) id(n uint64) string { return fmt.Sprintf("%s-%d", l.epoch, n) }

// number is the number of an id of this log, if the events behind it are all there.
func (l *Log) number(id string) (uint64, bool) {
	epoch, text, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil && epoch == l.epoch && n <= l.last && l.last-n <= uint64(len(l.ring))
}
