package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// RehomeLimit is how many entries one Rehome changes.
const RehomeLimit = 1024

// place is what the journal keeps of an address: the address is the key.
type place struct {
	MAC      string `json:"mac"`
	Underlay string `json:"underlay"`
}

// mapSet is the set that a VNI's map is.
func mapSet(vni uint32) journal.Set { return journal.Set{Name: MapSet(vni)} }

// MapSet names the set of the journal that a VNI's map is, for a journal.Hub.
func MapSet(vni uint32) string { return api.MapSet(vni) }

// change is a change of one VNI's map within a transaction.
type change struct {
	tx    store.Tx
	vni   uint32
	log   *journal.Editor
	hints []SVPHint
}

// edit opens a VNI's map, lets fn change it, and writes what follows from that.
func edit(tx store.Tx, vni uint32, fn func(*change) error) (version uint64, err error) {
	if err := inUse(tx, vni); err != nil {
		return 0, err
	}
	c := &change{tx: tx, vni: vni}
	version, err = journal.Edit(tx, mapSet(vni), func(e *journal.Editor) error {
		c.log = e
		return fn(c)
	})
	if err != nil {
		return 0, err
	}
	return version, hint(tx, vni, c.hints)
}

// Put makes or changes entries: of each, IP, MAC and Underlay. One that is there
// already with the same MAC and underlay address is no change. It returns the
// version of the map after it. An *api.Problem when an entry is not valid or the
// VNI is not in use.
func Put(tx store.Tx, vni uint32, entries ...api.MapEntry) (uint64, error) {
	v, err := edit(tx, vni, func(c *change) error { return c.putAll(entries) })
	if err != nil {
		return 0, fmt.Errorf("put map entries of VNI %d: %w", vni, err)
	}
	return v, nil
}

// Delete removes the entries of addresses; one that has none is no error.
func Delete(tx store.Tx, vni uint32, ips ...netip.Addr) (uint64, error) {
	v, err := edit(tx, vni, func(c *change) error {
		for _, ip := range ips {
			if err := c.set(addrHex(ip), place{}); err != nil {
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
	for i := range entries {
		entries[i].Underlay = to.String()
	}
	return c.putAll(entries)
}

func (c *change) putAll(entries []api.MapEntry) error {
	for _, e := range entries {
		e, ip, err := canonical(e)
		if err == nil {
			err = c.set(addrHex(ip), place{e.MAC, e.Underlay})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// set puts the address that is ip in keys to a place; the zero place is nowhere.
func (c *change) set(ip string, now place) error {
	raw, err := c.log.Get(ip)
	if err != nil {
		return err
	}
	var old place
	if raw != nil {
		if err := json.Unmarshal(raw, &old); err != nil {
			return fmt.Errorf("decode the place of %s in VNI %d: %w", ip, c.vni, err)
		}
	}
	if old == now {
		return nil
	}
	if err := c.index(ip, old, now); err != nil {
		return err
	}
	a, err := parseAddrHex(ip)
	if err != nil {
		return err
	}
	c.hints = append(c.hints, hintsOf(c.vni, a, old, now)...)
	if now == (place{}) {
		return c.log.Delete(ip)
	}
	value, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return c.log.Put(ip, value)
}

// index takes an address out of the indexes of its old place and enters it into
// those of its new one.
func (c *change) index(ip string, old, now place) error {
	for _, p := range []place{old, now} {
		if p == (place{}) {
			continue
		}
		at, err := netip.ParseAddr(p.Underlay)
		if err != nil {
			return fmt.Errorf("underlay address of %s: %w", ip, err)
		}
		for _, key := range []string{macKey(c.vni, p.MAC, ip), atKey(addrHex(at), c.vni, ip)} {
			if p == now {
				err = c.tx.Put(key, nil)
			} else {
				err = c.tx.Delete(key)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// drop removes all that is left of an empty map: journal.MinGone tombstones at most.
func drop(tx store.Tx, vni uint32) error {
	err := journal.Drop(tx, MapSet(vni))
	if errors.Is(err, journal.ErrNotEmpty) {
		return fmt.Errorf("drop map of VNI %d: %w", vni, err)
	}
	return err
}
