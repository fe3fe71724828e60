package addresses

import (
	"errors"
	"net/netip"
	"time"

	"nereid/headnode/store"
)

// cursor remembers below which address of a range each one has a record.
type cursor struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
	Next  uint64     `json:"next"`
}

// readCursor gives the cursor of the network's range; a range that was changed
// is searched from its start again.
func readCursor(tx store.Tx, n Network) (cursor, error) {
	c, found, err := store.Lookup[cursor](tx, cursorKey)
	if err != nil {
		return cursor{}, err
	}
	if !found || c.First != n.First || c.Last != n.Last {
		c = cursor{First: n.First, Last: n.Last, Next: number(n.First)}
	}
	return c, nil
}

// advance moves the cursor past what has a record by now. Over the life of a
// range each address is passed once.
func advance(tx store.Tx, n Network) error {
	c, err := readCursor(tx, n)
	if err != nil {
		return err
	}
	from := c.Next
	for ; c.Next <= number(n.Last); c.Next++ {
		if a := address(c.Next); n.inRange(a) {
			if has, err := store.Has(tx, ipKey(a)); err != nil {
				return err
			} else if !has {
				break
			}
		}
	}
	if c.Next == from {
		return nil
	}
	return store.Put(tx, cursorKey, c)
}

// known finds the lease a MAC can go on with.
func known(tx store.Tx, n Network, mac string) (Lease, bool, error) {
	l, err := ByMAC(tx, mac)
	if errors.Is(err, store.ErrNotFound) {
		return Lease{}, false, nil
	}
	if err != nil {
		return Lease{}, false, err
	}
	ok := l.State == Reserved && n.usable(l.Address) || l.State == Leased && n.inRange(l.Address)
	return l, ok, nil
}

// free says whether a newcomer can have an address of the range now.
func free(tx store.Tx, n Network, a netip.Addr, now time.Time) (bool, error) {
	if !n.inRange(a) {
		return false, nil
	}
	l, err := ByIP(tx, a)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return l.State == Freed || l.State != Reserved && !now.Before(l.Expires), nil
}

// pick chooses an address for a newcomer, not one of those skip names: first what
// nobody had yet, then what has been free for the longest, at last what is in
// quarantine.
func pick(tx store.Tx, n Network, now time.Time, skip func(netip.Addr) bool) (netip.Addr, string, error) {
	a, reason, found, err := unused(tx, n, now, skip)
	if err != nil || found {
		return a, reason, err
	}
	if a, found, err = lastResort(tx, n, skip); err != nil || found {
		return a, "every other address is in use; this one was declined, and is tried again before the others that were", err
	}
	counts, err := Usage(tx, n, now)
	if err != nil {
		return netip.Addr{}, "", err
	}
	return netip.Addr{}, "", &RangeFullError{First: n.First, Last: n.Last, Counts: counts}
}

// unused is pick without what is in quarantine.
func unused(tx store.Tx, n Network, now time.Time, skip func(netip.Addr) bool) (netip.Addr, string, bool, error) {
	c, err := readCursor(tx, n)
	if err != nil {
		return netip.Addr{}, "", false, err
	}
	a, found, err := gap(tx, n, c.Next, skip)
	if err != nil || found {
		return a, "first address of the range that nobody had yet", found, err
	}
	for it, err := range tx.Scan(expiryPrefix, "") {
		if err != nil {
			return netip.Addr{}, "", false, err
		}
		until, a, err := parseExpiryKey(it.Key)
		if err != nil {
			return netip.Addr{}, "", false, err
		}
		if now.Before(until) {
			break
		}
		if skip(a) {
			continue
		}
		if ok, err := free(tx, n, a, now); err != nil {
			return netip.Addr{}, "", false, err
		} else if ok {
			return a, "every address of the range was used before; this one has been free for the longest", true, nil
		}
	}
	return netip.Addr{}, "", false, nil
}

// gap finds the first address from the given one on that has no record.
func gap(tx store.Tx, n Network, from uint64, skip func(netip.Addr) bool) (netip.Addr, bool, error) {
	try := func(end uint64) (netip.Addr, bool) { // from..end-1
		for ; from < end && from <= number(n.Last); from++ {
			if a := address(from); n.inRange(a) && !skip(a) {
				return a, true
			}
		}
		return netip.Addr{}, false
	}
	after := ""
	if from > 0 {
		after = ipKey(address(from - 1))
	}
	for it, err := range tx.Scan(ipPrefix, after) {
		if err != nil {
			return netip.Addr{}, false, err
		}
		taken, err := parseIPKey(it.Key)
		if err != nil {
			return netip.Addr{}, false, err
		}
		if a, ok := try(number(taken)); ok {
			return a, true, nil
		}
		if from = number(taken) + 1; from > number(n.Last) {
			return netip.Addr{}, false, nil
		}
	}
	a, ok := try(number(n.Last) + 1)
	return a, ok, nil
}
