package addresses

import (
	"container/list"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"nereid/headnode/store"
)

// OfferTTL is how long an offered address is kept for the machine that it was
// offered to; a client that retries asks again well within it.
const OfferTTL = time.Minute

// maxOffers bounds the offers in memory when NewOffers is given no bound.
const maxOffers = 4096

// Offers remembers, in memory, the addresses offered and not yet asked for, so
// that two newcomers are not offered the same one. It is bounded: in a flood the
// oldest offers are forgotten, and should two machines then ask for one address,
// Commit refuses the second. Safe for concurrent use.
type Offers struct {
	mu    sync.Mutex
	max   int
	age   *list.List // of *offered, oldest first
	byMAC map[string]*list.Element
	byIP  map[netip.Addr]*list.Element
}

type offered struct {
	mac  string
	ip   netip.Addr
	made time.Time
}

// NewOffers returns an empty table of at most max offers; 0 means 4096.
func NewOffers(max int) *Offers {
	if max <= 0 {
		max = maxOffers
	}
	return &Offers{max: max, age: list.New(), byMAC: make(map[string]*list.Element), byIP: make(map[netip.Addr]*list.Element)}
}

// Offer chooses the address a DISCOVER is answered with, in a read transaction:
// the one the MAC has, else the one offered to it before, else the requested one
// where that is free, else a free one. It is kept for the MAC for OfferTTL.
// ErrRangeFull (as *RangeFullError) when there is none.
func (o *Offers) Offer(tx store.Tx, n Network, mac string, requested netip.Addr, now time.Time) (Offer, error) {
	return o.offer(tx, n, mac, requested, now, true)
}

// Peek says what Offer would offer and remembers nothing.
func (o *Offers) Peek(tx store.Tx, n Network, mac string, requested netip.Addr, now time.Time) (Offer, error) {
	return o.offer(tx, n, mac, requested, now, false)
}

// Done forgets the offer made to a MAC. Not after a Commit that succeeded: a
// DISCOVER that is answered now, from a snapshot older than the lease, would be
// offered the same address; that offer expires by itself. Call it when Commit
// refused, or the machine declined.
func (o *Offers) Done(mac string) {
	mac, err := canonical(mac)
	if err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.byMAC[mac]; e != nil {
		o.remove(e)
	}
}

func (o *Offers) offer(tx store.Tx, n Network, mac string, requested netip.Addr, now time.Time, keep bool) (Offer, error) {
	mac, err := canonical(mac)
	if err == nil {
		err = n.check()
	}
	if err != nil {
		return Offer{}, fmt.Errorf("offer address: %w", err)
	}
	l, found, err := known(tx, n, mac)
	if err != nil {
		return Offer{}, fmt.Errorf("offer address: %w", err)
	}
	if found {
		reason := "the machine had this address before"
		switch l.State {
		case Reserved:
			reason = "reserved for server " + l.Server
		case Fixed:
			reason = "the address of the machine's NIC"
		}
		return Offer{Address: netip.PrefixFrom(l.Address, n.Own.Bits()), Known: true, Reserved: l.State == Reserved, Fixed: l.State == Fixed, Reason: reason}, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	ip, reason, err := o.choose(tx, n, mac, requested.Unmap(), now)
	if err != nil {
		return Offer{}, fmt.Errorf("offer address: %w", err)
	}
	if keep {
		o.keep(mac, ip, now)
	}
	return Offer{Address: netip.PrefixFrom(ip, n.Own.Bits()), Reason: reason}, nil
}

// choose finds an address for a newcomer.
func (o *Offers) choose(tx store.Tx, n Network, mac string, requested netip.Addr, now time.Time) (netip.Addr, string, error) {
	others := func(a netip.Addr) bool {
		e := o.byIP[a]
		return e != nil && e.Value.(*offered).mac != mac && now.Sub(e.Value.(*offered).made) < OfferTTL
	}
	if e := o.byMAC[mac]; e != nil {
		ip := e.Value.(*offered).ip
		if ok, err := free(tx, n, ip, now); err != nil || ok {
			return ip, "offered to the machine before", err
		}
	}
	if requested.Is4() && !others(requested) {
		if ok, err := free(tx, n, requested, now); err != nil || ok {
			return requested, "the machine asked for this address, and it is free", err
		}
	}
	ip, reason, found, err := unused(tx, n, now, others)
	if err != nil || found {
		return ip, reason, err
	}
	// What is left is offered, not taken. The one whose machine has not come
	// back for it for the longest goes to the one that asks now.
	for e := o.age.Front(); e != nil; e = e.Next() {
		ip := e.Value.(*offered).ip
		if ok, ferr := free(tx, n, ip, now); ferr != nil {
			return netip.Addr{}, "", ferr
		} else if ok {
			return ip, "every free address is offered; this offer has been open for the longest", nil
		}
	}
	return pick(tx, n, now, others)
}

// keep remembers an offer and forgets what is old or too much.
func (o *Offers) keep(mac string, ip netip.Addr, now time.Time) {
	if e := o.byMAC[mac]; e != nil {
		o.remove(e)
	}
	if e := o.byIP[ip]; e != nil {
		o.remove(e)
	}
	for e := o.age.Front(); e != nil && (o.age.Len() >= o.max || now.Sub(e.Value.(*offered).made) >= OfferTTL); e = o.age.Front() {
		o.remove(e)
	}
	e := o.age.PushBack(&offered{mac: mac, ip: ip, made: now})
	o.byMAC[mac], o.byIP[ip] = e, e
}

func (o *Offers) remove(e *list.Element) {
	v := o.age.Remove(e).(*offered)
	delete(o.byMAC, v.mac)
	delete(o.byIP, v.ip)
}
