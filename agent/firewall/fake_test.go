package firewall

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"nereid/api"
)

// fakeKernel does transactions on a ruleset of its own, refuses what the kernel
// refuses, and prints what it has (ruleset.String).
type fakeKernel struct {
	*ruleset // nil: no tables
	gen      uint32
	commits  int
	replaced int
	last     *transaction
	fail     error   // of the next commit
	fails    int     // and of so many after it
	failed   []error // of those that were refused
	counts   map[string]counted
	mixed    bool // br_netfilter is on
	during   func()
}

func newFakeKernel() *fakeKernel { return &fakeKernel{gen: 1, counts: make(map[string]counted)} }

func (k *fakeKernel) commit(_ context.Context, t *transaction) error {
	if k.during != nil {
		k.during()
	}
	if err := k.fail; err != nil {
		if k.fails--; k.fails < 0 {
			k.fail, k.fails = nil, 0
		}
		k.failed = append(k.failed, err)
		return err
	}
	next := k.ruleset
	if t.replace {
		next = nil
	}
	next, err := next.after(t)
	if err != nil {
		k.failed = append(k.failed, err)
		return err
	}
	if t.replace {
		k.replaced++
		k.counts = make(map[string]counted)
		for _, c := range t.addCounters {
			k.counts[c.name] = counted{c.packets, c.bytes}
		}
	}
	k.ruleset, k.last = next, t
	k.gen++
	k.commits++
	return nil
}

// after is a copy of a ruleset with a transaction done.
func (r *ruleset) after(t *transaction) (*ruleset, error) {
	if r == nil {
		if len(t.addTables) == 0 {
			if t.replace {
				return nil, nil
			}
			return nil, errors.New("no tables")
		}
		r = &ruleset{}
	}
	n := &ruleset{chains: slices.Clone(r.chains), sets: append(slices.Clone(r.sets), t.addSets...), counters: slices.Clone(r.counters), elements: make(map[string]elements)}
	for s, es := range r.elements {
		n.elements[s] = maps.Clone(es)
	}
	for _, s := range t.addSets {
		n.elements[s.name] = make(elements)
	}
	for _, c := range t.addCounters {
		n.counters = append(n.counters, c.counterName)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(n.chains, func(c chain) bool { return c.name == name })
	}
	for _, c := range t.addChains {
		if c.hook == ingress {
			n.chains = slices.DeleteFunc(n.chains, func(o chain) bool { return o.name == c.name })
		}
		if has(c.name) {
			return nil, fmt.Errorf("chain %s exists", c.name)
		}
		n.chains = append(n.chains, c)
	}
	for _, d := range t.delElements {
		for k := range d.elements {
			if _, there := n.elements[d.set.name][k]; !there {
				return nil, fmt.Errorf("set %s has no element %s", d.set.name, d.set.formatKey(k))
			}
			delete(n.elements[d.set.name], k)
		}
	}
	for _, a := range t.addElements {
		for k, e := range a.elements {
			if _, there := n.elements[a.set.name][k]; there {
				return nil, fmt.Errorf("set %s has element %s", a.set.name, a.set.formatKey(k))
			}
			n.elements[a.set.name][k] = e
		}
		if a.set.interval {
			last := ""
			for _, k := range sortedKeys(n.elements[a.set.name]) {
				if last >= k {
					return nil, fmt.Errorf("set %s: ranges overlap at %s", a.set.name, a.set.formatKey(k))
				}
				last = n.elements[a.set.name][k].end
			}
		}
	}
	for _, d := range t.delChains {
		n.chains = slices.DeleteFunc(n.chains, func(c chain) bool { return c.name == d.name })
	}
	for _, e := range n.elements[setDecisions] {
		if v := e.data; len(v) > 5 && v[:5] == "goto " && !has(v[5:]) {
			return nil, fmt.Errorf("no chain %s", v[5:])
		}
	}
	return n, nil
}

func (k *fakeKernel) generation(context.Context) (uint32, error) { return k.gen, nil }

func (k *fakeKernel) read(_ context.Context, only []chain, sets []set) (*contents, error) {
	c := &contents{elements: make(map[string]elements), program: make(program)}
	if k.ruleset != nil {
		for _, x := range k.chains {
			if only == nil || slices.ContainsFunc(only, func(o chain) bool { return o.key() == x.key() }) {
				c.program[x.key()] = sha256.Sum256(fmt.Append(nil, x))
			}
		}
	}
	for _, s := range sets {
		c.elements[s.name] = make(elements)
		if k.ruleset != nil {
			c.elements[s.name] = maps.Clone(k.elements[s.name])
		}
	}
	return c, nil
}

func (k *fakeKernel) counted(context.Context) (map[string]counted, error) { return k.counts, nil }

func (k *fakeKernel) separate(context.Context) (bool, error) {
	was := k.mixed
	k.mixed = false
	return was, nil
}

// applyAll is Apply, where nobody's rules may fail.
func applyAll(ctx context.Context, f *Firewall, ports []Port, fw api.FirewallSpec, o Options) error {
	failures, err := f.Apply(ctx, ports, fw, o)
	for _, failed := range failures {
		err = errors.Join(err, failed.Err)
	}
	return err
}
