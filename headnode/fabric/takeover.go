package fabric

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Before the journal, maps lay below these keys.
const (
	oldMapPrefix   = "fabric/map/"   // <VNI>: oldState
	oldEntryPrefix = "fabric/entry/" // <VNI>/<version>: api.MapEntry
	oldGonePrefix  = "fabric/gone/"  // the same, of deletions
	oldIPPrefix    = "fabric/ip/"    // <VNI>/<IP>: where the newest of both is
)

// oldAlone are the keys and prefixes that belonged to no one map.
var oldAlone = []string{"fabric/changed/", "fabric/run", "fabric/seq"}

// TakeOver moves the maps that an older head node left in the store into the
// journal, with their epochs and versions: agents notice nothing. Each map is a
// transaction, so a head node that is killed meanwhile goes on where it was. It
// costs one look where there are none.
func TakeOver(ctx context.Context, s store.Store) error {
	for {
		more := false
		err := s.Update(ctx, func(tx store.Tx) error {
			more = false
			for e, err := range store.Each[journal.State](tx, oldMapPrefix) {
				if err != nil {
					return err
				}
				more = true
				return takeOver(tx, e.Key[len(oldMapPrefix):], e.Value)
			}
			return clear(tx, oldAlone...)
		})
		if err != nil {
			return fmt.Errorf("take over maps: %w", err)
		}
		if !more {
			return nil
		}
	}
}

// takeOver moves the map of one VNI, which is 6 hexadecimal digits.
func takeOver(tx store.Tx, vni string, s journal.State) error {
	n, err := strconv.ParseUint(vni, 16, 24)
	if err != nil {
		return fmt.Errorf("key %q: %w", oldMapPrefix+vni, err)
	}
	var entries []journal.Entry
	for _, log := range []string{oldEntryPrefix, oldGonePrefix} {
		for old, err := range store.Each[api.MapEntry](tx, log+vni+"/") {
			if err != nil {
				return err
			}
			e, err := adopted(old.Value)
			if err != nil {
				return fmt.Errorf("%q: %w", old.Key, err)
			}
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b journal.Entry) int { return cmp.Compare(a.Version, b.Version) })
	if err := clear(tx, oldEntryPrefix+vni+"/", oldGonePrefix+vni+"/", oldIPPrefix+vni+"/", oldMapPrefix+vni); err != nil {
		return err
	}
	return journal.Adopt(tx, mapSet(uint32(n)), s, entries)
}

// adopted is an entry as the journal has it.
func adopted(e api.MapEntry) (journal.Entry, error) {
	ip, err := netip.ParseAddr(e.IP)
	if err != nil {
		return journal.Entry{}, err
	}
	value, err := json.Marshal(place{e.MAC, e.Underlay})
	return journal.Entry{Key: addrHex(ip), Value: value, Version: e.Version, Gone: e.Deleted}, err
}

// clear deletes all keys with the prefixes.
func clear(tx store.Tx, prefixes ...string) error {
	for _, p := range prefixes {
		for it, err := range tx.Scan(p, "") {
			if err == nil {
				err = tx.Delete(it.Key)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
