package addresses

import (
	"fmt"
	"net/netip"
	"time"

	"nereid/headnode/store"
)

// cursorKey was where the search for addresses went on, before there was a Registry.
const cursorKey = "address/cursor"

// Yield frees an address whose lease or quarantine is over, for somebody other than
// a DHCP client who names it. It does nothing while the lease lasts, and where
// there is none.
func Yield(tx store.Tx, n Network, a netip.Addr, now time.Time) error {
	if !a.Is4() {
		return nil
	}
	l, found, err := store.Lookup[Lease](tx, ipKey(a))
	if err == nil && found && l.State != Freed && l.State != Reserved && !now.Before(l.Expires) {
		err = put(tx, n, freedOf(l, now), now)
	}
	if err != nil {
		return fmt.Errorf("end lease of %v: %w", a, err)
	}
	return nil
}

// YieldOldest frees the address whose lease has been over for the longest, where
// nothing else of the range is free.
func YieldOldest(tx store.Tx, n Network, now time.Time) error {
	none := func(netip.Addr) bool { return false }
	_, _, found, err := n.Registry.Next(tx, none)
	if err == nil && !found {
		var l Lease
		if l, found, err = oldest(tx, n, now, none); err == nil && found {
			err = put(tx, n, freedOf(l, now), now)
		}
	}
	if err != nil {
		return fmt.Errorf("end the oldest lease: %w", err)
	}
	return nil
}

// Held lists the leases that a registry has to know of when it is made.
func Held(tx store.Tx) ([]Lease, error) {
	var out []Lease
	for e, err := range store.Each[Lease](tx, ipPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list leases: %w", err)
		}
		if e.Value.State != Freed {
			out = append(out, e.Value)
		}
	}
	return out, tx.Delete(cursorKey)
}

// Drop ends a lease, whatever is left of it: its address is another's. The machine
// gets another one when it asks again.
func Drop(tx store.Tx, n Network, a netip.Addr, now time.Time) error {
	l, err := ByIP(tx, a)
	if err == nil {
		err = put(tx, n, freedOf(l, now), now)
	}
	if err != nil {
		return fmt.Errorf("end lease of %v: %w", a, err)
	}
	return nil
}
