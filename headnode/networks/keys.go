package networks

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"nereid/headnode/store"
)

// Prefix is what all keys of this package begin with, for store.Watch.
const Prefix = "networks/"

// Keys of this package; see the package comment.
const (
	tagPrefix        = Prefix + "tag/"
	netPrefix        = Prefix + "network/"
	poolPrefix       = Prefix + "pool/"
	bondPrefix       = Prefix + "bond/"
	nicPrefix        = Prefix + "nic/"
	settingsKey      = Prefix + "settings"
	namePrefix       = Prefix + "name/"
	fabricNamePrefix = Prefix + "fabric-name/"
	segmentPrefix    = Prefix + "segment/"
	fabricPrefix     = Prefix + "fabric/"
	subnetPrefix     = Prefix + "subnet/"
	placePrefix      = Prefix + "place/"
	poolOfPrefix     = Prefix + "pool-of/"
	physPrefix       = Prefix + "phys/"
	physMACPrefix    = Prefix + "phys-mac/"
	providerPrefix   = Prefix + "provider/"
	nicByPrefix      = Prefix + "nic-by/"
	hostsPrefix      = Prefix + "hosts/"
	ownedPrefix      = Prefix + "owned/"
	vniPrefix        = Prefix + "vni/"
	underlayPrefix   = Prefix + "underlay/"
	underlayOfPrefix = Prefix + "underlay-of/"
	ipPrefix         = Prefix + "ip/"
	freePrefix       = Prefix + "free/"
	freedPrefix      = Prefix + "freed/"
	allowedPrefix    = Prefix + "allowed/"
	adminKey         = Prefix + "admin"
)

// hexOf is an address as keys have it: their order is that of the addresses.
func hexOf(a netip.Addr) string { return hex.EncodeToString(a.AsSlice()) }

// addrOf is the inverse of hexOf.
func addrOf(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address %q in the store: %w", s, err)
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address %q in the store: %d bytes", s, len(b))
	}
	return a, nil
}

func ipKey(network string, a netip.Addr) string { return ipPrefix + network + "/" + hexOf(a) }

func freeKey(network string, last netip.Addr) string { return freePrefix + network + "/" + hexOf(last) }

// freedKey orders by time: Unix nanoseconds, which are never negative here.
func freedKey(network string, nanos int64, a netip.Addr) string {
	return fmt.Sprintf("%s%s/%016x/%s", freedPrefix, network, nanos, hexOf(a))
}

func vniKey(vni uint32) string { return fmt.Sprintf("%s%06x/", vniPrefix, vni) }

// below ranges over the keys with a prefix, which is cut off.
func below(tx store.Tx, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for it, err := range tx.Scan(prefix, "") {
			key := ""
			if err == nil {
				key = it.Key[len(prefix):]
			}
			if !yield(key, err) || err != nil {
				return
			}
		}
	}
}

// heads ranges over how the keys with a prefix go on: with so many parts, which "/"
// ends. It costs one seek for each, however many keys go on alike.
func heads(tx store.Tx, prefix string, parts int) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		for after, more := "", true; more; {
			more = false
			for it, err := range tx.Scan(prefix, after) {
				if err != nil {
					yield(nil, err)
					return
				}
				head := strings.SplitN(it.Key[len(prefix):], "/", parts+1)
				head = head[:min(parts, len(head))]
				if !yield(head, nil) {
					return
				}
				after, more = prefix+strings.Join(head, "/")+"0", true // behind all keys that go on with "/"
				break
			}
		}
	}
}

// page reads up to limit (no limit when it is 0 or less) of the values below
// prefix that keep wants, behind the key prefix+after. next is what to pass as
// after for the page that follows; empty on the last.
func page[T any](tx store.Tx, prefix, after string, limit int, keep func(T) bool) (items []T, next string, err error) {
	from, last := "", ""
	if after != "" {
		from = prefix + after
	}
	for it, err := range tx.Scan(prefix, from) {
		if err != nil {
			return nil, "", err
		}
		var v T
		if err := json.Unmarshal(it.Value, &v); err != nil {
			return nil, "", fmt.Errorf("decode %q: %w", it.Key, err)
		}
		if !keep(v) {
			continue
		}
		if limit > 0 && len(items) == limit {
			return items, last[len(prefix):], nil
		}
		items, last = append(items, v), it.Key
	}
	return items, "", nil
}

// newRevision is 16 random hexadecimal digits.
func newRevision() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b)
}

// newUUID is a random UUID (RFC 9562, section 5.4).
func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
