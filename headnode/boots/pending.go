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
// asked for an address, and the latest DISCOVERs of written ones. It is bounded; in
// a flood the oldest are forgotten, and such a machine's REQUEST mints a new boot.
// Safe for concurrent use.
type Pending struct {
	mu   sync.Mutex
	max  int
	age  *list.List // of *pending, oldest first
	byID map[string]*list.Element
	mac  map[string]*list.Element // newest pending of a MAC
}

type pending struct {
	boot   api.Boot // events hold only what is not written
	stored bool     // the boot itself is written
	seen   time.Time
}

// NewPending returns an empty table of at most max boots; 0 means 4096.
func NewPending(max int) *Pending {
	if max <= 0 {
		max = maxPending
	}
	return &Pending{max: max, age: list.New(), byID: make(map[string]*list.Element), mac: make(map[string]*list.Element)}
}

// isIPXE says whether iPXE, and not firmware, sent the message.
func isIPXE(r api.BootRequest) bool { return strings.HasPrefix(r.UserClass, "iPXE") }

// Begin gives the boot that a DISCOVER or REQUEST of firmware or iPXE belongs to:
// the MAC's current boot where that may be continued, else a new one, and then
// fresh is true. It needs a read transaction only; the boot of a DISCOVER is
// remembered in memory until Record writes it. A REQUEST adds no event: record
// StageAck or StageIPXEAck for it. It is not for messages of a running system.
func (p *Pending) Begin(tx store.Tx, r api.BootRequest, now time.Time) (b api.Boot, fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, e, err := p.current(tx, r, now)
	if err != nil {
		return api.Boot{}, false, fmt.Errorf("begin boot: %w", err)
	}
	if fresh = b.ID == ""; fresh {
		b = api.Boot{ID: newID(), MAC: r.MAC, UUID: r.UUID, Arch: r.Arch, Started: now.UTC()}
		e = p.add(&pending{boot: b}, now)
	}
	if b.UUID == "" {
		b.UUID = r.UUID
	}
	if r.Kind == api.KindDiscover {
		ev := api.BootEvent{Time: now.UTC(), Stage: api.StageDiscover}
		if isIPXE(r) {
			ev.Stage = api.StageIPXEDiscover
		}
		b.Events = appendEvent(b.Events, ev)
		if e == nil {
			e = p.add(&pending{boot: api.Boot{ID: b.ID, MAC: b.MAC}, stored: true}, now)
		}
		v := e.Value.(*pending)
		v.boot.Events = appendEvent(v.boot.Events, ev)
		v.boot.UUID, v.seen = b.UUID, now
		p.age.MoveToBack(e)
	}
	return b, fresh, nil
}

// Peek says what Begin would give and remembers nothing; a fresh boot has no id.
func (p *Pending) Peek(tx store.Tx, r api.BootRequest, now time.Time) (b api.Boot, fresh bool, err error) {
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
	e := p.mac[r.MAC]
	if e != nil {
		if v := e.Value.(*pending); b.ID == "" || v.boot.ID == b.ID || !v.stored && v.boot.Started.After(b.Started) {
			b = merge(b, v)
		} else {
			e = nil
		}
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
			if !isIPXE(r) {
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
	if written.ID != v.boot.ID {
		b := v.boot
		b.Events = slices.Clone(b.Events)
		return b
	}
	if written.UUID == "" {
		written.UUID = v.boot.UUID
	}
	for _, ev := range v.boot.Events {
		at := slices.IndexFunc(written.Events, func(w api.BootEvent) bool { return w.Stage == ev.Stage && w.Detail == ev.Detail })
		if at >= 0 && !written.Events[at].Time.Before(ev.Time) {
			continue // written, and Written was not called yet
		}
		n := max(1, ev.Count)
		written.Events = appendEvent(written.Events, ev)
		at = slices.IndexFunc(written.Events, func(w api.BootEvent) bool { return w.Stage == ev.Stage && w.Time.Equal(ev.Time) })
		if e := &written.Events[at]; n > 1 {
			e.Count = max(e.Count, 1) + n - 1
		}
	}
	return written
}

// Record appends an event in an Update and writes the boot, with what is in memory
// of it. edit, which may be nil, sets further fields: Address, UUID, Platform,
// Trial, Timings. An event without a time happens now; StageFirstSync sets Done.
// Call Written once the Update has returned. store.ErrNotFound: no such boot.
func (p *Pending) Record(tx store.Tx, id string, ev api.BootEvent, now time.Time, edit func(*api.Boot)) (api.Boot, error) {
	b, err := p.change(tx, id, func(b *api.Boot) {
		if ev.Time.IsZero() {
			ev.Time = now
		}
		ev.Time = ev.Time.UTC()
		b.Events = appendEvent(b.Events, ev)
		if ev.Stage == api.StageFirstSync && b.Done == nil {
			at := ev.Time
			b.Done = &at
		}
		if edit != nil {
			edit(b)
		}
	})
	if err != nil {
		return api.Boot{}, fmt.Errorf("record %s: %w", ev.Stage, err)
	}
	return b, nil
}

// Edit changes fields of a boot in an Update and adds no event; see Record.
func (p *Pending) Edit(tx store.Tx, id string, edit func(*api.Boot)) (api.Boot, error) {
	b, err := p.change(tx, id, edit)
	if err != nil {
		return api.Boot{}, fmt.Errorf("edit boot: %w", err)
	}
	return b, nil
}

func (p *Pending) change(tx store.Tx, id string, edit func(*api.Boot)) (api.Boot, error) {
	old, err := read(tx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.Boot{}, err
	}
	written := err == nil
	b, err := p.Get(tx, id)
	if err != nil {
		return api.Boot{}, err
	}
	mac, started := b.MAC, b.Started
	edit(&b)
	b.ID, b.MAC, b.Started, b.Legs = id, mac, started, nil
	if written {
		return b, replace(tx, old, b)
	}
	return b, insert(tx, b)
}

// Written says that the Update with Record or Edit returned without error: what
// was in memory of the boot is in the store now.
func (p *Pending) Written(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.byID[id]; e != nil {
		p.remove(e)
	}
}

// Get reads a boot, written or not; Legs is not filled.
func (p *Pending) Get(tx store.Tx, id string) (api.Boot, error) {
	b, err := read(tx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.Boot{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byID[id]
	if e == nil {
		return b, err
	}
	if v := e.Value.(*pending); err == nil || !v.stored {
		return merge(b, v), nil
	}
	return api.Boot{}, err // removed from the store
}

// add remembers a boot and forgets what is old or too much.
func (p *Pending) add(v *pending, now time.Time) *list.Element {
	for e := p.age.Front(); e != nil && (p.age.Len() >= p.max || now.Sub(e.Value.(*pending).seen) > ContinueGap); e = p.age.Front() {
		p.remove(e)
	}
	if e := p.byID[v.boot.ID]; e != nil {
		p.remove(e)
	}
	v.seen = now
	e := p.age.PushBack(v)
	p.byID[v.boot.ID], p.mac[v.boot.MAC] = e, e
	return e
}

func (p *Pending) remove(e *list.Element) {
	v := p.age.Remove(e).(*pending)
	delete(p.byID, v.boot.ID)
	if p.mac[v.boot.MAC] == e {
		delete(p.mac, v.boot.MAC)
	}
}
