package addresses

import (
	"errors"
	"net/netip"
	"time"

	"nereid/headnode/store"
)

// known finds the lease a MAC can go on with. A NIC has its address without one.
func known(tx store.Tx, n Network, mac string) (Lease, bool, error) {
	l, err := Of(tx, n, mac)
	if errors.Is(err, store.ErrNotFound) {
		return Lease{}, false, nil
	}
	if err != nil {
		return Lease{}, false, err
	}
	ok := l.State == Fixed || l.State == Reserved && n.usable(l.Address) || l.State == Leased && n.inRange(l.Address)
	return l, ok, nil
}

// free says whether a newcomer can have an address of the range now.
func free(tx store.Tx, n Network, a netip.Addr, now time.Time) (bool, error) {
	if !n.inRange(a) {
		return false, nil
	}
	l, found, err := store.Lookup[Lease](tx, ipKey(a))
	if err != nil {
		return false, err
	}
	if !found || l.State == Freed {
		return n.Registry.Free(tx, a)
	}
	return l.State != Reserved && !now.Before(l.Expires), nil
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
	a, since, found, err := n.Registry.Next(tx, skip)
	if err != nil || found && since.IsZero() {
		return a, "first address of the range that nobody used lately", found, err
	}
	l, over, err := oldest(tx, n, now, skip)
	if err != nil {
		return netip.Addr{}, "", false, err
	}
	if over && (!found || l.Expires.Before(since)) {
		a, found = l.Address, true
	}
	return a, "every address of the range was used lately; this one has been free for the longest", found, nil
}

// oldest finds the lease, or quarantine, that has been over for the longest.
func oldest(tx store.Tx, n Network, now time.Time, skip func(netip.Addr) bool) (Lease, bool, error) {
	for it, err := range tx.Scan(expiryPrefix, "") {
		if err != nil {
			return Lease{}, false, err
		}
		until, a, err := parseExpiryKey(it.Key)
		if err != nil {
			return Lease{}, false, err
		}
		if now.Before(until) {
			break
		}
		if State(it.Value) == Freed || !n.inRange(a) || skip(a) {
			continue
		}
		l, err := ByIP(tx, a)
		return l, err == nil, err
	}
	return Lease{}, false, nil
}
