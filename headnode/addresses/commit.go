package addresses

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nereid/headnode/store"
)

// Commit makes a REQUEST's address the MAC's lease, or renews it; the ACK may be
// sent once the Update returned. server is the UUID of the inventory's server the
// MAC belongs to, which makes the lease a reservation; empty: it expires after the
// network's lease time.
//
// Each of these errors calls for a NAK: *WrongAddressError (the MAC has another
// address), ErrTaken, ErrNotServers, ErrNotOnNetwork.
func Commit(tx store.Tx, n Network, mac string, addr netip.Addr, server string, now time.Time) (Lease, error) {
	mac, err := canonical(mac)
	if err == nil {
		err = n.check()
	}
	if err != nil {
		return Lease{}, fmt.Errorf("commit lease: %w", err)
	}
	addr = addr.Unmap()
	if !addr.Is4() || !n.Own.Contains(addr) {
		return Lease{}, fmt.Errorf("commit lease: %v, network %v: %w", addr, n.Own.Masked(), ErrNotOnNetwork)
	}
	l, found, err := known(tx, n, mac)
	if err != nil {
		return Lease{}, fmt.Errorf("commit lease: %w", err)
	}
	if found && l.Address != addr {
		return Lease{}, &WrongAddressError{MAC: mac, Asked: addr, Has: l.Address}
	}
	if l.State == Fixed {
		return l, nil
	}
	if !found {
		if !n.inRange(addr) {
			return Lease{}, fmt.Errorf("commit lease: %v, range %v-%v: %w", addr, n.First, n.Last, ErrNotServers)
		}
		ok, err := free(tx, n, addr, now)
		if err == nil && !ok {
			ok, err = onlyBad(tx, n, addr, now)
		}
		if err != nil {
			return Lease{}, fmt.Errorf("commit lease: %w", err)
		}
		if !ok {
			return Lease{}, fmt.Errorf("commit lease: %v: %w", addr, ErrTaken)
		}
		if l, err = begun(tx, addr, mac, now); err != nil {
			return Lease{}, fmt.Errorf("commit lease: %w", err)
		}
	}
	if now.Sub(l.Since) > Quarantine {
		l.Declines = 0 // who still uses an address found nobody else there
	}
	l = held(l, n, server, now)
	if err := put(tx, n, l, now); err != nil {
		return Lease{}, fmt.Errorf("commit lease: %w", err)
	}
	return l, nil
}

// Current says whether the MAC has the address, and Commit would change nothing of
// note: it is reserved for this server, which has no end, or the lease was written in
// the last quarter of the lease time.
func Current(tx store.Tx, n Network, mac string, addr netip.Addr, server string, now time.Time) (Lease, bool, error) {
	mac, err := canonical(mac)
	if err == nil {
		err = n.check()
	}
	if err != nil {
		return Lease{}, false, fmt.Errorf("look at lease: %w", err)
	}
	l, found, err := known(tx, n, mac)
	if err != nil {
		return Lease{}, false, fmt.Errorf("look at lease: %w", err)
	}
	if !found || l.Address != addr.Unmap() {
		return l, false, nil
	}
	settles := l.Declines > 0 && now.Sub(l.Since) > Quarantine
	switch age := now.Sub(l.Renewed); {
	case l.State == Fixed:
		return l, true, nil
	case l.Server != server || settles:
		return l, false, nil
	case l.State == Reserved:
		return l, true, nil
	default:
		return l, l.Active(now) && age >= 0 && age < n.Lease/4, nil
	}
}

// begun is a MAC's new lease of an address. How often others declined the address
// stays with it.
func begun(tx store.Tx, a netip.Addr, mac string, now time.Time) (Lease, error) {
	old, _, err := store.Lookup[Lease](tx, ipKey(a))
	return Lease{Address: a, MAC: mac, Since: now, Declines: old.Declines}, err
}

// held gives a lease the state and times of one that is used from now on.
func held(l Lease, n Network, server string, now time.Time) Lease {
	l.State, l.Server, l.Renewed, l.Expires = Leased, server, now, now.Add(n.Lease)
	if server != "" {
		l.State, l.Expires = Reserved, time.Time{}
	}
	return l
}

// Reserve binds the MAC's address to a server of the inventory, for good; a MAC
// without one gets one. ErrRangeFull when there is none left.
func Reserve(tx store.Tx, n Network, mac, server string, now time.Time) (Lease, error) {
	mac, err := canonical(mac)
	if err == nil {
		err = n.check()
	}
	if err == nil && server == "" {
		err = errors.New("no server named")
	}
	if err != nil {
		return Lease{}, fmt.Errorf("reserve address: %w", err)
	}
	l, found, err := known(tx, n, mac)
	if err != nil {
		return Lease{}, fmt.Errorf("reserve address: %w", err)
	}
	if found && (l.State == Fixed || l.State == Reserved && l.Server == server) {
		return l, nil
	}
	if !found {
		a, _, err := pick(tx, n, now, func(netip.Addr) bool { return false })
		if err != nil {
			return Lease{}, fmt.Errorf("reserve address: %w", err)
		}
		if l, err = begun(tx, a, mac, now); err != nil {
			return Lease{}, fmt.Errorf("reserve address: %w", err)
		}
	}
	l = held(l, n, server, now)
	if err := put(tx, n, l, now); err != nil {
		return Lease{}, fmt.Errorf("reserve address: %w", err)
	}
	return l, nil
}

// Unreserve lets a reservation expire after the lease time: its server was
// forgotten. A MAC without a reservation is no error.
func Unreserve(tx store.Tx, n Network, mac string, now time.Time) error {
	l, err := ByMAC(tx, mac)
	if errors.Is(err, store.ErrNotFound) || err == nil && l.State != Reserved {
		return nil
	}
	if err == nil {
		l.State, l.Server, l.Expires = Leased, "", now.Add(n.Lease)
		err = put(tx, n, l, now)
	}
	if err != nil {
		return fmt.Errorf("unreserve address: %w", err)
	}
	return nil
}

// holding finds the lease of a MAC and checks that it is the address named.
func holding(tx store.Tx, mac string, addr netip.Addr) (Lease, error) {
	l, err := ByMAC(tx, mac)
	if err == nil && l.Address == addr.Unmap() {
		return l, nil
	}
	if err == nil || errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%.64s, %v: %w", mac, addr, ErrNotHolder)
	}
	return Lease{}, err
}

// Release ends a lease at its holder's wish (RFC 2131, section 4.3.4): others may
// have the address, but the MAC gets it again while they need not. A reservation
// stays. ErrNotHolder when the MAC does not hold the address.
func Release(tx store.Tx, mac string, addr netip.Addr, now time.Time) error {
	l, err := holding(tx, mac, addr)
	if err == nil && l.State == Leased && now.Before(l.Expires) {
		l.Expires = now
		err = put(tx, Network{}, l, now) // the MAC keeps it, so the registry is not asked
	}
	if err != nil {
		return fmt.Errorf("release address: %w", err)
	}
	return nil
}
