package fabric

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// RehomeLimit is how many entries one Rehome changes.
const RehomeLimit = 1024

// pointer says where the newest entry or deletion of an address is.
type pointer struct {
	Version uint64 `json:"version"`
	Gone    bool   `json:"gone,omitempty"`
}

// change is a change of one VNI's map within a transaction.
type change struct {
	tx    store.Tx
	vni   uint32
	state state
	hints []SVPHint
}

// edit opens a VNI's map, lets fn change it, and writes what follows from that.
func edit(tx store.Tx, vni uint32, fn func(*change) error) (version uint64, err error) {
	if err := inUse(tx, vni); err != nil {
		return 0, err
	}
	run, _, err := store.Lookup[string](tx, runKey)
	if err != nil {
		return 0, err
	}
	s, _, err := readState(tx, vni)
	if err != nil {
		return 0, err
	}
	c := &change{tx: tx, vni: vni, state: s}
	from := s.Version
	c.state.enter(run)
	if err := fn(c); err != nil {
		return 0, err
	}
	if c.state.Version == from {
		return from, nil // the state is not written: a new epoch begins with a change
	}
	if err := c.forget(); err != nil {
		return 0, err
	}
	if err := c.announce(); err != nil {
		return 0, err
	}
	if err := hint(tx, vni, c.hints); err != nil {
		return 0, err
	}
	return c.state.Version, store.Put(tx, VersionKey(vni), c.state)
}

