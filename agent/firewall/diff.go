package firewall

import (
	"maps"
	"reflect"
	"slices"
)

// transaction is what the kernel does as a whole or not at all, in this order.
type transaction struct {
	replace     bool // the tables, as far as they are there, are deleted first
	addTables   []table
	addCounters []initialCounter
	// With their rules, which may name any of the chains and sets. One at ingress may
	// be there already; where its interface is not there, it is left out.
	addChains   []chain
	addSets     []set
	delElements []setElements
	addElements []setElements
	delChains   []chain
}

// setElements are some elements of one set.
type setElements struct {
	set      set
	elements elements
}

// initialCounter is a counter, with what its predecessor had.
type initialCounter struct {
	counterName
	packets, bytes uint64
}

func (t *transaction) empty() bool {
	return !t.replace && len(t.addChains) == 0 && len(t.delElements) == 0 && len(t.addElements) == 0 && len(t.delChains) == 0
}

// size is how many elements and chains are sent.
func (t *transaction) size() int {
	n := len(t.addChains) + len(t.delChains)
	for _, s := range slices.Concat(t.delElements, t.addElements) {
		n += len(s.elements)
	}
	return n
}

// replacement makes the whole ruleset anew. Counters go on from their values.
func replacement(r *ruleset, counted map[string]counted) *transaction {
	t := &transaction{replace: true, addTables: tables(), addChains: r.chains, addSets: r.sets}
	for _, c := range r.counters {
		t.addCounters = append(t.addCounters, initialCounter{c, counted[c.name].packets, counted[c.name].bytes})
	}
	for _, s := range r.sets {
		if len(r.elements[s.name]) > 0 {
			t.addElements = append(t.addElements, setElements{s, r.elements[s.name]})
		}
	}
	return t
}

// difference leads from one ruleset to another by changing elements and adding and
// deleting chains. ok is false when that does not suffice.
func difference(before, after *ruleset) (t *transaction, ok bool) {
	t = &transaction{}
	if !reflect.DeepEqual(before.sets, after.sets) || !slices.Equal(before.counters, after.counters) {
		return nil, false
	}
	old := make(map[string]chain, len(before.chains))
	for _, c := range before.chains {
		old[c.name] = c
	}
	for _, c := range after.chains {
		o, there := old[c.name]
		if !there {
			t.addChains = append(t.addChains, c)
		} else if !reflect.DeepEqual(o, c) {
			if c.hook != ingress {
				return nil, false
			}
			t.addChains = append(t.addChains, c)
		}
		delete(old, c.name)
	}
	for _, c := range before.chains {
		if _, gone := old[c.name]; !gone {
			continue
		}
		if c.hook != noHook && c.hook != ingress {
			return nil, false
		}
		t.delChains = append(t.delChains, c)
	}
	for _, s := range after.sets {
		del, add := changes(before.elements[s.name], after.elements[s.name])
		if len(del) > 0 {
			t.delElements = append(t.delElements, setElements{s, del})
		}
		if len(add) > 0 {
			t.addElements = append(t.addElements, setElements{s, add})
		}
	}
	return t, true
}

// changes lists elements that are only before, and only after; one with other data
// is in both.
func changes(before, after elements) (del, add elements) {
	if maps.Equal(before, after) {
		return nil, nil
	}
	del, add = make(elements), make(elements)
	for k, e := range before {
		if a, there := after[k]; !there || a != e {
			del[k] = e
		}
	}
	for k, e := range after {
		if b, there := before[k]; !there || b != e {
			add[k] = e
		}
	}
	return del, add
}
