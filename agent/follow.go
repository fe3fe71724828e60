package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"nereid/api"
)

// kind is one of a server's sets that its agent follows.
type kind[V any] struct {
	what string                     // a value, in messages
	file string                     // that it is kept in
	set  func(server string) string // its name
	key  func(v V) string           // a value's in the set; empty: it is none
	slot func(key string) string    // what only one value at a time has, of a key
	lost string                     // sentence: what it means that the set could not be kept
}

// setState is what the agent knows of a set: what it says, and what is left of what it
// said before. Nothing but a tombstone takes a value away.
type setState[V any] struct {
	kind    kind[V]
	touched []string // slots that changed since somebody asked

	Follow api.Follow        `json:"follow"`          // of the set, up to its last whole delta
	Items  map[string]V      `json:"items"`           // by slot
	Ports  map[string]V      `json:"ports,omitempty"` // the same, as older agents kept it
	Stale  map[string]bool   `json:"stale"`           // slots of Items that the set does not name any more
	Gone   map[string]string `json:"gone"`            // by key, those that may still be there: id of the removal
}

func newSetState[V any](k kind[V]) setState[V] {
	return setState[V]{kind: k, Items: map[string]V{}, Stale: map[string]bool{}, Gone: map[string]string{}}
}

// setRecord is one change of a setState: it takes effect as a whole.
type setRecord[V any] struct {
	State  *setState[V] `json:"state,omitempty"`  // all before is void
	Deltas []api.Delta  `json:"deltas,omitempty"` // the parts of an answer, up to its last
	Done   []string     `json:"done,omitempty"`   // ids of removals: these are not there
}

// apply makes a change. What it cannot read of a delta it leaves out, and says.
func (s *setState[V]) apply(r setRecord[V]) (unread []error) {
	if r.State != nil {
		*s = newSetState(s.kind)
		s.Follow = r.State.Follow
		maps.Copy(s.Items, r.State.Ports)
		maps.Copy(s.Items, r.State.Items)
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
func (s *setState[V]) take(d api.Delta) (unread []error) {
	if d.Full {
		for slot := range s.Items {
			s.Stale[slot] = true
			s.touched = append(s.touched, slot)
		}
	}
	for _, key := range d.Gone {
		id := fmt.Sprintf("%s:%d %s", d.Epoch, d.Version, key)
		key = strings.ToLower(key)
		slot := s.kind.slot(key)
		if v, there := s.Items[slot]; there && strings.ToLower(s.kind.key(v)) == key {
			delete(s.Items, slot)
			delete(s.Stale, slot)
		}
		s.Gone[key] = id
		s.touched = append(s.touched, slot)
	}
	for _, value := range d.Put {
		var v V
		err := json.Unmarshal(value, &v)
		key := ""
		if err == nil {
			key = strings.ToLower(s.kind.key(v))
		}
		if key == "" {
			unread = append(unread, fmt.Errorf("%s %.200s of the set: %w", s.kind.what, value, err))
			continue
		}
		slot := s.kind.slot(key)
		s.Items[slot] = v
		delete(s.Stale, slot)
		// It is another's now, and what was there with it.
		maps.DeleteFunc(s.Gone, func(key, _ string) bool { return s.kind.slot(key) == slot })
		s.touched = append(s.touched, slot)
	}
	s.Follow = s.Follow.Take(d)
	return unread
}

// follower follows a set of this server's. Its methods are for any goroutine, and wait
// for nothing.
type follower[V any] struct {
	a    *Agent
	kind kind[V]

	mu    sync.Mutex
	state setState[V]
	at    api.Follow     // what is asked with: the last part's
	parts []api.Delta    // that came of an answer which is not whole
	queue []setRecord[V] // that the keeper has not taken
	whole bool           // the queue is not all: the state is to be kept whole
	news  chan struct{}
}

// maxQueue is how many changes wait for the keeper; instead of more it keeps the state.
const maxQueue = 256

func newFollower[V any](a *Agent, k kind[V]) *follower[V] {
	return &follower[V]{a: a, kind: k, state: newSetState(k), whole: true, news: make(chan struct{}, 1)}
}

// begin starts with what was kept; nil: nothing was.
func (p *follower[V]) begin(kept *setState[V]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kept != nil {
		p.state = *kept
	}
	p.at = p.state.Follow
}

// follow says what is to be asked for, as the server with the UUID.
func (p *follower[V]) follow(uuid string) api.Follow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set := p.kind.set(uuid); p.at.Set != set { // nothing of it is known
		p.state.Follow, p.parts = api.Follow{Set: set}, nil
		p.at = p.state.Follow
	}
	return p.at
}

// take takes in what the head node says of the set. A delta takes effect with its last
// part. news says whether that was something new; whole that it took effect.
func (p *follower[V]) take(d api.Delta) (news, whole bool) {
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
	r := setRecord[V]{Deltas: p.parts}
	p.parts = nil
	p.change(r)
	p.at = p.state.Follow
	return news, true
}

// partial says whether an answer of which some came is not whole.
func (p *follower[V]) partial() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parts != nil
}

// done notes that what was to be removed is not there, by the ids of removals.
func (p *follower[V]) done(ids []string) {
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
		p.change(setRecord[V]{Done: ids})
	}
}

// change makes a change, and hands it to the keeper. It is called with mu held.
func (p *follower[V]) change(r setRecord[V]) {
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

// changes are the slots that changed since it was asked last.
func (p *follower[V]) changes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	touched := p.state.touched
	p.state.touched = nil
	return touched
}

// keep is the goroutine that keeps the set.
func (p *follower[V]) keep(ctx context.Context) error {
	return p.a.keep(ctx, p, p.news, p.kind.file, p.kind.lost)
}

// wanted is what the keeper has to write: the changes since it was asked last, or all.
// kept notes that they are.
func (p *follower[V]) wanted() (lines []byte, whole bool, kept func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines, whole = logLines(p.queue...), p.whole
	p.queue, p.whole = nil, false
	at := p.state.Follow
	return lines, whole, func() { p.kept(at) }
}

// file is the state as the keeper writes it. Changes that it has already do no harm when
// they follow it.
func (p *follower[V]) file() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return logLines(setRecord[V]{State: &p.state})
}

// kept notes up to where the set is kept: a restart goes on from there.
func (p *follower[V]) kept(f api.Follow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.Follow.Set == f.Set && p.state.Follow.Epoch == f.Epoch {
		p.state.Follow.Kept = f.Since
	}
	if p.at.Set == f.Set && p.at.Epoch == f.Epoch && !p.at.Full {
		p.at.Kept = f.Since
	}
}
