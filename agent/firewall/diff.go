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
	t := &transaction{replace: true, addTables: tables(), addChains: r.all(), addSets: r.sets}
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
		if there && !reflect.DeepEqual(o, c) {
			return nil, false
		}
		if !there {
			t.addChains = append(t.addChains, c)
		}
		delete(old, c.name)
	}
	for _, c := range before.chains {
		if _, gone := old[c.name]; !gone {
			continue
		}
		if c.hook != noHook {
			return nil, false
		}
		t.delChains = append(t.delChains, c)
	}
	for device, c := range after.ports {
		t.port(before.ports[device], c)
	}
	for device, c := range before.ports {
		if _, still := after.ports[device]; !still {
			t.port(c, chain{})
		}
	}
	for _, s := range after.sets {
		t.change(s, before.elements[s.name], after.elements[s.name])
	}
	return t, true
}

// port makes one chain at ingress of another; one without a name is none.
func (t *transaction) port(before, after chain) {
	switch {
	case reflect.DeepEqual(before, after):
	case after.name == "":
		t.delChains = append(t.delChains, before)
	default:
		t.addChains = append(t.addChains, after)
	}
}

// change makes one list of elements of another.
func (t *transaction) change(s set, before, after elements) {
	del, add := changes(before, after)
	if len(del) > 0 {
		t.delElements = append(t.delElements, setElements{s, del})
	}
	if len(add) > 0 {
		t.addElements = append(t.addElements, setElements{s, add})
	}
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

// change does a transaction that replaces nothing, in memory; undo takes it back.
func (r *ruleset) change(t *transaction) (undo func()) {
	type kept struct {
		device string
		chain  chain
	}
	var old []kept
	chains := r.chains
	at := func(name string) func(chain) bool { return func(c chain) bool { return c.name == name } }
	for _, c := range t.addChains {
		if c.hook == ingress {
			old = append(old, kept{c.device, r.ports[c.device]})
			r.ports[c.device] = c
		} else {
			r.chains = append(slices.Clip(r.chains), c)
		}
	}
	for _, c := range t.delChains {
		if c.hook == ingress {
			old = append(old, kept{c.device, r.ports[c.device]})
			delete(r.ports, c.device)
		} else {
			r.chains = slices.DeleteFunc(slices.Clone(r.chains), at(c.name))
		}
	}
	swap := func(del, add []setElements) {
		for _, d := range del {
			for k := range d.elements {
				delete(r.elements[d.set.name], k)
			}
		}
		for _, a := range add {
			maps.Copy(r.elements[a.set.name], a.elements)
		}
	}
	swap(t.delElements, t.addElements)
	return func() {
		swap(t.addElements, t.delElements)
		r.chains = chains
		for _, k := range slices.Backward(old) {
			if r.ports[k.device] = k.chain; k.chain.name == "" {
				delete(r.ports, k.device)
			}
		}
	}
}
