// Package admit bounds what clients hold at once (connections, transfers, requests), so
// that one client does not use up what all share. The boot server and the head node
// both keep their doors with it, so it belongs to neither.
//
// Each address has a bound of its own. When all places are taken, the address that
// holds the most gives one to an address that holds at least two fewer. Strangers have
// a bound together, and known clients do not give way to them.
package admit

import (
	"container/list"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Door lets clients in. Its fields must not change once it was used.
type Door struct {
	Total     int  // places
	Strangers int  // places for all clients that are not known; 0: Total
	PerClient int  // places for one address
	Stay      bool // nobody gives way: what holds a place cannot be broken off
	Turns     bool // where no stranger has two, the first gives its only place to one that has none

	// Known reports, from memory, whether an address is a known client's. nil: none is.
	Known func(netip.Addr) bool
	// Shed, when not nil, hears of who was not let in, or gave way, beyond which bound:
	// "beyond 64 of one client".
	Shed func(beyond string, who netip.Addr)

	mu      sync.Mutex
	clients map[netip.Addr]*client
	kinds   [2]kind // strangers, known
}

// kind counts what the clients of a kind hold.
type kind struct {
	places int
	with   []*list.List // *client, by how many places each has
}

// client is an address that has places.
type client struct {
	addr   netip.Addr
	kind   int
	places list.List     // *Place, the newest last
	at     *list.Element // in the list of those with as many places
}

// Place is one of the things that a client holds.
type Place struct {
	door  *Door
	of    *client
	at    *list.Element // nil: it was given up
	leave func()
}

const (
	stranger = iota
	known
)

// Enter takes a place for an address. Without one it says beyond which bound the
// address is. leave, which may be nil, is called when the place goes to another client.
func (d *Door) Enter(addr netip.Addr, leave func()) (*Place, string) {
	addr = addr.Unmap().WithZone("")
	as := stranger
	if d.Known != nil && d.Known(addr) {
		as = known
	}
	p, gone, beyond := d.enter(addr, as, leave)
	switch {
	case gone != nil:
		d.shed("that gave way to other clients", gone.of.addr)
		if gone.leave != nil {
			gone.leave()
		}
	case p == nil:
		d.shed(beyond, addr)
	}
	return p, beyond
}

func (d *Door) shed(beyond string, who netip.Addr) {
	if d.Shed != nil {
		d.Shed(beyond, who)
	}
}

func (d *Door) enter(addr netip.Addr, as int, leave func()) (p, gone *Place, beyond string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.clients == nil {
		d.clients = map[netip.Addr]*client{}
	}
	c := d.clients[addr]
	if c == nil {
		c = &client{addr: addr, kind: as}
	} else if as == known {
		d.turn(c)
	}
	has := c.places.Len()
	if has >= d.PerClient {
		return nil, nil, d.OfOne()
	}
	if full, beyond := d.full(c.kind); full {
		if gone = d.yields(c.kind, has); gone == nil {
			return nil, nil, beyond
		}
		d.drop(gone)
	}
	d.clients[addr] = c
	p = &Place{door: d, of: c, leave: leave}
	d.move(c, func() { p.at = c.places.PushBack(p) })
	return p, gone, ""
}

// full says whether another place of a kind is one too many.
func (d *Door) full(as int) (bool, string) {
	if d.Strangers > 0 && as == stranger && d.kinds[stranger].places >= d.Strangers {
		return true, fmt.Sprintf("beyond %d of strangers", d.Strangers)
	}
	return d.kinds[stranger].places+d.kinds[known].places >= d.Total, fmt.Sprintf("beyond %d at once", d.Total)
}

// yields gives the place that goes to a client of a kind with so many places. A known
// client gets one of a stranger before one of another known client.
func (d *Door) yields(as, has int) *Place {
	if d.Stay {
		return nil
	}
	if as == stranger {
		if p := d.kinds[stranger].most(has + 2); p != nil || !d.Turns || has > 0 {
			return p
		}
		return d.kinds[stranger].most(1)
	}
	if p := d.kinds[stranger].most(1); p != nil {
		return p
	}
	return d.kinds[known].most(has + 2)
}

// most gives the newest place of the client with the most places, if it has at least
// so many; of several such clients the one that has had as many for the longest.
func (k *kind) most(least int) *Place {
	for n := len(k.with) - 1; n >= least; n-- {
		if e := k.with[n].Front(); e != nil {
			return e.Value.(*client).places.Back().Value.(*Place)
		}
	}
	return nil
}

// move changes how many places a client has.
func (d *Door) move(c *client, change func()) {
	d.count(c, -1)
	change()
	d.count(c, +1)
	if c.places.Len() == 0 {
		delete(d.clients, c.addr)
	}
}

// count adds a client to what its kind has, or takes it out.
func (d *Door) count(c *client, sign int) {
	n, k := c.places.Len(), &d.kinds[c.kind]
	if n == 0 {
		return
	}
	k.places += sign * n
	if sign < 0 {
		k.with[n].Remove(c.at)
		return
	}
	for len(k.with) <= n {
		k.with = append(k.with, list.New())
	}
	c.at = k.with[n].PushBack(c)
}

// turn makes a client a known one.
func (d *Door) turn(c *client) {
	d.count(c, -1)
	c.kind = known
	d.count(c, +1)
}

func (d *Door) drop(p *Place) {
	d.move(p.of, func() { p.of.places.Remove(p.at) })
	p.at = nil
}

// OfOne is what Enter says of an address beyond its own bound.
func (d *Door) OfOne() string { return fmt.Sprintf("beyond %d of one client", d.PerClient) }

// Leave gives a place up. It may be called again.
func (p *Place) Leave() {
	p.door.mu.Lock()
	defer p.door.mu.Unlock()
	if p.at != nil {
		p.door.drop(p)
	}
}

// Prove says that who holds the place proved to be a known client: its address counts
// as one as long as it holds anything.
func (p *Place) Prove() {
	p.door.mu.Lock()
	defer p.door.mu.Unlock()
	if p.at != nil && p.of.kind != known {
		p.door.turn(p.of)
	}
}

// SlowDown lets a client wait for a second that asks too often: one that is refused at
// once asks again at once. It ends with ctx.
func SlowDown(ctx context.Context) {
	t := time.NewTimer(lateBy)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Held says how many places are taken.
func (d *Door) Held() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kinds[stranger].places + d.kinds[known].places
}
