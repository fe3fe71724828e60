package fabric

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Snapshot is a VNI's whole map, oldest entry first.
func Snapshot(tx store.Tx, vni uint32) (api.FabricMap, error) { return Since(tx, vni, "", 0) }

// Since is what a follower at a version lacks: the changes since then, oldest
// first, or the whole map when they are not known any more or it was never there.
// No entries and Full false is no news. What was cut on its way is simply asked for
// again.
func Since(tx store.Tx, vni uint32, epoch string, since uint64) (m api.FabricMap, err error) {
	d, err := journal.Changes(tx, mapSet(vni), journal.Follow{Epoch: epoch, Since: since}, 0)
	m = api.FabricMap{VNI: vni, Epoch: d.Epoch, Version: d.Version, Full: d.Full, Entries: make([]api.MapEntry, 0, len(d.Entries))}
	for _, n := range d.Entries {
		var e api.MapEntry
		if err == nil {
			e, err = entryOf(n)
		}
		m.Entries = append(m.Entries, e)
	}
	if err != nil {
		return api.FabricMap{}, fmt.Errorf("read map of VNI %d: %w", vni, err)
	}
	return m, nil
}

// Version gives epoch and version of a VNI's map.
func Version(tx store.Tx, vni uint32) (epoch string, version uint64, err error) {
	s, _, err := journal.ReadState(tx, MapSet(vni))
	if err != nil {
		return "", 0, fmt.Errorf("read version of VNI %d: %w", vni, err)
	}
	return s.Epoch, s.Version, nil
}

// Delta is what a follower of a VNI's map lacks, as servers follow it: api.MapEntries,
// and the addresses that are nowhere any more. It has about limit bytes at most (size),
// or else one entry.
func Delta(tx store.Tx, vni uint32, f journal.Follow, limit int) (a api.Delta, size int, err error) {
	d, err := journal.Changes(tx, mapSet(vni), f, limit)
	if err != nil {
		return a, 0, fmt.Errorf("read map of VNI %d: %w", vni, err)
	}
	a = api.Delta{Set: d.Set, Epoch: d.Epoch, Version: d.Version, Toward: d.Toward, Full: d.Full}
	for _, n := range d.Entries {
		e, err := entryOf(n)
		if err != nil {
			return a, 0, fmt.Errorf("read map of VNI %d: %w", vni, err)
		}
		if e.Deleted {
			a.Gone = append(a.Gone, e.IP)
			size += len(e.IP)
			continue
		}
		value, err := json.Marshal(e)
		if err != nil {
			return a, 0, fmt.Errorf("write %s of the map of VNI %d: %w", e.IP, vni, err)
		}
		a.Put = append(a.Put, value)
		size += len(value)
	}
	return a, size, nil
}

// entryOf is an entry of a map as the API has it.
func entryOf(n journal.Entry) (api.MapEntry, error) {
	var p place
	if err := json.Unmarshal(n.Value, &p); err != nil {
		return api.MapEntry{}, fmt.Errorf("decode the place of %s: %w", n.Key, err)
	}
	ip, err := parseAddrHex(n.Key)
	if err != nil {
		return api.MapEntry{}, err
	}
	return api.MapEntry{IP: ip.String(), MAC: p.MAC, Underlay: p.Underlay, Version: n.Version, Deleted: n.Gone}, nil
}

// byKey reads the live entry of an address as it is in keys.
func byKey(tx store.Tx, vni uint32, ip string) (api.MapEntry, bool, error) {
	n, found, err := journal.Get(tx, MapSet(vni), ip)
	if err != nil || !found {
		return api.MapEntry{}, false, err
	}
	e, err := entryOf(n)
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
