package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// keptDelays is how many delays of a kind are kept: the last.
const keptDelays = 10_000

// maxKinds is how many kinds of failures are counted apart.
const maxKinds = 32

// Delays are the last delays of a kind.
type Delays struct {
	Count int // all there were
	kept  []time.Duration
}

func (d *Delays) add(v time.Duration) {
	if len(d.kept) < keptDelays {
		d.kept = append(d.kept, v)
	} else {
		d.kept[d.Count%keptDelays] = v
	}
	d.Count++
}

// Percentile is the delay that so many of a hundred do not exceed; 0: there is none.
func (d Delays) Percentile(p int) time.Duration {
	if len(d.kept) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(d.kept))
	return v[min(len(v)-1, len(v)*p/100)]
}

// String has the number, the median and the 99th percentile.
func (d Delays) String() string {
	if d.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, p50 %s, p99 %s", d.Count, short(d.Percentile(50)), short(d.Percentile(99)))
}

func short(d time.Duration) string {
	if d >= time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// seen is what a fleet saw.
type seen struct {
	mu      sync.Mutex
	in      [states]int
	failure map[string]int
	last    string // failure
	reboots int    // boots that ended with an error
	booted  Delays // from power-on to the first sync
	told    int    // answers to syncs with another spec, or with deltas
	create  Delays // answers to NICs' creations
	tell    Delays // from the request for a NIC to its server's knowing
	waiting map[string]chan time.Time
}

// Picture is what a fleet saw until now.
type Picture struct {
	In       map[State]int // how many servers are in a state
	Booted   Delays        // from power-on to the first sync
	Create   Delays        // answers to requests for a NIC
	Tell     Delays        // from the request for a NIC to its server's knowing of it
	Failures map[string]int
	Last     string // what failed last
	Told     int    // answers to syncs with another spec, or with deltas of sets
	Again    int    // boots that failed and were begun again
}

// See is what the fleet saw until now.
func (f *Fleet) See() Picture {
	s := &f.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	p := Picture{In: map[State]int{}, Failures: maps.Clone(s.failure), Last: s.last, Again: s.reboots, Told: s.told,
		Booted: s.booted.clone(), Create: s.create.clone(), Tell: s.tell.clone()}
	off := len(f.servers)
	for st, n := range s.in {
		if State(st) != Off {
			p.In[State(st)], off = n, off-n
		}
	}
	p.In[Off] = off
	return p
}

func (d Delays) clone() Delays { return Delays{d.Count, slices.Clone(d.kept)} }

// String is a picture in one line.
func (p Picture) String() string {
	var parts []string
	for st := range states {
		if n := p.In[st]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, st))
		}
	}
	line := strings.Join(parts, ", ")
	if p.Again > 0 {
		line += fmt.Sprintf("; %d boots again", p.Again)
	}
	if len(p.Failures) > 0 {
		var kinds []string
		for _, k := range slices.Sorted(maps.Keys(p.Failures)) {
			kinds = append(kinds, fmt.Sprintf("%s %d", k, p.Failures[k]))
		}
		line += "; failed: " + strings.Join(kinds, ", ")
	}
	return line
}

// entered counts a server's new state. Off is what the others leave.
func (s *seen) entered(old, now State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in[old]--
	s.in[now]++
}

// failed counts a request that failed.
func (s *seen) failed(what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = map[string]int{}
	}
	if _, known := s.failure[what]; !known && len(s.failure) >= maxKinds {
		what = "other"
	}
	s.failure[what]++
	s.last = what + ": " + err.Error()
}

// again counts a boot that ended with an error.
func (s *seen) again(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reboots++
	s.last = "boot: " + err.Error()
}

// news counts an answer to a sync that wanted something new of a server.
func (s *seen) news() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told++
}

// up counts a boot that reached its first sync.
func (s *seen) up(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.booted.add(after)
}

// expect gives the channel that receives when a server was told of an instance's NIC.
func (s *seen) expect(instance string) <-chan time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = map[string]chan time.Time{}
	}
	c := make(chan time.Time, 1)
	s.waiting[instance] = c
	return c
}

func (s *seen) forget(instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, instance)
}

// ports is called with the instances of ports that a server hears of.
func (s *seen) ports(instances []string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range instances {
		if c := s.waiting[i]; c != nil {
			c <- at
			delete(s.waiting, i)
		}
	}
}
