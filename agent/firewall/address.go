package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// pattern is which address sets an address is in: their indices into spec.sets,
// sorted. Addresses of one pattern are treated alike by every rule.
type pattern []int

// patternRange is a range of addresses, and where in addressMap.patterns theirs is.
type patternRange struct {
	first, last netip.Addr
	pattern     int
}

// addressMap says for each address its pattern; what is in neither list has none.
// What hosts says goes before what ranges says.
type addressMap struct {
	patterns []pattern
	hosts    map[netip.Addr]int
	ranges   []patternRange // disjoint
}

// patterns interns patterns.
type patternTable struct {
	list  []pattern
	index map[string]int
}

func (t *patternTable) intern(p pattern) int {
	b := make([]byte, 0, 4*len(p))
	for _, s := range p {
		b = binary.NativeEndian.AppendUint32(b, uint32(s))
	}
	i, known := t.index[string(b)]
	if !known {
		i = len(t.list)
		t.list = append(t.list, slices.Clone(p))
		t.index[string(b)] = i
	}
	return i
}

// mapAddresses finds the patterns of all addresses in the sets that rules use.
func mapAddresses(s *spec) *addressMap {
	used := make([]bool, len(s.sets))
	for _, r := range s.rules {
		for _, p := range r.peers {
			used[p] = true
		}
	}
	hosts := make(map[netip.Addr]pattern)
	nets := make(map[netip.Prefix]pattern)
	for i, set := range s.sets {
		if !used[i] {
			continue
		}
		for _, a := range set.hosts {
			hosts[a] = withSet(hosts[a], i)
		}
		for _, n := range set.nets {
			nets[n] = withSet(nets[n], i)
		}
	}
	t := patternTable{index: make(map[string]int)}
	m := &addressMap{hosts: make(map[netip.Addr]int, len(hosts))}
	m.ranges = flatten(nets, &t)
	for a, p := range hosts {
		around, inside := findRange(m.ranges, a)
		if inside {
			p = union(p, t.list[around])
		}
		if i := t.intern(p); !inside || i != around {
			m.hosts[a] = i
		}
	}
	m.patterns = t.list
	return m
}

// withSet adds a set to a pattern; sets come in ascending order.
func withSet(p pattern, set int) pattern {
	if n := len(p); n > 0 && p[n-1] == set {
		return p
	}
	return append(p, set)
}

func union(a, b pattern) pattern {
	u := slices.Concat(a, b)
	slices.Sort(u)
	return slices.Compact(u)
}

// flatten makes disjoint ranges of prefixes, which lie within each other or apart.
func flatten(nets map[netip.Prefix]pattern, t *patternTable) []patternRange {
	sorted := make([]netip.Prefix, 0, len(nets))
	for n := range nets {
		sorted = append(sorted, n)
	}
	// By first address, the wider before what lies within it.
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	type level struct {
		last    netip.Addr
		pattern int
	}
	var (
		out   []patternRange
		stack []level
		at    netip.Addr // first address not yet in a range; invalid: none is left
	)
	emit := func(last netip.Addr, p int) {
		if at.IsValid() && at.Compare(last) <= 0 {
			if n := len(out); n > 0 && out[n-1].pattern == p && out[n-1].last.Next() == at {
				out[n-1].last = last
			} else {
				out = append(out, patternRange{at, last, p})
			}
			at = last.Next()
		}
	}
	leave := func(before netip.Addr, all bool) {
		for n := len(stack); n > 0 && (all || stack[n-1].last.Less(before)); n = len(stack) {
			emit(stack[n-1].last, stack[n-1].pattern)
			stack = stack[:n-1]
		}
	}
	for _, n := range sorted {
		leave(n.Addr(), false)
		own := nets[n]
		if k := len(stack); k > 0 {
			if n.Addr().Prev().IsValid() {
				emit(n.Addr().Prev(), stack[k-1].pattern)
			}
			own = union(own, t.list[stack[k-1].pattern])
		}
		at = n.Addr()
		stack = append(stack, level{lastAddr(n), t.intern(own)})
	}
	leave(netip.Addr{}, true)
	return out
}

// findRange finds the pattern of the range that an address is in.
func findRange(ranges []patternRange, a netip.Addr) (pattern int, ok bool) {
	i, exact := slices.BinarySearchFunc(ranges, a, func(r patternRange, a netip.Addr) int { return r.first.Compare(a) })
	if !exact {
		i--
	}
	if i < 0 || ranges[i].last.Less(a) || ranges[i].first.BitLen() != a.BitLen() {
		return 0, false
	}
	return ranges[i].pattern, true
}
