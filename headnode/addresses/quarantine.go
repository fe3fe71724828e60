package addresses

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nereid/headnode/store"
)

// Quarantine is how long an address is kept back after the first DECLINE of it. It
// doubles with each further one, up to QuarantineMax: somebody who makes DECLINEs up
// takes an address out of use for minutes, and a stranger's address stays out.
const (
	Quarantine    = 5 * time.Minute
	QuarantineMax = time.Hour
)

// Bounds of what is kept back at once: of one MAC, and of all of them, since MACs
// can be invented: an eighth of the range, and never more than maxBad.
const (
	maxBadOfMAC = 2
	maxBad      = 32
)

func quarantine(declines int) time.Duration {
	return min(QuarantineMax, Quarantine<<min(max(0, declines-1), 16))
}

// Decline takes an address out of use for a while: its holder found somebody else
// answering there (RFC 2131, section 4.3.3). until is when it may be given out again.
// It is zero where the MAC, or all MACs together, have declined as much as is kept
// back at once: then the address only goes to the end of those that are free. The
// MAC gets another one, also when this one was reserved. ErrNotHolder when the MAC
// does not hold the address.
func Decline(tx store.Tx, n Network, mac string, addr netip.Addr, now time.Time) (until time.Time, err error) {
	l, err := holding(tx, mac, addr)
	if err == nil {
		until, err = decline(tx, n, l, now)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("decline address: %w", err)
	}
	return until, nil
}

func decline(tx store.Tx, n Network, l Lease, now time.Time) (time.Time, error) {
	all, err := quarantined(tx)
	if err != nil {
		return time.Time{}, err
	}
	kept, own := 0, 0
	for _, b := range all {
		switch {
		case !now.Before(b.Expires): // its time is over, so it is as any other
			b.State, b.DeclinedBy = Freed, ""
			if err := put(tx, n, b, now); err != nil {
				return time.Time{}, err
			}
		case b.DeclinedBy == l.MAC:
			own++
			fallthrough
		default:
			kept++
		}
	}
	free := Lease{Address: l.Address, State: Freed, Since: now, Renewed: l.Renewed, Expires: now, Declines: l.Declines}
	if own >= maxBadOfMAC || kept >= min(maxBad, max(1, n.size()/8)) {
		return time.Time{}, put(tx, n, free, now)
	}
	bad := free
	bad.State, bad.DeclinedBy, bad.Declines = Bad, l.MAC, l.Declines+1
	bad.Expires = now.Add(quarantine(bad.Declines))
	return bad.Expires, put(tx, n, bad, now)
}

// Quarantined lists the addresses that are kept back now.
func Quarantined(tx store.Tx, now time.Time) ([]Lease, error) {
	all, err := quarantined(tx)
	if err != nil {
		return nil, fmt.Errorf("addresses in quarantine: %w", err)
	}
	var out []Lease
	for _, l := range all {
		if now.Before(l.Expires) {
			out = append(out, l)
		}
	}
	return out, nil
}

// quarantined reads the records that badPrefix lists, those whose time is over too.
func quarantined(tx store.Tx) ([]Lease, error) {
	var out []Lease
	for it, err := range tx.Scan(badPrefix, "") {
		if err != nil {
			return nil, err
		}
		a, err := parseIPKey(ipPrefix + it.Key[len(badPrefix):])
		if err != nil {
			return nil, err
		}
		l, err := ByIP(tx, a)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// lastResort is the address of the range that comes out of quarantine first, for
// when nothing else is left: a stranger's address may be free again, and a machine
// that finds it taken declines it.
func lastResort(tx store.Tx, n Network, skip func(netip.Addr) bool) (netip.Addr, bool, error) {
	all, err := quarantined(tx)
	first := Lease{}
	for _, l := range all {
		if n.inRange(l.Address) && !skip(l.Address) && (first.Expires.IsZero() || l.Expires.Before(first.Expires)) {
			first = l
		}
	}
	return first.Address, !first.Expires.IsZero(), err
}

// onlyBad says whether an address in quarantine may be taken: nothing else is left.
func onlyBad(tx store.Tx, n Network, a netip.Addr, now time.Time) (bool, error) {
	l, err := ByIP(tx, a)
	if errors.Is(err, store.ErrNotFound) || err == nil && l.State != Bad {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, _, found, err := unused(tx, n, now, func(netip.Addr) bool { return false })
	return !found, err
}
