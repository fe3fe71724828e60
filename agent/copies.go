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

// copies are the sets that this server follows beside its own ports, instances and images,
// and maps: firewall rules, and addresses that they name; networks and NAT of accounts that
// it has a router of, and what it has to do with NAT itself. They have no data of their own,
// so a snapshot replaces all that is known of one: what it does not name any more is not in
// it. Methods are for any goroutine, and wait for nothing.
type copies struct {
	a *Agent

	mu    sync.Mutex
	nat   string             // the server's own set; empty: it is not known which server this is
	sets  map[string]*copied // that are wanted
	ask   []string           // those of them that are asked for, in order
	queue []copiesRecord     // that the keeper has not taken
	all   bool               // the queue is not all: they are to be kept whole
	news  chan struct{}
	made  uint64              // versions that were given
	means map[string]*meaning // of rules, by account
}

// copied is one of the sets.
type copied struct {
	Follow api.Follow                 `json:"follow"` // up to its last whole delta
	Items  map[string]json.RawMessage `json:"items"`  // values, by key

	at      api.Follow  // what is asked with: the last part's
	parts   []api.Delta // that came of an answer which is not whole
	refused bool        // the head node says that it is not this server's; not asked for until other sets are wanted

	rules   []api.RuleSpec // what Items say; nil: not read yet
	members []string
	version uint64 // no other state of a set had it
}

// copiesRecord is one change of the copies: it takes effect as a whole.
type copiesRecord struct {
	State  map[string]*copied `json:"state"`            // not nil: all before is void
	Deltas []api.Delta        `json:"deltas,omitempty"` // the parts of an answer, up to its last
	Drop   []string           `json:"drop,omitempty"`   // sets that are not wanted any more
}

func newCopies(a *Agent) *copies {
	return &copies{a: a, sets: map[string]*copied{}, all: true, news: make(chan struct{}, 1)}
}

// copyKey is the key of a value: its UUID, or of an address the value itself.
func copyKey(value json.RawMessage) (string, error) {
	var key string
	if err := json.Unmarshal(value, &key); err == nil && key != "" {
		return key, nil
	}
	var rule struct {
		UUID string `json:"uuid"`
	}
	err := json.Unmarshal(value, &rule)
	if err == nil && rule.UUID == "" {
		err = fmt.Errorf("it has no key")
	}
	return rule.UUID, err
}

// take takes in a part that follows. What it cannot read it leaves out, and says.
func (c *copied) take(d api.Delta) (unread []error) {
	if d.Full || c.Items == nil {
		c.Items = map[string]json.RawMessage{}
	}
	for _, key := range d.Gone {
		delete(c.Items, key)
	}
	for _, value := range d.Put {
		key, err := copyKey(value)
		if err != nil {
			unread = append(unread, fmt.Errorf("value %.200s of set %s: %w", value, d.Set, err))
			continue
		}
		c.Items[key] = value
	}
	c.Follow = c.Follow.Take(d)
	c.rules, c.members = nil, nil
	return unread
}

// apply makes a change. Deltas are of sets that are wanted, or of a file.
func (c *copies) apply(r copiesRecord) (unread []error) {
	if r.State != nil {
		c.sets = r.State
		for _, s := range c.sets {
			s.at, s.version = s.Follow, c.version()
		}
	}
	for _, d := range r.Deltas {
		s := c.sets[d.Set]
		if s == nil {
			s = &copied{Follow: api.Follow{Set: d.Set}}
			c.sets[d.Set] = s
		}
		unread = append(unread, s.take(d)...)
		s.at, s.version = s.Follow, c.version()
	}
	for _, name := range r.Drop {
		delete(c.sets, name)
	}
	return unread
}

// maxCopies is how many of these sets are followed: the rest of api.MaxFollow is for maps,
// which an account with many rules takes nothing of.
const maxCopies = api.MaxFollow / 2

// want says which sets are to be followed. It reports whether one of them is new. Of more
// than maxCopies each account has its first ones.
func (c *copies) want(names []string) (more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
		if c.sets[name] == nil {
			c.sets[name] = &copied{Follow: api.Follow{Set: name}, at: api.Follow{Set: name}}
			more = true
		}
	}
	var drop []string
	for name := range c.sets {
		if !wanted[name] {
			drop = append(drop, name)
		}
	}
	if len(drop) > 0 {
		slices.Sort(drop)
		c.change(copiesRecord{Drop: drop})
	}
	if more || len(drop) > 0 || len(c.ask) == 0 {
		for _, s := range c.sets {
			s.refused = false
		}
		c.ask = inTurn(slices.Sorted(maps.Keys(c.sets)))
		problem := ""
		if n := len(c.ask) - maxCopies; n > 0 {
			c.ask = c.ask[:maxCopies]
			problem = fmt.Sprintf("Firewall rules name more groups of addresses than a server follows; the last %d are taken to be empty. Have rules of accounts with NICs here name fewer tags and instances.", n)
		}
		c.a.board.problem("copies", problem)
	}
	return more
}

