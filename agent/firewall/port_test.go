package firewall

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// rulesOfPort are the rules of a world that name a port, with their address sets.
func (w *world) rulesOfPort(mac string) api.FirewallSpec {
	var fw api.FirewallSpec
	named := make(map[string]bool)
	for _, e := range w.fw.Rules {
		if slices.Contains(e.Ports, mac) {
			fw.Rules = append(fw.Rules, e)
			for _, p := range e.Peers {
				named[p] = true
			}
		}
	}
	for _, s := range w.fw.Sets {
		if named[s.Name] {
			fw.Sets = append(fw.Sets, s)
		}
	}
	return fw
}

// randomPort is a port in one of many shapes.
func randomPort(r *rand.Rand, i int) Port {
	p := testPort(i, r.IntN(4) > 0)
	p.Owner, p.Instance = pick(r, []string{"a", "b"}), fmt.Sprint("i", i)
	p.Bridge = pick(r, []string{"br0", "br1"})
	p.Names = map[string][]string{"br0": {"br2"}}[p.Bridge]
	p.Isolated, p.VNI = r.IntN(3) > 0, uint32(r.IntN(2))
	p.AllowMACSpoofing, p.AllowRestrictedTraffic = r.IntN(6) == 0, r.IntN(6) == 0
	if r.IntN(3) == 0 {
		p.AllowedIPs = []string{pick(r, []string{"10.7.0.0/16", "10.8.0.1", "fd07::/32"})}
	}
	if r.IntN(25) == 0 {
		p.Interface = fmt.Sprintf("nic%dx", i)
	}
	return p
}

