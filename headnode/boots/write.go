package boots

import (
	"errors"
	"fmt"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// flushed is how many boots one Flush writes.
const flushed = 256

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
	known := p.take(id)
	b, err := p.Get(tx, id)
	if err != nil {
		return api.Boot{}, err
	}
	r := record{Boot: b, Stranger: !known}
	if old.ID != "" {
		r.Stranger = old.Stranger && !known
	}
	edit(&r.Boot)
	r.ID, r.MAC, r.Started, r.Legs = id, b.MAC, b.Started, nil
	if err := write(tx, old, r); err != nil {
		return api.Boot{}, err
	}
	if old.ID == "" || r.Stranger && rank(r.Boot) != rank(old.Boot) {
		return r.Boot, p.trim(tx, r)
	}
	return r.Boot, nil
}

// take makes what is in memory of a boot what the present Update writes, and says
// whether the boot is known to be a server's.
func (p *Pending) take(id string) (known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byID[id]
	if e == nil {
		return false
	}
	v := e.Value.(*pending)
	v.boot.Events, v.fresh = merge(api.Boot{}, v).Events, nil
	return v.known
}

// Written says that the Update with Record, Edit or Flush returned without error:
// what it took from memory is in the store now. Events since then stay.
func (p *Pending) Written(ids ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		e := p.byID[id]
		if e == nil {
			continue
		}
		v := e.Value.(*pending)
		if len(v.fresh) == 0 {
			p.remove(e)
			continue
		}
		if p.mac[v.boot.MAC] == e {
			delete(p.mac, v.boot.MAC)
		}
		v.boot.Events, v.stored = nil, true
		p.sort(e)
		p.soil(id)
	}
}

// Later adds an event of a boot in memory, as Note does, and has Flush write it. The
// boot need not be written at all yet: then Flush writes it with the address. It does
// nothing and gives false where Record is to write the boot at once: the boot has
// another address, or it is a server's and this event names it to the machine, which
// could not go on if the boot were forgotten. StageAck does not: what firmware loads
// is the same for all, and iPXE asks anew.
func (p *Pending) Later(tx store.Tx, id, address string, ev api.BootEvent, now time.Time) (bool, error) {
	r, err := read(tx, id)
	if err == nil {
		if r.Address != address {
			return false, nil
		}
		return true, p.Note(tx, id, ev, now)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return false, fmt.Errorf("note %s: %w", ev.Stage, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byID[id]
	if e == nil {
		return false, nil
	}
	v := e.Value.(*pending)
	if v.known && ev.Stage != api.StageAck || v.stored || v.boot.Address != "" && v.boot.Address != address {
		return false, nil
	}
	v.boot.Address, ev.Time = address, now.UTC()
	p.say(e, ev, now)
	p.soil(id)
	return true, nil
}

// Dirty receives when events were noted that Flush has not written yet.
func (p *Pending) Dirty() <-chan struct{} { return p.wake }

// Flush writes events that were noted, of at most 256 boots, in one Update. more says
// that it is to be called again. Call Written with the ids once the Update returned.
func (p *Pending) Flush(tx store.Tx) (ids []string, more bool, err error) {
	p.mu.Lock()
	for id := range p.dirty {
		if len(ids) == flushed {
			more = true
			break
		}
		ids = append(ids, id)
	}
	p.mu.Unlock()
	for _, id := range ids {
		_, err := p.change(tx, id, func(*api.Boot) {})
		if err != nil && !errors.Is(err, store.ErrNotFound) { // it was removed meanwhile
			return nil, false, fmt.Errorf("write boot events: %w", err)
		}
	}
	return ids, more, nil
}
