package addresses

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"nereid/headnode/store"
)

// Keys of this package.
const (
	ipPrefix     = "address/ip/"
	macPrefix    = "address/mac/"
	expiryPrefix = "address/expiry/"
	badPrefix    = "address/bad/"
)

func ipKey(a netip.Addr) string { return fmt.Sprintf("%s%08x", ipPrefix, number(a)) }

func badKey(a netip.Addr) string { return fmt.Sprintf("%s%08x", badPrefix, number(a)) }

// expiryKey orders by time: Unix seconds, which are never negative here.
func expiryKey(t time.Time, a netip.Addr) string {
	return fmt.Sprintf("%s%016x/%08x", expiryPrefix, max(0, t.Unix()), number(a))
}

// parseIPKey is the inverse of ipKey.
func parseIPKey(key string) (netip.Addr, error) {
	if len(key) != len(ipPrefix)+8 {
		return netip.Addr{}, fmt.Errorf("address key %q: wrong length", key)
	}
	n, err := strconv.ParseUint(key[len(ipPrefix):], 16, 32)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address key %q: %w", key, err)
	}
	return address(n), nil
}

// parseExpiryKey is the inverse of expiryKey.
func parseExpiryKey(key string) (time.Time, netip.Addr, error) {
	if len(key) != len(expiryPrefix)+16+1+8 {
		return time.Time{}, netip.Addr{}, fmt.Errorf("expiry key %q: wrong length", key)
	}
	key = key[len(expiryPrefix):]
	s, err := strconv.ParseInt(key[:16], 16, 64)
	if err != nil {
		return time.Time{}, netip.Addr{}, fmt.Errorf("expiry key %q: %w", key, err)
	}
	n, err := strconv.ParseUint(key[17:], 16, 32)
	if err != nil {
		return time.Time{}, netip.Addr{}, fmt.Errorf("expiry key %q: %w", key, err)
	}
	return time.Unix(s, 0), address(n), nil
}

// ByIP reads the record of an address. It is store.ErrNotFound when nobody ever
// had it; ask Active whether somebody has it now.
func ByIP(tx store.Tx, ip netip.Addr) (Lease, error) {
	ip = ip.Unmap()
	if !ip.Is4() {
		return Lease{}, fmt.Errorf("lease of %v: %w", ip, store.ErrNotFound)
	}
	l, err := store.Get[Lease](tx, ipKey(ip))
	if err != nil {
		return Lease{}, fmt.Errorf("lease of %v: %w", ip, err)
	}
	return l, nil
}

// ByMAC reads the lease of a MAC; store.ErrNotFound when it has none. One that
// expired is still found while nobody else took the address.
func ByMAC(tx store.Tx, mac string) (Lease, error) {
	mac, err := canonical(mac)
	if err != nil {
		return Lease{}, fmt.Errorf("lease of %w", err)
	}
	ip, err := store.Get[netip.Addr](tx, macPrefix+mac)
	if err != nil {
		return Lease{}, fmt.Errorf("lease of %s: %w", mac, err)
	}
	return ByIP(tx, ip)
}

// Of is ByMAC that also knows the address of a NIC.
func Of(tx store.Tx, n Network, mac string) (Lease, error) {
	if a, found, err := n.NIC(tx, mac); err != nil || found {
		return Lease{Address: a, MAC: mac, State: Fixed}, err
	}
	return ByMAC(tx, mac)
}

// put writes the record of an address with all its indexes, and tells the registry.
// Whatever the MAC held before becomes free, and so does the address for whoever
// held it.
func put(tx store.Tx, n Network, l Lease, now time.Time) error {
	old, found, err := store.Lookup[Lease](tx, ipKey(l.Address))
	if err == nil && found {
		err = unlink(tx, old)
	}
	if err != nil {
		return err
	}
	if l.MAC != "" && l.MAC != old.MAC {
		other, err := ByMAC(tx, l.MAC)
		if err == nil {
			err = unlink(tx, other)
			if err == nil {
				err = write(tx, freedOf(other, now))
			}
			if err == nil {
				err = n.Registry.Give(tx, other.Address, now)
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	had := found && old.State != Freed
	switch {
	case l.State == Freed && had:
		err = n.Registry.Give(tx, l.Address, now)
	case l.State != Freed && (!had || l.MAC != old.MAC || l.Server != old.Server):
		err = n.Registry.Take(tx, l.Address, l.MAC, l.Server)
	}
	if err != nil {
		return err
	}
	return write(tx, l)
}

// freedOf is the record of an address that its holder has no more.
func freedOf(l Lease, now time.Time) Lease {
	return Lease{Address: l.Address, State: Freed, Since: now, Renewed: l.Renewed, Expires: now, Declines: l.Declines}
}

// unlink removes a record's index keys.
func unlink(tx store.Tx, l Lease) error {
	if l.MAC != "" {
		if err := tx.Delete(macPrefix + l.MAC); err != nil {
			return err
		}
	}
	switch l.State {
	case Reserved:
		return nil
	case Bad:
		if err := tx.Delete(badKey(l.Address)); err != nil {
			return err
		}
	}
	return tx.Delete(expiryKey(l.Expires, l.Address))
}

// write makes a record and its index keys; put is for what replaces one.
func write(tx store.Tx, l Lease) error {
	if err := store.Put(tx, ipKey(l.Address), l); err != nil {
		return err
	}
	if l.MAC != "" {
		if err := store.Put(tx, macPrefix+l.MAC, l.Address); err != nil {
			return err
		}
	}
	switch l.State {
	case Reserved:
		return nil
	case Bad:
		if err := tx.Put(badKey(l.Address), nil); err != nil {
			return err
		}
	}
	return tx.Put(expiryKey(l.Expires, l.Address), []byte(l.State))
}

// OfServers gives the addresses that are reserved for servers of the inventory.
func OfServers(tx store.Tx) (map[netip.Addr]bool, error) {
	of := map[netip.Addr]bool{}
	for e, err := range store.Each[Lease](tx, ipPrefix) {
		if err != nil {
			return nil, fmt.Errorf("addresses of servers: %w", err)
		}
		if e.Value.State == Reserved {
			of[e.Value.Address] = true
		}
	}
	return of, nil
}

// Usage counts what the range is used for.
func Usage(tx store.Tx, n Network, now time.Time) (Counts, error) {
	if err := n.check(); err != nil {
		return Counts{}, err
	}
	c := Counts{Total: n.size()}
	for it, err := range tx.Scan(ipPrefix, "") {
		if err != nil {
			return Counts{}, err
		}
		a, err := parseIPKey(it.Key)
		if err != nil {
			return Counts{}, err
		}
		if n.inRange(a) {
			c.Reserved++ // all that have a record, less those that can expire
		}
	}
	for it, err := range tx.Scan(expiryPrefix, "") {
		if err != nil {
			return Counts{}, err
		}
		until, a, err := parseExpiryKey(it.Key)
		if err != nil {
			return Counts{}, err
		}
		if !n.inRange(a) {
			continue
		}
		c.Reserved--
		switch {
		case State(it.Value) == Freed:
		case !now.Before(until):
			c.Expired++
		case State(it.Value) == Bad:
			c.Bad++
		default:
			c.Leased++
		}
	}
	var err error
	c.Others, err = n.Registry.Others(tx)
	c.Free = c.Total - c.Used() - c.Expired
	return c, err
}
