package fabric

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"nereid/api"
	"nereid/headnode/store"
)

// Follow is what a follower knows of a VNI's map: epoch and version of the last
// api.FabricMap it took in. Without any, both are zero.
type Follow struct {
	VNI   uint32
	Epoch string
	Since uint64
}

// Snapshot is a VNI's whole map, oldest entry first.
func Snapshot(tx store.Tx, vni uint32) (api.FabricMap, error) { return Since(tx, vni, "", 0) }

// Since is what a follower at a version lacks: the changes since then, oldest
// first, or the whole map when they are not known any more or it was never there.
// No entries and Full false is no news. What was cut on its way is simply asked for
// again.
func Since(tx store.Tx, vni uint32, epoch string, since uint64) (api.FabricMap, error) {
	m, _, err := read(tx, Follow{vni, epoch, since}, 0)
	return m, err
}

// errTooMany ends a read that has more entries than are wanted.
var errTooMany = errors.New("more entries than fit")

// Changes is Since for many VNIs at once: the maps with news, in the order asked
// for. Together they have at most limit entries, or else there is one only. What
// does not fit is left out, as a whole: the follower takes in what it got and asks
// again, and hears the rest at once.
//
// A delta is never cut. Half of one is no state the map ever had, and after a
// restore of a backup there would be no telling what is missing in it.
func Changes(tx store.Tx, follows []Follow, limit int) ([]api.FabricMap, error) {
	limit = max(1, limit)
	var out []api.FabricMap
	for _, f := range follows {
		most := limit
		if len(out) == 0 {
			most = 0
		} else if limit <= 0 {
			break
		}
		m, news, err := read(tx, f, most)
		if errors.Is(err, errTooMany) {
			break
		}
		if err != nil {
			return nil, err
		}
		if !news {
			continue
		}
		out = append(out, m)
		limit -= len(m.Entries)
	}
	return out, nil
}

// read is Since; errTooMany when there are more than limit entries (0: no limit).
func read(tx store.Tx, f Follow, limit int) (m api.FabricMap, news bool, err error) {
	s, found, err := readState(tx, f.VNI)
	if err != nil {
		return m, false, fmt.Errorf("read map of VNI %d: %w", f.VNI, err)
	}
	if !found {
		m = api.FabricMap{VNI: f.VNI, Epoch: noEpoch, Full: f.Epoch != noEpoch || f.Since != 0, Entries: []api.MapEntry{}}
		return m, m.Full, nil
	}
	m = api.FabricMap{VNI: f.VNI, Epoch: s.Epoch, Version: s.Version, Entries: []api.MapEntry{}}
	if f.Epoch == s.Epoch && f.Since == s.Version {
		return m, false, nil
	}
	if m.Full = !s.knows(f.Epoch, f.Since); m.Full {
		err = snapshot(tx, &m, s.Live, limit)
	} else {
		err = delta(tx, &m, f.Since, limit)
	}
	if err != nil {
		return m, false, fmt.Errorf("read map of VNI %d: %w", f.VNI, err)
	}
	return m, true, nil
}

func snapshot(tx store.Tx, m *api.FabricMap, live, limit int) error {
	if limit > 0 && live > limit {
		return errTooMany
	}
	m.Entries = make([]api.MapEntry, 0, live)
	for e, err := range behind(tx, entryPrefix, m.VNI, 0) {
		if err != nil {
			return err
		}
		m.Entries = append(m.Entries, e)
	}
	return nil
}

// delta adds the entries and deletions behind a version, by version.
func delta(tx store.Tx, m *api.FabricMap, since uint64, limit int) error {
	for _, log := range []string{entryPrefix, gonePrefix} {
		for e, err := range behind(tx, log, m.VNI, since) {
			if err != nil {
				return err
			}
			if limit > 0 && len(m.Entries) == limit {
				return errTooMany
			}
			m.Entries = append(m.Entries, e)
		}
	}
	slices.SortFunc(m.Entries, func(a, b api.MapEntry) int { return cmp.Compare(a.Version, b.Version) })
	return nil
}

// behind ranges over the entries of a log with a greater version.
func behind(tx store.Tx, log string, vni uint32, since uint64) iter.Seq2[api.MapEntry, error] {
	return func(yield func(api.MapEntry, error) bool) {
		prefix := log + vniHex(vni) + "/"
		for it, err := range tx.Scan(prefix, fmt.Sprintf("%s%016x", prefix, since)) {
			var e api.MapEntry
			if err == nil {
				if err = json.Unmarshal(it.Value, &e); err != nil {
					err = fmt.Errorf("decode %q: %w", it.Key, err)
				}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// byKey reads the live entry of an address as it is in keys.
func byKey(tx store.Tx, vni uint32, ip string) (api.MapEntry, bool, error) {
	p, found, err := store.Lookup[pointer](tx, ipKey(vni, ip))
	if err != nil || !found || p.Gone {
		return api.MapEntry{}, false, err
	}
	e, err := store.Get[api.MapEntry](tx, entryKey(vni, p.Version))
	return e, err == nil, err
}

// ByIP finds the entry of an address.
func ByIP(tx store.Tx, vni uint32, ip netip.Addr) (e api.MapEntry, found bool, err error) {
	if e, found, err = byKey(tx, vni, addrHex(ip)); err != nil {
		err = fmt.Errorf("look up %v in VNI %d: %w", ip, vni, err)
	}
	return e, found, err
}

// ByMAC finds the entries of a MAC, IPv4 first; none is no error, also where no
// interface can have it.
func ByMAC(tx store.Tx, vni uint32, mac string) ([]api.MapEntry, error) {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return nil, invalid("write it as 52:54:00:12:34:56", "%.64q is no MAC address", mac)
	}
	var out []api.MapEntry
	prefix := macKey(vni, hw.String(), "")
	for it, err := range tx.Scan(prefix, "") {
		var (
			e     api.MapEntry
			found bool
		)
		if err == nil {
			e, found, err = byKey(tx, vni, it.Key[len(prefix):])
		}
		if err != nil {
			return nil, fmt.Errorf("look up %s in VNI %d: %w", mac, vni, err)
		}
		if found {
			out = append(out, e)
		}
	}
	return out, nil
}

// Hosts lists the VNIs that have entries behind an underlay address.
func Hosts(tx store.Tx, underlay netip.Addr) ([]uint32, error) {
	var out []uint32
	prefix := atPrefix + addrHex(underlay) + "/"
	for after := ""; ; {
		vni, found, err := firstVNI(tx, prefix, after)
		if err != nil {
			return nil, fmt.Errorf("list VNIs behind %v: %w", underlay, err)
		}
		if !found {
			return out, nil
		}
		out = append(out, vni)
		after = prefix + vniHex(vni) + "0" // behind all keys with vni/, as '/' comes before the digits
	}
}

// firstVNI is the VNI of the first key with a prefix behind after.
func firstVNI(tx store.Tx, prefix, after string) (uint32, bool, error) {
	for it, err := range tx.Scan(prefix, after) {
		if err != nil {
			return 0, false, err
		}
		if len(it.Key) < len(prefix)+6 {
			return 0, false, fmt.Errorf("key %q is too short", it.Key)
		}
		n, err := strconv.ParseUint(it.Key[len(prefix):len(prefix)+6], 16, 24)
		return uint32(n), err == nil, err
	}
	return 0, false, nil
}

// hosts says whether anything in a VNI is behind an underlay address.
func hosts(tx store.Tx, underlay string, vni uint32) (bool, error) {
	for _, err := range tx.Scan(atKey(underlay, vni, ""), "") {
		return err == nil, err
	}
	return false, nil
}
