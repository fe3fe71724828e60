package firewall

import (
	"cmp"
	"container/heap"
	"slices"
)

// piece is a span of a protocol's ports that one rule decides about. rule is its
// place in spec.rules: the less, the stronger.
type piece struct {
	protocol byte
	span
	rule int
}

// paint gives each port to the strongest of the rules that name it. The pieces come
// sorted by protocol and port and do not overlap; what no rule names is in none.
// It takes time in proportion to n log n of the rules' spans.
func paint(rules []ruleInput, which []int) []piece {
	byProtocol := make(map[byte][]piece)
	var protocols []byte
	for _, i := range which {
		r := &rules[i]
		if _, seen := byProtocol[r.protocol]; !seen {
			protocols = append(protocols, r.protocol)
		}
		for _, s := range r.spans {
			byProtocol[r.protocol] = append(byProtocol[r.protocol], piece{r.protocol, s, i})
		}
	}
	slices.Sort(protocols)
	var out []piece
	for _, p := range protocols {
		out = append(out, sweep(byProtocol[p])...)
	}
	return out
}

// strongest is a heap of pieces with the strongest rule first.
type strongest []piece

func (h strongest) Len() int           { return len(h) }
func (h strongest) Less(i, j int) bool { return h[i].rule < h[j].rule }
func (h strongest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *strongest) Push(x any)        { *h = append(*h, x.(piece)) }
func (h *strongest) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// sweep goes over the ports of one protocol from the lowest to the highest.
func sweep(ps []piece) []piece {
	slices.SortFunc(ps, func(a, b piece) int { return int(a.first) - int(b.first) })
	var out []piece
	var open strongest
	for at, next := 0, 0; at <= 0xffff; {
		for next < len(ps) && int(ps[next].first) <= at {
			heap.Push(&open, ps[next])
			next++
		}
		for len(open) > 0 && int(open[0].last) < at {
			heap.Pop(&open)
		}
		end := 0xffff
		if next < len(ps) {
			end = int(ps[next].first) - 1
		}
		if len(open) > 0 {
			end = min(end, int(open[0].last))
			out = appendPiece(out, piece{open[0].protocol, span{uint16(at), uint16(end)}, open[0].rule})
		}
		at = end + 1
	}
	return out
}

// appendPiece joins neighbours of one rule.
func appendPiece(ps []piece, p piece) []piece {
	if n := len(ps); n > 0 {
		if l := &ps[n-1]; l.protocol == p.protocol && l.rule == p.rule && int(l.last)+1 == int(p.first) {
			l.last = p.last
			return ps
		}
	}
	return append(ps, p)
}

// outcomes are pieces with what is done about them in the place of the rule.
type outcomes []decided

type decided struct {
	protocol byte
	span
	outcome uint32 // key of the map setDecisions
}

// except lists where special pieces change what common ones, or where those are
// silent the default, would do: where the special rule is the stronger one and
// its outcome another.
func except(special, common []piece, outcome func(rule int) uint32, byDefault uint32) outcomes {
	var out outcomes
	next := 0
	if len(special) > 0 {
		next, _ = slices.BinarySearchFunc(common, special[0], func(c, s piece) int {
			return cmp.Or(cmp.Compare(c.protocol, s.protocol), cmp.Compare(c.last, s.first))
		})
	}
	for _, s := range special {
		for next < len(common) && (common[next].protocol < s.protocol || common[next].protocol == s.protocol && common[next].last < s.first) {
			next++
		}
		at := int(s.first)
		for i := next; at <= int(s.last); i++ {
			if i == len(common) || common[i].protocol != s.protocol || common[i].first > s.last {
				out = out.add(s.protocol, at, int(s.last), outcome(s.rule), byDefault)
				break
			}
			c := common[i]
			if at < int(c.first) {
				out = out.add(s.protocol, at, int(c.first)-1, outcome(s.rule), byDefault)
			}
			last := min(int(c.last), int(s.last))
			if s.rule < c.rule {
				out = out.add(s.protocol, max(at, int(c.first)), last, outcome(s.rule), outcome(c.rule))
			}
			at = last + 1
		}
	}
	return out
}

// add appends a piece unless it does what would be done anyway.
func (o outcomes) add(protocol byte, first, last int, outcome, otherwise uint32) outcomes {
	if outcome == otherwise || first > last {
		return o
	}
	if n := len(o); n > 0 {
		if l := &o[n-1]; l.protocol == protocol && l.outcome == outcome && int(l.last)+1 == first {
			l.last = uint16(last)
			return o
		}
	}
	return append(o, decided{protocol, span{uint16(first), uint16(last)}, outcome})
}