// inTurn orders sets so that each account has its first before one has its second; names
// are sorted.
func inTurn(names []string) []string {
	rank, of := map[string]int{}, map[string]int{}
	for _, name := range names {
		owner, which, _ := api.AccountOfSet(name)
		if strings.HasPrefix(which, "addresses/") { // the others come first
			of[owner]++
			rank[name] = of[owner]
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank[a] - rank[b] })
	return names
}

// follow says what is to be asked for.
func (c *copies) follow() []api.Follow {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []api.Follow
	for _, name := range c.ask {
		if s := c.sets[name]; !s.refused {
			out = append(out, s.at)
		}
	}
	return out
}

// versions names the versions of what is known of the sets that are asked for.
func (c *copies) versions() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []api.Follow
	for _, name := range c.ask {
		if s := c.sets[name]; !s.refused {
			f := s.Follow
			f.Set = name
			all = append(all, f)
		}
	}
	return api.Versions(all)
}

// refuse notes that the head node refused a set: it keeps what is known of it.
func (c *copies) refuse(r api.RefusedSet) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sets[r.Set]
	if s == nil || s.refused {
		return false
	}
	c.a.Log.Info("a set is refused", "set", r.Set, "why", &r.Why)
	s.refused, s.parts, s.at = true, nil, s.Follow
	return true
}

// take takes in what the head node says of a set. A delta takes effect with its last
// part. news says whether that was something new; whole that it took effect.
func (c *copies) take(d api.Delta) (news, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sets[d.Set]
	if s == nil {
		return false, false // it is not wanted any more
	}
	was := s.at
	s.at = s.at.Take(d)
	if d.Full {
		s.parts = nil // it begins anew
	}
	s.parts = append(s.parts, d)
	if news = s.at != was; d.Toward != 0 {
		return news, false
	}
	parts := s.parts
	s.parts = nil
	c.change(copiesRecord{Deltas: parts})
	return news, true
}

// change makes a change, and hands it to the keeper. It is called with mu held.
func (c *copies) change(r copiesRecord) {
	for _, err := range c.apply(r) {
		c.a.Log.Error("this agent does not understand", "err", err)
	}
	if len(c.queue) == maxQueue {
		c.queue, c.all = nil, true
	}
	if !c.all {
		c.queue = append(c.queue, r)
	}
	poke(c.news)
}

// lacks reports whether there is a set of which not all has come.
func (c *copies) lacks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.ask {
		if s := c.sets[name]; !s.refused && (s.Follow.Epoch == "" || s.parts != nil) {
			return true
		}
	}
	return false
}

// ruleSpecs are the rules that a set has.
func (c *copied) ruleSpecs() []api.RuleSpec {
	if c == nil {
		return nil
	}
	if c.rules != nil {
		return c.rules
	}
	for _, key := range slices.Sorted(maps.Keys(c.Items)) {
		var r api.RuleSpec
		if json.Unmarshal(c.Items[key], &r) == nil {
			c.rules = append(c.rules, r)
		}
	}
	return c.rules
}

// addresses are the members that a set has: sorted, each once.
func (c *copied) addresses() []string {
	if c == nil {
		return nil
	}
	if c.members == nil && len(c.Items) > 0 {
		for key := range c.Items {
			ip, _, _ := strings.Cut(key, "/")
			c.members = append(c.members, ip)
		}
		slices.Sort(c.members)
		c.members = slices.Compact(c.members)
	}
	return c.members
}

// wanted is what the keeper has to write: the changes since it was asked last, or all.
func (c *copies) wanted() (lines []byte, whole bool, kept func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines, whole = logLines(c.queue...), c.all
	c.queue, c.all = nil, false
	return lines, whole, func() {}
}

// file is all that is known, as the keeper writes it.
func (c *copies) file() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := map[string]*copied{}
	for name, s := range c.sets {
		if s.Follow.Epoch != "" {
			known[name] = s
		}
	}
	return logLines(copiesRecord{State: known})
}
