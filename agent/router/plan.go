package router

import (
	"fmt"
	"slices"
)

// op is what a step does.
type op int

const (
	opAdd op = iota
	opReplace
	opRemove
)

// step is one change. It may be done again after a crash in its middle.
type step struct {
	op
	item
}

func (s step) String() string {
	if s.op == opRemove {
		return "- " + s.key.String()
	}
	return [...]string{"+ ", "~ "}[s.op] + s.item.String()
}

// plan gives the steps from what there is to what is wanted: removals first, in
// the opposite order of creation. Items of a namespace in keep are left as they
// are.
func plan(have *state, want map[key]item, keep map[string]bool) []step {
	var steps []step
	for _, i := range slices.Backward(sorted(have.Items)) {
		w, wanted := want[i.key]
		switch {
		case keep[i.For]:
			continue
		case !wanted && vanishes(i, want):
			continue
		case !wanted:
		case i.Value != w.Value && !replaceable(i.Kind):
		default:
			continue
		}
		steps = append(steps, step{opRemove, i})
	}
	// The ends of pairs that are made, or made anew: one end may still be there, of a
	// pair whose other end is in a namespace that goes.
	gone := map[string]bool{}
	for k, w := range want {
		if v, ok := w.Value.(veth); ok && have.Items[k].Value != w.Value {
			gone[k.At+"/"+k.Link], gone[v.Space+"/"+v.Inner] = true, true
		}
	}
	for _, w := range sorted(want) {
		if keep[w.For] {
			continue
		}
		i, there := have.Items[w.key]
		if w.Kind != kindSysctl && gone[w.At+"/"+w.Link] || viaGone(i, w.At, gone) {
			there = false
		}
		switch {
		case !there || (i.Value != w.Value && !replaceable(w.Kind)):
			steps = append(steps, step{opAdd, w})
		case i.Value != w.Value:
			steps = append(steps, step{opReplace, w})
		}
	}
	return steps
}

// replaceable reports whether a new value of the kind takes the place of the old
// one at once. The others are removed and made again.
func replaceable(k kind) bool { return k != kindSpace && k != kindVeth }

// vanishes reports whether the kernel removes i along with something else that
// has to go: all that is inside a namespace, all that an interface has.
func vanishes(i item, want map[key]item) bool {
	if i.At == "" || i.Kind == kindSpace || i.Kind == kindVeth {
		return false
	}
	_, stays := want[key{Kind: kindSpace, At: i.At}]
	return !stays || i.Kind == kindSysctl
}

// viaGone reports whether i is a route by an interface that is made anew.
func viaGone(i item, at string, gone map[string]bool) bool {
	h, ok := i.Value.(hop)
	return ok && gone[at+"/"+h.Dev]
}

// describe prints steps one a line.
func describe(steps []step) string {
	s := ""
	for _, st := range steps {
		s += fmt.Sprintln(st)
	}
	return s
}