// text prints a state but for its ruleset, with numbers that do not depend on how it
// came about.
func (st *state) text() string {
	var lines []string
	add := func(format string, a ...any) { lines = append(lines, fmt.Sprintf(format, a...)) }
	for mac, p := range st.ports {
		add("port %v %+v", mac, p.portInput)
		for _, g := range []*placedGroup{p.in, p.out} {
			if g != nil {
				add("port %v %v in %x %d %d", mac, g.direction, g.key, g.id, st.numbers.groups[groupKey{g.direction, mac}])
			}
		}
	}
	for k, g := range st.groups {
		add("group %x %v %d of %d", k, g.direction, g.id, g.ports)
		for _, r := range g.rules {
			add("group %x %s %v", k, r.key, st.rules[r.key] == r)
		}
	}
	for k, r := range st.rules {
		add("rule %s of %d groups", k, r.groups)
		for _, s := range r.sets {
			add("rule %s set %s %v", k, s.name, st.known[s.name] == s)
		}
	}
	for _, s := range st.known {
		add("set %+v", *s)
	}
	for k, e := range st.shared {
		add("shared %v %d", k, e.count)
	}
	add("%v %v %v %v", st.names, st.bridges, st.zones, st.mixed)
	add("numbers %v %v %v %v", st.numbers.logs, st.numbers.patterns, st.numbers.groups, st.numbers.zones)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// same compares rulesets, whatever the order of chains.
func (r *ruleset) same(o *ruleset) bool {
	chains := func(r *ruleset) map[chainKey]chain {
		m := make(map[chainKey]chain)
		for _, c := range r.all() {
			m[c.key()] = c
		}
		return m
	}
	return reflect.DeepEqual(chains(r), chains(o)) && maps.EqualFunc(r.elements, o.elements, maps.Equal[elements, elements])
}

// portLab is a firewall with what it should have.
type portLab struct {
	*world
	k *fakeKernel
	f *Firewall
	o Options
}

// isApplied sees that an Apply of all would send nothing, and leave memory as it is.
func (l *portLab) isApplied(t *testing.T, when string) {
	t.Helper()
	c, err := l.f.compile(wanted{l.ports, l.fw}, wanted{}, l.o, l.f.applied.numbers)
	if err != nil || len(c.failures) > 0 {
		t.Fatalf("%s: %v %v", when, err, c.failures)
	}
	if d, small := difference(l.f.applied.ruleset, c.state.ruleset); !small || !d.empty() {
		t.Fatalf("%s: an Apply would send %+v\nof\n%s\nto\n%s", when, d, l.f.applied.ruleset, c.state.ruleset)
	}
	if is, want := l.f.applied.text(), c.state.text(); is != want {
		t.Fatalf("%s: state\n%s", when, cmp.Diff(want, is))
	}
}

// equalsApply sees that the kernel has what an Apply of all would give, and that memory
// is as that would leave it.
func (l *portLab) equalsApply(t *testing.T, r *rand.Rand, when string) {
	t.Helper()
	if !l.f.applied.same(l.k.ruleset) {
		t.Fatalf("%s: applied is\n%s\nthe kernel has\n%s", when, l.f.applied.ruleset, l.k.ruleset)
	}
	l.isApplied(t, when)
	// What has no numbers is what a new process makes.
	fresh, err := (&Firewall{}).compile(wanted{l.ports, l.fw}, wanted{}, l.o, newNumbers(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Concat(guardSets(), trackSets(), hostSets()) {
		if s.data == noField && s.name != setCurrent && !maps.Equal(fresh.state.elements[s.name], l.k.elements[s.name]) {
			t.Fatalf("%s: set %s is %v, want %v", when, s.name, l.k.elements[s.name], fresh.state.elements[s.name])
		}
	}
	if !slices.ContainsFunc(l.ports, func(p Port) bool { return strings.HasSuffix(p.Interface, "x") }) { // flows know the names
		l.check(t, r, l.k.ruleset, true)
	}
}

// step makes one random change, and reports what it was and how to make it.
func (l *portLab) step(t *testing.T, r *rand.Rand, step int) (what string, do func() error) {
	w := &world{ports: slices.Clone(l.ports), fw: l.fw}
	w.fw.Rules = slices.Clone(w.fw.Rules)
	i := 1 + r.IntN(6)
	mac := macText(testMAC(i))
	at := slices.IndexFunc(w.ports, func(p Port) bool { return p.MAC == mac })
	old := l.world
	l.world = w
	forget := func() {
		for j := range w.fw.Rules {
			e := &w.fw.Rules[j]
			e.Ports = slices.DeleteFunc(slices.Clone(e.Ports), func(m string) bool { return m == mac })
		}
	}
	switch n := r.IntN(10); {
	case n == 0:
		ports := w.ports
		w.change(r, step)
		w.ports = ports
		if len(ports) > 0 {
			j := r.IntN(len(ports))
			m, _ := parseMAC(ports[j].MAC)
			ports[j] = randomPort(r, int(m[5]))
		}
		return "apply", func() error { return applyAll(t.Context(), l.f, w.ports, w.fw, l.o) }
	case n <= 3 && at >= 0:
		instance := pick(r, []string{"", w.ports[at].Instance, "other"})
		if instance != "other" {
			w.ports = slices.Delete(w.ports, at, at+1)
			forget()
		}
		return fmt.Sprint("drop ", i, " of ", instance), func() error { return l.f.DropPort(t.Context(), mac, instance) }
	default:
		p := randomPort(r, i)
		if at >= 0 && r.IntN(3) == 0 { // other rules only
			p = w.ports[at]
		}
		if at >= 0 {
			w.ports[at] = p
		} else {
			w.ports = append(w.ports, p)
		}
		forget()
		for range r.IntN(3) { // as another port, or of its own
			if len(w.fw.Rules) > 0 && r.IntN(3) > 0 {
				e := &w.fw.Rules[r.IntN(len(w.fw.Rules))]
				if !slices.Contains(e.Ports, mac) {
					e.Ports = append(slices.Clone(e.Ports), mac)
				}
			} else {
				e := w.randomRule(r, 1000+step)
				e.Ports = []string{mac}
				w.fw.Rules = append(w.fw.Rules, e)
			}
		}
		if r.IntN(8) == 0 {
			j := r.IntN(len(w.fw.Sets))
			set := w.randomSet(r, w.fw.Sets[j].Name)
			if !slices.ContainsFunc(w.fw.Rules, func(e api.FirewallEntry) bool { // no other port's
				return slices.Contains(e.Peers, set.Name) && !slices.Equal(e.Ports, []string{mac})
			}) {
				w.fw.Sets = slices.Clone(old.fw.Sets)
				w.fw.Sets[j] = set
			}
		}
		rules := w.rulesOfPort(mac)
		return fmt.Sprintf("set %+v %+v", p, rules), func() error { return l.f.SetPort(t.Context(), p, rules) }
	}
}

func newPortLab(t *testing.T, seed uint64) (*portLab, *rand.Rand) {
	r := rand.New(rand.NewPCG(seed, 5))
	l := &portLab{world: newWorld(r), k: newFakeKernel(), o: Options{PortPrefix: []string{"", "nic"}[seed%2], IsolatedPrefixes: [][]string{nil, {"br"}}[seed/2%2]}}
	l.f = &Firewall{kernel: l.k}
	if err := applyAll(t.Context(), l.f, l.ports, l.fw, l.o); err != nil {
		t.Fatal(err)
	}
	return l, r
}

// TestPortsEqualApply: after any sequence of SetPort, DropPort and Apply, the kernel has
// what one Apply of the final state gives, and judges as the naive evaluator; each is
// one transaction at most, and none the second time. Most changes of ports are worked
// out by themselves.
func TestPortsEqualApply(t *testing.T) {
	alone, all := 0, 0
	for seed := range uint64(10) {
		l, r := newPortLab(t, seed)
		for step := range 20 {
			what, do := l.step(t, r, step)
			when := fmt.Sprintf("seed %d step %d: %s", seed, step, what)
			was, before := l.f.applied, l.k.commits
			if err := do(); err != nil || l.k.commits > before+1 {
				t.Fatalf("%s: %v, %d transactions", when, err, l.k.commits-before)
			}
			if what != "apply" {
				if all++; l.f.applied == was {
					alone++
				}
			}
			l.equalsApply(t, r, when)
			before = l.k.commits
			if err := do(); err != nil || l.k.commits > before {
				t.Fatalf("%s: again: %v, %d transactions", when, err, l.k.commits-before)
			}
			if repaired, err := l.f.VerifyOrRepair(t.Context()); err != nil || repaired {
				t.Fatalf("%s: repaired %v, %v", when, repaired, err)
			}
			l.k.gen++ // somebody else's transaction: all is read
			if repaired, err := l.f.VerifyOrRepair(t.Context()); err != nil || repaired {
				t.Fatalf("%s: repaired %v after all was read, %v", when, repaired, err)
			}
		}
		if len(l.k.failed) > 0 {
			t.Fatalf("seed %d: refused %v", seed, l.k.failed)
		}
	}
	t.Logf("%d of %d changes were worked out by themselves", alone, all)
	if alone < all*3/4 {
		t.Errorf("%d of %d changes were worked out by themselves", alone, all)
	}
}

// TestPortsAgainstFailures: where the kernel refuses one transaction, all is replaced;
// where it refuses that too, nothing has changed and the next try does it; and a process
// that is killed at any point is followed by one that has it right.
func TestPortsAgainstFailures(t *testing.T) {
	for seed := range uint64(10) {
		l, r := newPortLab(t, seed)
		for step := range 20 {
			before := l.world
			what, do := l.step(t, r, step)
			when := fmt.Sprintf("seed %d step %d: %s", seed, step, what)
			commits := l.k.commits
			switch r.IntN(4) {
			case 0, 1: // refused once, and twice
				l.k.fail, l.k.fails = errors.New("no"), r.IntN(2)
				if err := do(); err != nil {
					after := l.world
					l.world = before
					l.equalsApply(t, r, when+", refused")
					l.world = after
				} else if l.k.commits > commits && l.k.fails > 0 {
					t.Fatalf("%s: refused twice and no error", when)
				}
				l.k.fail, l.k.fails = nil, 0
				if err := do(); err != nil {
					t.Fatalf("%s: after refusals: %v", when, err)
				}
			case 2: // killed before it knew what came of it
				if err := do(); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				fallthrough
			case 3: // killed before
				l.f = &Firewall{kernel: l.k}
				if err := do(); what != "apply" && !strings.HasPrefix(what, "drop") && !errors.Is(err, errNotApplied) {
					t.Fatalf("%s: in a new process, before the rules: %v", when, err)
				}
				if err := applyAll(t.Context(), l.f, l.ports, l.fw, l.o); err != nil {
					t.Fatalf("%s: in a new process: %v", when, err)
				}
			}
			l.equalsApply(t, r, when)
		}
	}
}
