package boots

import (
	"container/list"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// ContinueGap is how long a boot may be silent in its first stages and still be
// continued. Firmware gives up, or asks again, within about a minute.
const ContinueGap = 5 * time.Minute

// maxPending bounds what is in memory when NewPending is given no bound.
const maxPending = 4096

// Pending holds what is known of boots and not written yet: those that have only
// asked for an address, and the latest events of written ones, which Flush writes. It
// is bounded, and what strangers say pushes out nothing of known servers; a machine
// whose boot was forgotten mints a new one with its REQUEST. Safe for concurrent use.
type Pending struct {
	// Dropped is called in the Update that removes a boot for the bounds of this
	// package. last says that nothing is left of a stranger. It may be nil.
	Dropped func(tx store.Tx, b api.Boot, last bool) error

	mu      sync.Mutex
	class   [classes]*list.List // of *pending, oldest first
	max     [classes]int
	byID    map[string]*list.Element
	mac     map[string]*list.Element // of a MAC, what is not written of it at all
	dirty   map[string]bool          // ids with events that Flush writes
	wake    chan struct{}
	written [ranks]int // boots of strangers since they were last counted

	ofRank, slack int // maxOfRank, rankSlack; tests have less
}

// The classes of what is pending: each has a bound of its own.
const (
	once   = iota // a stranger that said one thing
	again         // a stranger that said more, as firmware that gets no answer does
	onDisk        // a stranger whose boot is written
	server        // of a known server
	classes
)

type pending struct {
	boot   api.Boot        // events are those that the latest Record took
	fresh  []api.BootEvent // events since
	stored bool            // the boot itself is written
	known  bool            // of a server
	class  int
	seen   time.Time
}

// NewPending returns an empty table of at most max boots of servers, max of
// strangers that said one thing, and a quarter of max of each other class; 0 means
// 4096.
func NewPending(max int) *Pending {
	if max <= 0 {
		max = maxPending
	}
	p := &Pending{byID: map[string]*list.Element{}, mac: map[string]*list.Element{}, dirty: map[string]bool{}, wake: make(chan struct{}, 1), ofRank: maxOfRank, slack: rankSlack}
	for c := range p.class {
		p.class[c], p.max[c] = list.New(), max
		if c == again || c == onDisk {
			p.max[c] = (max + 3) / 4
		}
	}
	return p
}

// Begin gives the boot that a DISCOVER or REQUEST of firmware or iPXE belongs to:
// the MAC's current boot where that may be continued, else a new one, and then
// fresh is true. known says that the MAC is a server's. It needs a read transaction
// only; the boot of a DISCOVER is remembered in memory until Record writes it. A
// REQUEST adds no event: record StageAck or StageIPXEAck for it. It is not for
// messages of a running system.
func (p *Pending) Begin(tx store.Tx, r api.BootRequest, known bool, now time.Time) (b api.Boot, fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, e, err := p.current(tx, r, now)
	if err != nil {
		return api.Boot{}, false, fmt.Errorf("begin boot: %w", err)
	}
	if fresh = b.ID == ""; fresh {
		b = api.Boot{ID: newID(), MAC: r.MAC, UUID: r.UUID, Arch: r.Arch, Started: now.UTC()}
		if old := p.mac[r.MAC]; old != nil {
			p.remove(old) // it has begun anew
		}
		e = p.add(&pending{boot: b, known: known}, now)
	}
	if b.UUID == "" {
		b.UUID = r.UUID
	}
	if r.Kind == api.KindDiscover {
		ev := api.BootEvent{Time: now.UTC(), Stage: api.StageDiscover}
		if r.IPXE() {
			ev.Stage = api.StageIPXEDiscover
		}
		b.Events = appendEvent(b.Events, ev)
		if e == nil {
			e = p.add(&pending{boot: api.Boot{ID: b.ID, MAC: b.MAC}, stored: true, known: known}, now)
		}
		e.Value.(*pending).boot.UUID = b.UUID
		p.say(e, ev, now)
	}
	return b, fresh, nil
}

// Peek says what Begin would give and remembers nothing; a fresh boot has no id.
func (p *Pending) Peek(tx store.Tx, r api.BootRequest, _ bool, now time.Time) (b api.Boot, fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, _, err = p.current(tx, r, now)
	if err != nil {
		return api.Boot{}, false, fmt.Errorf("begin boot: %w", err)
	}
	if b.ID == "" {
		return api.Boot{MAC: r.MAC, UUID: r.UUID, Arch: r.Arch, Started: now.UTC()}, true, nil
	}
	return b, false, nil
}

// current finds the boot a message continues; its ID is empty when a new one
// begins. e is what is in memory of it, or nil.
func (p *Pending) current(tx store.Tx, r api.BootRequest, now time.Time) (api.Boot, *list.Element, error) {
	var b api.Boot
	stored, err := ByMAC(tx, r.MAC, 1)
	if err != nil {
		return api.Boot{}, nil, err
	}
	if len(stored) == 1 {
		b = stored[0]
	}
	e := p.byID[b.ID]
	if m := p.mac[r.MAC]; m != nil && (b.ID == "" || m.Value.(*pending).boot.Started.After(b.Started)) {
		e = m
	}
	if e != nil {
		b = merge(b, e.Value.(*pending))
	}
	if b.ID == "" || !continues(b, r, now) {
		return api.Boot{}, nil, nil
	}
	return b, e, nil
}

// continues is the rule: firmware goes on with a boot that has seen nothing but
// firmware asking and iPXE being sent; iPXE also with one in which it asked itself.
// What has loaded a script and asks again has started anew, and so has a machine
// that was silent for long or has another UUID by now.
func continues(b api.Boot, r api.BootRequest, now time.Time) bool {
	if b.Done != nil || now.Sub(lastEvent(b)) > ContinueGap || b.UUID != "" && r.UUID != "" && b.UUID != r.UUID {
		return false
	}
	for _, ev := range b.Events {
		switch ev.Stage {
		case api.StageDiscover, api.StageAck, api.StageTFTP, api.StageRefused:
		case api.StageIPXEDiscover, api.StageIPXEAck:
			if !r.IPXE() {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// merge adds what is in memory to what is written (nothing, when stored is not).
func merge(written api.Boot, v *pending) api.Boot {
	b := written
	if b.ID != v.boot.ID {
		b = v.boot
		b.Events = nil
	}
	if b.UUID == "" {
		b.UUID = v.boot.UUID
	}
	for _, ev := range slices.Concat(v.boot.Events, v.fresh) {
		at := slices.IndexFunc(b.Events, func(w api.BootEvent) bool { return w.Stage == ev.Stage && w.Detail == ev.Detail })
		if at >= 0 && !b.Events[at].Time.Before(ev.Time) {
			continue // written, and Written was not called yet
		}
		n := max(1, ev.Count)
		b.Events = appendEvent(b.Events, ev)
		at = slices.IndexFunc(b.Events, func(w api.BootEvent) bool { return w.Stage == ev.Stage && w.Time.Equal(ev.Time) })
		if e := &b.Events[at]; n > 1 {
			e.Count = max(e.Count, 1) + n - 1
		}
	}
	return b
}

// Note adds an event of a boot in memory; readers see it at once, and the next
// Record or Flush writes it. It needs a read transaction only. store.ErrNotFound: no
// such boot.
func (p *Pending) Note(tx store.Tx, id string, ev api.BootEvent, now time.Time) error {
	r, err := read(tx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("note %s: %w", ev.Stage, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byID[id]
	switch {
	case e == nil && err != nil, err != nil && e.Value.(*pending).stored:
		return fmt.Errorf("note %s: %w", ev.Stage, err)
	case e == nil:
		e = p.add(&pending{boot: api.Boot{ID: r.ID, MAC: r.MAC, UUID: r.UUID}, stored: true, known: !r.Stranger}, now)
	}
	if ev.Time.IsZero() {
		ev.Time = now
	}
	ev.Time = ev.Time.UTC()
	p.say(e, ev, now)
	if e.Value.(*pending).stored {
		p.soil(id)
	}
	return nil
}

// soil has Flush write a boot.
func (p *Pending) soil(id string) {
	p.dirty[id] = true
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// say adds an event to what is in memory of a boot, which is the latest heard of then.
func (p *Pending) say(e *list.Element, ev api.BootEvent, now time.Time) {
	v := e.Value.(*pending)
	v.fresh, v.seen = appendEvent(v.fresh, ev), now
	p.sort(e)
}

// ByMAC lists the boots of a MAC, written or not, newest first, at most limit; 0
// means all that are kept.
func (p *Pending) ByMAC(tx store.Tx, mac string, limit int) ([]api.Boot, error) {
	all, err := ByMAC(tx, mac, limit)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, b := range all {
		all[i] = p.news(b)
	}
	if e := p.mac[strings.ToLower(mac)]; e != nil {
		if v := e.Value.(*pending); len(all) == 0 || v.boot.Started.After(all[0].Started) {
			all = slices.Insert(all, 0, merge(api.Boot{}, v))
		}
	}
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all, nil
}

// news is a written boot with what is in memory of it, under p.mu.
func (p *Pending) news(b api.Boot) api.Boot {
	if e := p.byID[b.ID]; e != nil {
		return merge(b, e.Value.(*pending))
	}
	return b
}

// Get reads a boot, written or not; Legs is not filled.
func (p *Pending) Get(tx store.Tx, id string) (api.Boot, error) {
	r, err := read(tx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.Boot{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byID[id]
	if e == nil {
		return r.Boot, err
	}
	if v := e.Value.(*pending); err == nil || !v.stored {
		return merge(r.Boot, v), nil
	}
	return api.Boot{}, err // removed from the store
}

// add remembers a boot.
func (p *Pending) add(v *pending, now time.Time) *list.Element {
	if e := p.byID[v.boot.ID]; e != nil {
		p.remove(e)
	}
	v.class, v.seen = classOf(v), now
	p.place(v)
	return p.byID[v.boot.ID]
}

// place puts a boot at the end of its class.
func (p *Pending) place(v *pending) {
	e := p.class[v.class].PushBack(v)
	p.byID[v.boot.ID] = e
	if !v.stored {
		p.mac[v.boot.MAC] = e
	}
	p.bound(v.class, v.seen)
}

// sort moves a boot to the end of the class it belongs to now.
func (p *Pending) sort(e *list.Element) {
	v := e.Value.(*pending)
	p.class[v.class].Remove(e)
	v.class = classOf(v)
	p.place(v)
}

func classOf(v *pending) int {
	switch n := len(v.fresh); {
	case v.known:
		return server
	case v.stored:
		return onDisk
	case n > 1 || n == 1 && v.fresh[0].Count > 1:
		return again
	}
	return once
}

// bound forgets what is old or too much of a class.
func (p *Pending) bound(class int, now time.Time) {
	l := p.class[class]
	for e := l.Front(); e != nil && (l.Len() > p.max[class] || now.Sub(e.Value.(*pending).seen) > rememberIt); e = l.Front() {
		p.remove(e)
	}
}

func (p *Pending) remove(e *list.Element) {
	v := e.Value.(*pending)
	p.class[v.class].Remove(e)
	delete(p.byID, v.boot.ID)
	delete(p.dirty, v.boot.ID)
	if p.mac[v.boot.MAC] == e {
		delete(p.mac, v.boot.MAC)
	}
}