// Put makes or changes entries: of each, IP, MAC and Underlay. One that is there
// already with the same MAC and underlay address is no change. It returns the
// version of the map after it. An *api.Problem when an entry is not valid or the
// VNI is not in use.
func Put(tx store.Tx, vni uint32, entries ...api.MapEntry) (uint64, error) {
	v, err := edit(tx, vni, func(c *change) error {
		for _, e := range entries {
			e, ip, err := canonical(e)
			if err == nil {
				err = c.put(addrHex(ip), e)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("put map entries of VNI %d: %w", vni, err)
	}
	return v, nil
}

// Delete removes the entries of addresses; one that has none is no error.
func Delete(tx store.Tx, vni uint32, ips ...netip.Addr) (uint64, error) {
	v, err := edit(tx, vni, func(c *change) error {
		for _, ip := range ips {
			if err := c.remove(addrHex(ip)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("delete map entries of VNI %d: %w", vni, err)
	}
	return v, nil
}

// Move puts all addresses of a MAC behind another underlay address.
func Move(tx store.Tx, vni uint32, mac string, underlay netip.Addr) (uint64, error) {
	v, err := edit(tx, vni, func(c *change) error {
		entries, err := ByMAC(tx, vni, mac)
		if err != nil {
			return err
		}
		return c.rehome(entries, underlay)
	})
	if err != nil {
		return 0, fmt.Errorf("move %s in VNI %d: %w", mac, vni, err)
	}
	return v, nil
}

// Rehome puts what is behind one underlay address behind another: RehomeLimit
// entries at most. With more it is to be called again, in a transaction of its own.
func Rehome(tx store.Tx, vni uint32, from, to netip.Addr) (more bool, err error) {
	_, err = edit(tx, vni, func(c *change) error {
		more = false
		var entries []api.MapEntry
		prefix := atKey(addrHex(from), vni, "")
		for it, err := range tx.Scan(prefix, "") {
			if err != nil {
				return err
			}
			if len(entries) == RehomeLimit {
				more = true
				break
			}
			e, found, err := byKey(tx, vni, it.Key[len(prefix):])
			if err != nil {
				return err
			}
			if found {
				entries = append(entries, e)
			}
		}
		return c.rehome(entries, to)
	})
	if err != nil {
		return false, fmt.Errorf("rehome VNI %d from %v to %v: %w", vni, from, to, err)
	}
	return more && from.Unmap() != to.Unmap(), nil
}

func (c *change) rehome(entries []api.MapEntry, to netip.Addr) error {
	for _, e := range entries {
		e.Underlay = to.String()
		e, ip, err := canonical(e)
		if err == nil {
			err = c.put(addrHex(ip), e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put makes e the entry of the address that is ip in keys.
func (c *change) put(ip string, e api.MapEntry) error {
	p, old, err := c.find(ip)
	if err != nil {
		return err
	}
	live := p.Version != 0 && !p.Gone
	if live && old.MAC == e.MAC && old.Underlay == e.Underlay {
		return nil
	}
	if err := c.unlink(ip, p, old); err != nil {
		return err
	}
	c.hints = append(c.hints, hintsOf(c.vni, old, e)...)
	c.state.Version++
	c.state.Live++
	e.Version = c.state.Version
	at, err := underlayHex(e)
	if err == nil {
		err = store.Put(c.tx, entryKey(c.vni, e.Version), e)
	}
	if err == nil {
		err = store.Put(c.tx, ipKey(c.vni, ip), pointer{Version: e.Version})
	}
	if err == nil {
		err = c.tx.Put(macKey(c.vni, e.MAC, ip), nil)
	}
	if err == nil {
		err = c.tx.Put(atKey(at, c.vni, ip), nil)
	}
	return err
}

// remove notes that an address is nowhere any more.
func (c *change) remove(ip string) error {
	p, e, err := c.find(ip)
	if err != nil || p.Version == 0 || p.Gone {
		return err
	}
	if err := c.unlink(ip, p, e); err != nil {
		return err
	}
	c.hints = append(c.hints, hintsOf(c.vni, e, api.MapEntry{})...)
	c.state.Version++
	c.state.Gone++
	e.Version, e.Deleted = c.state.Version, true
	if err := store.Put(c.tx, goneKey(c.vni, e.Version), e); err != nil {
		return err
	}
	return store.Put(c.tx, ipKey(c.vni, ip), pointer{Version: e.Version, Gone: true})
}

// find reads what is known of an address: nothing (the zero pointer), a deletion,
// or a live entry, which is read too.
func (c *change) find(ip string) (p pointer, e api.MapEntry, err error) {
	p, found, err := store.Lookup[pointer](c.tx, ipKey(c.vni, ip))
	if err != nil || !found || p.Gone {
		return p, e, err
	}
	e, err = store.Get[api.MapEntry](c.tx, entryKey(c.vni, p.Version))
	return p, e, err
}

// unlink removes what find found from log and indexes; something else takes its
// place.
func (c *change) unlink(ip string, p pointer, e api.MapEntry) error {
	switch {
	case p.Version == 0:
		return nil
	case p.Gone:
		c.state.Gone--
		return c.tx.Delete(goneKey(c.vni, p.Version))
	}
	at, err := underlayHex(e)
	if err != nil {
		return err
	}
	c.state.Live--
	for _, key := range []string{entryKey(c.vni, p.Version), macKey(c.vni, e.MAC, ip), atKey(at, c.vni, ip)} {
		if err := c.tx.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// underlayHex is an entry's underlay address as it is in keys.
func underlayHex(e api.MapEntry) (string, error) {
	a, err := netip.ParseAddr(e.Underlay)
	if err != nil {
		return "", fmt.Errorf("underlay address of %s: %w", e.IP, err)
	}
	return addrHex(a), nil
}

// forget drops the oldest deletions that are too many. A transaction with n
// deletions drops 2n at most: each is one more, and one live address less.
func (c *change) forget() error {
	excess := c.state.Gone - c.state.maxGone()
	if excess <= 0 {
		return nil
	}
	prefix := gonePrefix + vniHex(c.vni) + "/"
	for it, err := range c.tx.Scan(prefix, "") {
		if err != nil {
			return err
		}
		if excess == 0 {
			return nil
		}
		excess--
		v, err := strconv.ParseUint(it.Key[len(prefix):], 16, 64)
		if err != nil {
			return fmt.Errorf("key %q: %w", it.Key, err)
		}
		if err := forgetOne(c.tx, c.vni, v); err != nil {
			return err
		}
		c.state.Gone--
		c.state.Floor = v
	}
	return nil
}

// forgetOne drops a deletion.
func forgetOne(tx store.Tx, vni uint32, v uint64) error {
	e, err := store.Get[api.MapEntry](tx, goneKey(vni, v))
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(e.IP)
	if err != nil {
		return fmt.Errorf("deletion %d of VNI %d: %w", v, vni, err)
	}
	if err := tx.Delete(ipKey(vni, addrHex(ip))); err != nil {
		return err
	}
	return tx.Delete(goneKey(vni, v))
}

// announce makes the VNI the last in the list of changed ones, for the Hub.
func (c *change) announce() error {
	seq, _, err := store.Lookup[uint64](c.tx, seqKey)
	if err != nil {
		return err
	}
	if c.state.Seq != 0 {
		if err := c.tx.Delete(changedKey(c.state.Seq)); err != nil {
			return err
		}
	}
	c.state.Seq = seq + 1
	if err := store.Put(c.tx, seqKey, c.state.Seq); err != nil {
		return err
	}
	return store.Put(c.tx, changedKey(c.state.Seq), c.vni)
}

// drop removes all that is left of an empty map: MinGone deletions at most.
func drop(tx store.Tx, vni uint32) error {
	s, found, err := readState(tx, vni)
	if err != nil || !found {
		return err
	}
	if s.Live > 0 {
		return fmt.Errorf("drop map of VNI %d: it has %d entries", vni, s.Live)
	}
	prefix := gonePrefix + vniHex(vni) + "/"
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return err
		}
		v, err := strconv.ParseUint(strings.TrimPrefix(it.Key, prefix), 16, 64)
		if err != nil {
			return fmt.Errorf("key %q: %w", it.Key, err)
		}
		if err := forgetOne(tx, vni, v); err != nil {
			return err
		}
	}
	if err := tx.Delete(changedKey(s.Seq)); err != nil {
		return err
	}
	return tx.Delete(VersionKey(vni))
}
