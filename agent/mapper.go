package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/agent/network"
	"nereid/api"
)

// mapper follows the maps of the VNIs that this server has. The syncer asks for them
// and hands over what came; one goroutine applies that. What waits to be applied is of
// each VNI what a map has at most, and nothing waits for it. Its methods but run are for
// any goroutine.
type mapper struct {
	a     *Agent
	board *board
	told  func() // a map was applied

	mu      sync.Mutex
	vnis    []uint32              // of the spec that was applied last
	at      map[string]api.Follow // by set, what is asked with
	parts   map[string]*mapChange // that came of an answer which is not whole
	ready   map[string]*mapChange // that the kernel has not taken
	refused map[string]bool       // not asked for until there is another spec
	news    chan struct{}         // one slot: there is something ready
}

func newMapper(a *Agent, b *board, told func()) *mapper {
	return &mapper{a: a, board: b, told: told, at: map[string]api.Follow{}, parts: map[string]*mapChange{},
		ready: map[string]*mapChange{}, refused: map[string]bool{}, news: make(chan struct{}, 1)}
}

// mapChange is a change of a map, or with full all of it.
type mapChange struct {
	full    bool
	epoch   string
	version uint64
	entries map[string]api.MapEntry // by address
}

// add takes in a delta that follows. What it cannot read it leaves out, and says.
func (c *mapChange) add(d api.Delta) (unread []error) {
	c.epoch, c.version = d.Epoch, d.Version
	if c.entries == nil || d.Full {
		c.full, c.entries = c.full || d.Full, map[string]api.MapEntry{}
	}
	for _, ip := range d.Gone {
		c.entries[ip] = api.MapEntry{IP: ip, Version: d.Version, Deleted: true}
	}
	for _, value := range d.Put {
		var e api.MapEntry
		if err := json.Unmarshal(value, &e); err != nil || e.IP == "" {
			unread = append(unread, fmt.Errorf("entry %.200s of set %s: %w", value, d.Set, err))
			continue
		}
		c.entries[e.IP] = e
	}
	return unread
}

// then is a change and one that follows it, as one.
func (c *mapChange) then(next *mapChange) *mapChange {
	if c == nil || next.full {
		return next
	}
	c.epoch, c.version = next.epoch, next.version
	for ip, e := range next.entries {
		c.entries[ip] = e
	}
	return c
}

// whole is the change as it is applied: oldest entry first.
func (c *mapChange) whole(vni uint32) api.FabricMap {
	m := api.FabricMap{VNI: vni, Epoch: c.epoch, Version: c.version, Full: c.full, Entries: make([]api.MapEntry, 0, len(c.entries))}
	for _, e := range c.entries {
		if !e.Deleted || !c.full {
			m.Entries = append(m.Entries, e)
		}
	}
	slices.SortFunc(m.Entries, func(a, b api.MapEntry) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), strings.Compare(a.IP, b.IP))
	})
	return m
}

// want says which VNIs there are. Of one that was not there nothing is known.
func (m *mapper) want(vnis []uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.refused)
	if slices.Equal(vnis, m.vnis) {
		return
	}
	m.vnis = slices.Clone(vnis)
	wanted := make(map[string]bool, len(vnis))
	for _, v := range vnis {
		wanted[api.MapSet(v)] = true
	}
	for set := range m.at {
		if !wanted[set] {
			delete(m.at, set)
			delete(m.parts, set)
			delete(m.ready, set)
		}
	}
	m.board.nudge() // a poll for yesterday's VNIs is of no use
}

// follow says what is to be asked for, at most so many.
func (m *mapper) follow(most int) []api.Follow {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]api.Follow, 0, min(most, len(m.vnis)))
	for _, v := range m.vnis {
		set := api.MapSet(v)
		if m.refused[set] || len(out) == most {
			continue
		}
		f, known := m.at[set]
		if !known {
			f = api.Follow{Set: set}
			m.at[set] = f
		}
		out = append(out, f)
	}
	return out
}

// refuse notes that the head node refused a set.
func (m *mapper) refuse(r api.RefusedSet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, asked := m.at[r.Set]; asked && !m.refused[r.Set] {
		m.a.Log.Info("a set is refused", "set", r.Set, "why", &r.Why)
		m.refused[r.Set] = true
	}
}

// take takes in what the head node says of a map, and says whether that was something
// new. It takes effect with its last part.
func (m *mapper) take(d api.Delta) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, asked := m.at[d.Set]
	if !asked {
		return false // it is not wanted any more
	}
	at := was.Take(d)
	m.at[d.Set] = at
	c := m.parts[d.Set]
	if c == nil || d.Full {
		c = &mapChange{}
	}
	for _, err := range c.add(d) {
		m.a.Log.Error("this agent does not understand", "err", err)
	}
	if at.Toward != 0 {
		m.parts[d.Set] = c
		return at != was
	}
	delete(m.parts, d.Set)
	m.ready[d.Set] = m.ready[d.Set].then(c)
	poke(m.news)
	return at != was
}

// run applies what comes until ctx ends. What the kernel does not take is tried again
// soon: nothing else would come to repair it.
func (m *mapper) run(ctx context.Context) error {
	retry := backoff{min: 500 * time.Millisecond, max: 10 * time.Second}
	var again <-chan time.Time
	for {
		select {
		case <-m.news:
		case <-again:
		case <-ctx.Done():
			return nil
		}
		again = nil
		if m.apply(ctx) {
			retry.reset()
		} else {
			again = time.After(retry.next())
		}
	}
}

// apply hands what is ready to the kernel. It reports whether all of it was taken.
func (m *mapper) apply(ctx context.Context) (all bool) {
	m.mu.Lock()
	ready := m.ready
	m.ready = map[string]*mapChange{}
	m.mu.Unlock()
	all = true
	for set, c := range ready {
		vni, _ := api.VNIOfMap(set)
		err := m.a.Net.Links.ApplyMap(ctx, vni, c.whole(vni))
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !errors.Is(err, network.ErrUnknownVNI) {
			m.a.Log.Error("apply map", "vni", vni, "version", c.version, "err", err)
		}
		m.mu.Lock()
		if _, wanted := m.at[set]; wanted {
			all = false
			if newer := m.ready[set]; newer != nil {
				c = c.then(newer)
			}
			m.ready[set] = c
		}
		m.mu.Unlock()
	}
	if len(ready) > 0 {
		m.told()
	}
	return all
}
