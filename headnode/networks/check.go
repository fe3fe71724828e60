package networks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Check compares all that is derived with what it is derived from: indexes and
// addresses in use with the NICs, and the free spans and the queue of each network
// with its range and records. It reads everything, and is for tests and for an
// operator who doubts the store. The error names the first difference.
func Check(tx store.Tx) (err error) {
	defer named(&err, "check networks")
	index := map[string]string{}
	ports := map[string]int{}    // by server
	inUse := map[string]string{} // key of an address: MAC
	for e, err := range store.Each[api.NetworkNIC](tx, nicPrefix) {
		if err != nil {
			return err
		}
		for k, v := range nicIndex(e.Value) {
			index[k] = v
		}
		if server := portOn(&e.Value); server != "" {
			ports[server]++
			if err := checkPort(tx, e.Value); err != nil {
				return err
			}
		}
		for _, a := range e.Value.Addresses {
			ip, err := parseAddr(a.IP)
			if err != nil {
				return err
			}
			key := ipKey(a.Network, ip)
			if other, twice := inUse[key]; twice {
				return fmt.Errorf("%s of network %s is the address of NIC %s and NIC %s", ip, a.Network, other, e.Value.MAC)
			}
			inUse[key] = e.Value.MAC
		}
	}
	for server, n := range ports {
		if s, _, err := journal.ReadState(tx, api.PortSet(server)); err != nil || s.Live != n {
			return fmt.Errorf("server %s has %d ports in the journal; the NICs say %d (%v)", server, s.Live, n, err)
		}
	}
	for e, err := range store.Each[api.Network](tx, netPrefix) {
		if err != nil {
			return err
		}
		n, err := normal(e.Value)
		if err != nil {
			return err
		}
		for _, k := range placeKeys(n) {
			index[k] = n.Subnet
		}
	}
	for _, prefix := range []string{segmentPrefix, fabricPrefix, subnetPrefix, placePrefix, nicByPrefix, vniPrefix, hostsPrefix, ownedPrefix, underlayPrefix, underlayOfPrefix, allowedPrefix} {
		for it, err := range tx.Scan(prefix, "") {
			if err != nil {
				return err
			}
			if want, ok := index[it.Key]; !ok || want != string(it.Value) {
				return fmt.Errorf("index %q is %q; the objects say %q (%v)", it.Key, it.Value, want, ok)
			}
			delete(index, it.Key)
		}
	}
	for k := range index {
		return fmt.Errorf("index %q is not there", k)
	}
	for e, err := range store.Each[api.Network](tx, netPrefix) {
		if err != nil {
			return err
		}
		n, err := normal(e.Value)
		if err != nil {
			return err
		}
		if err := checkFree(tx, n, inUse); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	for key, mac := range inUse {
		return fmt.Errorf("NIC %s has %q, which is not in use", mac, key)
	}
	return checkFabrics(tx)
}

// checkPort compares the port that a NIC is with the set of its server's ports.
func checkPort(tx store.Tx, n api.NetworkNIC) error {
	want, err := portSpec(tx, n)
	if err != nil {
		return err
	}
	value, err := json.Marshal(want)
	if err != nil {
		return err
	}
	e, _, err := journal.Get(tx, api.PortSet(n.Server), api.PortKey(n.MAC, n.BelongsTo))
	if err == nil && !bytes.Equal(e.Value, value) {
		err = fmt.Errorf("the port of NIC %s is %s; the NIC says %s", n.MAC, e.Value, value)
	}
	return err
}

// checkFree rebuilds the free spans and the queue of a network, and takes the
// addresses it finds in use out of inUse.
func checkFree(tx store.Tx, n network, inUse map[string]string) error {
	out := slices.Clone(n.held)
	queue := map[string]bool{}
	prefix := ipPrefix + n.UUID + "/"
	for e, err := range store.Each[ipRecord](tx, prefix) {
		if err != nil {
			return err
		}
		a, err := addrOf(e.Key[len(prefix):])
		if err != nil {
			return err
		}
		rec := e.Value
		if rec.MAC != inUse[e.Key] || rec.Use != "" && (rec.MAC != "" || rec.Reserved) {
			return fmt.Errorf("%s has NIC %q; the NICs say %q", a, rec.MAC, inUse[e.Key])
		}
		delete(inUse, e.Key)
		switch {
		case rec.Freed != 0 && (!rec.free() || !n.pooled(a)):
			return fmt.Errorf("%s is free, and yet %+v", a, rec)
		case rec.Freed != 0:
			queue[freedKey(n.UUID, rec.Freed, a)] = true
		case rec.free():
			return fmt.Errorf("%s has an empty record", a)
		}
		out = append(out, a)
	}
	if err := freed(tx, n.UUID, func(f freedAddr) (bool, error) {
		if !queue[f.key] {
			return false, fmt.Errorf("%s is in the queue, and its record says nothing of it", f.addr)
		}
		delete(queue, f.key)
		return true, nil
	}); err != nil {
		return err
	}
	for k := range queue {
		return fmt.Errorf("%q is not in the queue", k)
	}
	return checkSpans(tx, n, out)
}

// checkSpans compares the free spans with the range without those addresses.
func checkSpans(tx store.Tx, n network, out []netip.Addr) error {
	slices.SortFunc(out, netip.Addr.Compare)
	var want []span
	from := n.first
	for _, a := range slices.Compact(out) {
		if !between(n.first, a, n.last) {
			continue
		}
		if from.Less(a) {
			want = append(want, span{from, a.Prev()})
		}
		from = a.Next()
	}
	if from.IsValid() && !n.last.Less(from) {
		want = append(want, span{from, n.last})
	}
	i := 0
	err := spans(tx, n.UUID, netip.Addr{}, func(s span) (bool, error) {
		switch {
		case i == len(want):
			return false, fmt.Errorf("free span %d is %s-%s; want none", i, s.first, s.last)
		case s != want[i]:
			return false, fmt.Errorf("free span %d is %s-%s; want %s-%s", i, s.first, s.last, want[i].first, want[i].last)
		}
		i++
		return true, nil
	})
	if err == nil && i < len(want) {
		err = fmt.Errorf("free span %s-%s is not there", want[i].first, want[i].last)
	}
	return err
}
