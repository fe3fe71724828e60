package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A ruleset is everything this package keeps in the kernel: three tables, in the
// shape of nf_tables itself. Programs (chains) do not depend on how many rules there
// are, and of ports each has a short chain of its own; all else is in the elements of
// sets.
type ruleset struct {
	chains   []chain          // but for those at ingress
	ports    map[string]chain // at ingress, by device
	sets     []set
	counters []counterName
	elements map[string]elements // by the set's name
}

// table is one of the tables, all named tableName.
type table uint8

const (
	bridgeTable table = iota // frames between ports
	inetTable                // what reaches the host itself
	netdevTable              // what ports send, before a bridge has it
)

// tables are all there are.
func tables() []table { return []table{bridgeTable, inetTable, netdevTable} }

// tableName is not shared with anything else on a server.
const tableName = "nereid_firewall"

func (t table) String() string { return [...]string{"bridge", "inet", "netdev"}[t] }

// chain is a base chain when hook is set.
type chain struct {
	table    table
	name     string
	hook     hook
	priority int32
	device   string // of a chain at ingress: the interface that it goes with
	rules    []rule
}

// hook is where a base chain is called.
type hook uint8

const (
	noHook hook = iota
	prerouting
	input
	forward
	output
	ingress
)

func (h hook) String() string {
	return [...]string{"", "prerouting", "input", "forward", "output", "ingress"}[h]
}

// rule is a list of expressions, each of which may end it: a comparison that does
// not hold, a lookup without result, a header that is not there.
type rule []expression

// field is a part of a set's key, or its data.
type field uint8

const (
	noField field = iota
	ifname
	etherAddr
	ipv4Addr
	ipv6Addr
	protocol
	port
	icmp6Type
	number  // 32 bits, in the host's byte order
	result  // 32 bits of nothing and a number, see view.place
	zone    // 16 bits, in the host's byte order
	outcome // a verdict, written as text
)

// size is in bytes.
func (f field) size() int {
	return [...]int{0, 16, 6, 4, 16, 1, 2, 1, 4, 8, 2, 0}[f]
}

// padded is what the field takes in registers of 32 bits.
func (f field) padded() int { return (f.size() + 3) &^ 3 }

func (f field) String() string {
	return [...]string{"", "ifname", "ether_addr", "ipv4_addr", "ipv6_addr", "inet_proto", "inet_service", "icmpv6_type", "mark", "mark", "zone", "verdict"}[f]
}

// set is a set, or with data a map. With interval its keys are ranges; a range over
// a key of several fields is one over their bytes as a whole, so that it is useful
// for the last field only. (nf_tables' own concatenated ranges, NFT_SET_CONCAT with
// NFT_SET_INTERVAL, cost time in proportion to their number; these are a tree.)
type set struct {
	table    table
	name     string
	key      []field
	data     field
	interval bool
}

func (s set) keySize() int {
	if len(s.key) == 1 {
		return s.key[0].size()
	}
	n := 0
	for _, f := range s.key {
		n += f.padded()
	}
	return n
}

// elements of a set by key, or by the range's first key.
type elements map[string]element

// element is what belongs to a key. end is the range's last key.
type element struct {
	end  string
	data string
}

type counterName struct {
	table table
	name  string
}

// key joins encoded fields as registers hold them.
func key(fields ...[]byte) string {
	var b []byte
	for _, f := range fields {
		b = append(b, f...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return string(b)
}

func encodeName(name string) []byte {
	b := make([]byte, ifname.size())
	copy(b, name)
	return b
}

func encodeNumber(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func encodeResult(n uint32) []byte { return binary.NativeEndian.AppendUint32(make([]byte, 4), n) }

func encodeZone(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }

func encodePort(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func (r *ruleset) set(name string) (set, bool) {
	i := slices.IndexFunc(r.sets, func(s set) bool { return s.name == name })
	if i < 0 {
		return set{}, false
	}
	return r.sets[i], true
}

// all are the chains, those at ingress first and by device.
func (r *ruleset) all() []chain {
	all := make([]chain, 0, len(r.ports)+len(r.chains))
	for _, device := range slices.Sorted(maps.Keys(r.ports)) {
		all = append(all, r.ports[device])
	}
	return append(all, r.chains...)
}

// String prints the ruleset as text that resembles nft's, elements sorted.
func (r *ruleset) String() string {
	var b strings.Builder
	for _, t := range tables() {
		fmt.Fprintf(&b, "table %s %s\n", t, tableName)
		for _, c := range r.counters {
			if c.table == t {
				fmt.Fprintf(&b, "counter %s\n", c.name)
			}
		}
		for _, s := range r.sets {
			if s.table == t {
				b.WriteString(s.String())
				for _, k := range sortedKeys(r.elements[s.name]) {
					fmt.Fprintf(&b, "\t%s\n", s.formatElement(k, r.elements[s.name][k]))
				}
			}
		}
		for _, c := range r.all() {
			if c.table == t {
				b.WriteString(c.String())
			}
		}
	}
	return b.String()
}

func sortedKeys(m elements) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (s set) String() string {
	names := make([]string, len(s.key))
	for i, f := range s.key {
		names[i] = f.String()
	}
	text := "set " + s.name + " " + strings.Join(names, " . ")
	if s.data != noField {
		text += " : " + s.data.String()
	}
	if s.interval {
		text += " interval"
	}
	return text + "\n"
}

func (s set) formatElement(key string, e element) string {
	text := s.formatKey(key)
	if s.interval && e.end != key {
		text += " - " + s.formatKey(e.end)
	}
	if s.data == outcome {
		return text + " : " + e.data
	}
	if s.data != noField {
		text += " : " + s.data.format([]byte(e.data))
	}
	return text
}

func (s set) formatKey(key string) string {
	b := []byte(key)
	var parts []string
	for _, f := range s.key {
		n := f.size()
		if len(s.key) > 1 {
			n = f.padded()
		}
		if n > len(b) {
			return fmt.Sprintf("%x", key)
		}
		parts = append(parts, f.format(b[:f.size()]))
		b = b[n:]
	}
	return strings.Join(parts, " . ")
}

func (f field) format(b []byte) string {
	if len(b) < f.size() {
		return fmt.Sprintf("%x", b)
	}
	switch f {
	case ifname:
		return string(bytes.TrimRight(b, "\x00"))
	case etherAddr:
		return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
	case ipv4Addr, ipv6Addr:
		a, _ := netip.AddrFromSlice(b)
		return a.String()
	case port:
		return fmt.Sprint(binary.BigEndian.Uint16(b))
	case protocol, icmp6Type:
		return fmt.Sprint(b[0])
	case number:
		return fmt.Sprint(binary.NativeEndian.Uint32(b))
	case result:
		return fmt.Sprint(binary.NativeEndian.Uint32(b[4:]))
	case zone:
		return fmt.Sprint(binary.NativeEndian.Uint16(b))
	}
	return fmt.Sprintf("%x", b)
}

func (c chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "chain %s", c.name)
	if c.hook != noHook {
		fmt.Fprintf(&b, " hook %s priority %d", c.hook, c.priority)
		if c.device != "" {
			fmt.Fprintf(&b, " device %s", c.device)
		}
	}
	b.WriteByte('\n')
	for _, r := range c.rules {
		words := make([]string, len(r))
		for i, e := range r {
			words[i] = e.String()
		}
		fmt.Fprintf(&b, "\t%s\n", strings.Join(words, "; "))
	}
	return b.String()
}

func decodeZone(data string) uint16 { return binary.NativeEndian.Uint16([]byte(data)) }
