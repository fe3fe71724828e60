package firewall

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// ownedPort is testPort, of an owner.
func ownedPort(i int, firewall bool, owner string) Port {
	p := testPort(i, firewall)
	p.Owner = owner
	return p
}

// applyOwned applies twice, and sees that the second time says the same and costs no
// transaction.
func applyOwned(t *testing.T, f *Firewall, w *world) []Failure {
	t.Helper()
	failures, err := f.Apply(t.Context(), w.ports, w.fw, Options{})
	if err != nil {
		t.Fatal(err)
	}
	k := f.kernel.(*fakeKernel)
	before := k.commits
	again, err := f.Apply(t.Context(), w.ports, w.fw, Options{})
	if err != nil || k.commits != before || fmt.Sprint(again) != fmt.Sprint(failures) {
		t.Fatalf("the second Apply: %d transactions, %v, %v", k.commits-before, again, err)
	}
	return failures
}

// passes says what is done with a flow by what the kernel has, at the port and at the
// bridge.
func (k *fakeKernel) passes(f Flow) bool {
	m := &machine{ruleset: k.ruleset, counters: make(map[string]int)}
	p := f.packet()
	return m.pass(netdevTable, ingress, p) && m.pass(bridgeTable, forward, p)
}

// letIn is a rule that lets a TCP port in to NICs, from a set or from all.
func letIn(port uint16, set string, macs ...string) api.FirewallEntry {
	e := api.FirewallEntry{Rule: fmt.Sprintf("in-%d", port), Direction: "in", Ports: macs, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: port, Last: port}}}
	if set != "" {
		e.Peers = []string{set}
	}
	return e
}

// TestOneOwnersFault: whatever is wrong with what one owner wants, another's change is
// made, and of the one the last rules stay.
func TestOneOwnersFault(t *testing.T) {
	a, b, more, open := ownedPort(1, true, "a"), ownedPort(2, true, "b"), ownedPort(3, true, "b"), ownedPort(4, false, "b")
	peer, elsewhere := netip.MustParseAddr("10.1.1.7"), netip.MustParseAddr("10.1.1.8")
	for _, c := range []struct {
		name, want string
		spoil      func(w *world)
	}{
		{"a rule", `rule bad: direction "up"`, func(w *world) {
			w.fw.Rules = append(w.fw.Rules, api.FirewallEntry{Rule: "bad", Direction: "up", Ports: []string{b.MAC}})
		}},
		{"a rule about another's MAC in capitals", "rule bad: port", func(w *world) {
			w.fw.Rules = append(w.fw.Rules, letIn(1, "", strings.ToUpper(b.MAC), "x"))
			w.fw.Rules[len(w.fw.Rules)-1].Rule = "bad"
		}},
		{"an address set", "address set s", func(w *world) { w.fw.Sets[0].Members = []string{"10.1.1.8", "x"} }},
		{"an address set twice", `address set "s": there twice`, func(w *world) { w.fw.Sets = append(w.fw.Sets, w.fw.Sets[0]) }},
		{"no address set", `address set "gone"`, func(w *world) { w.fw.Rules[1].Peers = []string{"gone"} }},
		{"an address of a port", "port " + b.MAC, func(w *world) { w.ports[1].Addresses = []api.PortAddress{{Address: "10.0.0.2"}} }},
		{"a port twice", "another port has the same MAC", func(w *world) { w.ports = append(w.ports, w.ports[1]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFakeKernel()
			f := &Firewall{kernel: k}
			w := &world{ports: []Port{a, b}, fw: api.FirewallSpec{
				Sets:  []api.AddressSet{{Name: "s", Members: []string{"10.1.1.7"}}},
				Rules: []api.FirewallEntry{letIn(22, "", a.MAC), letIn(23, "s", b.MAC)}}}
			if got := applyOwned(t, f, w); got != nil {
				t.Fatalf("failures %+v", got)
			}
			// Both change, and b gets two ports more.
			changed := func() *world {
				return &world{ports: []Port{a, b, more, open}, fw: api.FirewallSpec{
					Sets: []api.AddressSet{{Name: "s", Members: []string{"10.1.1.8"}}},
					Rules: []api.FirewallEntry{letIn(80, "", a.MAC), letIn(23, "s", b.MAC),
						{Rule: "all", Direction: "in", Ports: []string{a.MAC, b.MAC, more.MAC}, Action: "allow", Protocol: "udp"}}}}
			}
			bad := changed()
			c.spoil(bad)
			got := applyOwned(t, f, bad)
			if len(got) != 1 || got[0].Owner != "b" || !strings.Contains(got[0].Err.Error(), c.want) || !slices.Equal(got[0].Closed, []string{more.MAC}) {
				t.Fatalf("failures %+v", got)
			}
			ask := func(mac, direction, protocol string, peer netip.Addr, port uint16, want bool) {
				t.Helper()
				if got := k.passes(Flow{MAC: mac, Direction: direction, Peer: peer, Protocol: protocol, Port: port}); got != want {
					t.Errorf("%s %s %s %v port %d: passes %v", mac, direction, protocol, peer, port, got)
				}
			}
			ask(a.MAC, "in", "tcp", peer, 22, false)
			ask(a.MAC, "in", "tcp", peer, 80, true)
			ask(a.MAC, "in", "udp", peer, 9, true)
			ask(b.MAC, "in", "tcp", peer, 23, true) // the members that the set had
			ask(b.MAC, "in", "tcp", elsewhere, 23, false)
			ask(b.MAC, "in", "udp", peer, 9, false)
			ask(b.MAC, "out", "tcp", peer, 9, true)
			ask(more.MAC, "in", "udp", peer, 9, false)
			ask(more.MAC, "out", "udp", peer, 9, false)
			ask(open.MAC, "in", "tcp", peer, 9, true)
			ask(open.MAC, "out", "tcp", peer, 9, true)

			if got := applyOwned(t, f, changed()); got != nil {
				t.Fatalf("mended: failures %+v", got)
			}
			ask(b.MAC, "in", "tcp", peer, 23, false)
			ask(b.MAC, "in", "tcp", elsewhere, 23, true)
			ask(b.MAC, "in", "udp", peer, 9, true)
			ask(more.MAC, "in", "udp", peer, 9, true)
			ask(more.MAC, "out", "udp", peer, 9, true)
			// The owner's ports go.
			w = changed()
			w.ports = w.ports[:1]
			if got := applyOwned(t, f, w); got != nil || k.passes(Flow{MAC: b.MAC, Direction: "in", Peer: elsewhere, Protocol: "tcp", Port: 9}) != true {
				t.Errorf("gone: failures %+v", got)
			}
		})
	}
}

// TestFaultKeepsNoFlags: what a port may send from is what is wanted now, although its
// owner's rules are those of before; and rules of another owner's before are nobody's.
func TestFaultKeepsNoFlags(t *testing.T) {
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	w := &world{ports: []Port{ownedPort(1, true, "a"), ownedPort(2, false, "a")}}
	for i := range w.ports {
		w.ports[i].AllowIPSpoofing = true
	}
	w.fw.Rules = []api.FirewallEntry{letIn(22, "", w.ports[0].MAC)}
	applyOwned(t, f, w)
	sent := func(i int, from string) bool {
		m := &machine{ruleset: k.ruleset, counters: make(map[string]int)}
		return m.pass(netdevTable, ingress, &packet{iif: fmt.Sprintf("nic%d", i), oif: "uplink", bridge: "br0",
			frame: ipPacket(testMAC(9), testMAC(i), netip.MustParseAddr(from), other4, protoUDP, udp(1, 2))})
	}
	ssh := Flow{MAC: w.ports[0].MAC, Direction: "in", Peer: other4, Protocol: "tcp", Port: 22}
	if !sent(1, "10.0.0.77") || !sent(2, "10.0.0.77") || !k.passes(ssh) {
		t.Fatal("what is allowed does not pass")
	}

	bad := api.FirewallEntry{Rule: "bad", Direction: "up", Ports: []string{w.ports[0].MAC}}
	next := &world{ports: []Port{ownedPort(1, true, "a"), ownedPort(2, false, "a")}, fw: api.FirewallSpec{Rules: []api.FirewallEntry{bad}}}
	next.ports[0].Addresses = []api.PortAddress{{Address: "10.0.0.55/24"}}
	next.ports[1].AllowedIPs = []string{"x"} // cannot be read: the addresses of before, but not the flags
	if got := applyOwned(t, f, next); len(got) != 1 || got[0].Closed != nil {
		t.Errorf("failures %+v", got)
	}
	for _, c := range []struct {
		port int
		from string
		want bool
	}{{1, "10.0.0.77", false}, {1, "10.0.0.1", false}, {1, "10.0.0.55", true}, {2, "10.0.0.77", false}, {2, "10.0.0.2", true}} {
		if sent(c.port, c.from) != c.want {
			t.Errorf("port %d, from %s: want %v", c.port, c.from, c.want)
		}
	}
	if !k.passes(ssh) {
		t.Error("the rule of before is not kept")
	}

	// The same MAC is another owner's, whose rules cannot be made either.
	next.ports = []Port{ownedPort(1, true, "b")}
	if got := applyOwned(t, f, next); len(got) != 1 || got[0].Owner != "b" || len(got[0].Closed) != 1 || k.passes(ssh) || sent(1, "10.0.0.1") {
		t.Errorf("another owner's: failures %+v", got)
	}
	// Not even its MAC can be read: it has no rules, and Protect keeps it out of bridges.
	next.ports = append(next.ports, ownedPort(3, true, "c"))
	next.ports[1].MAC = "x"
	if got := applyOwned(t, f, next); len(got) != 2 || got[1].Owner != "c" || f.Protect(t.Context(), []string{"nic3"}) == nil {
		t.Errorf("no MAC: failures %+v", got)
	}
}

// TestCrowded: when all is too much together, owners whose rules have changed keep
// those of before, the heaviest first.
func TestCrowded(t *testing.T) {
	const room = 10000
	k := newFakeKernel()
	f := &Firewall{kernel: k, room: room}
	w := &world{ports: []Port{ownedPort(1, true, "a"), ownedPort(2, true, "b"), ownedPort(3, true, "c")}}
	a, b, c := w.ports[0].MAC, w.ports[1].MAC, w.ports[2].MAC
	w.crowd(c, "c", 150)
	if got := applyOwned(t, f, w); got != nil {
		t.Fatalf("failures %+v", got)
	}
	of := func(mac, tag string, port uint16) bool {
		return k.passes(Flow{MAC: mac, Direction: "in", Peer: netip.MustParseAddr(tag), Protocol: "tcp", Port: port})
	}
	w.fw.Rules = append(w.fw.Rules, letIn(22, "", a))
	w.crowd(b, "b", 130)
	got := applyOwned(t, f, w)
	if len(got) != 1 || got[0].Owner != "b" || !strings.Contains(got[0].Err.Error(), "rule brule-") || got[0].Closed != nil {
		t.Fatalf("failures %+v", got)
	}
	if !of(a, "10.3.0.1", 22) || of(b, "10.3.0.3", 0) || !of(c, "10.3.0.3", 0) {
		t.Error("a's rule, b's none or c's of before are not in force")
	}

	// To a process that has just started, all are new.
	k = newFakeKernel()
	got = applyOwned(t, &Firewall{kernel: k, room: room}, w)
	if len(got) != 1 || got[0].Owner != "c" || !slices.Equal(got[0].Closed, []string{c}) {
		t.Fatalf("first: failures %+v", got)
	}
	if !of(a, "10.3.0.1", 22) || !of(b, "10.3.0.3", 0) || of(c, "10.3.0.3", 0) {
		t.Error("first: a's and b's rules are not in force, or c is not closed")
	}
}

// spoiled is a world in which something of some owners cannot be read.
func (w *world) spoiled(r *rand.Rand, owners ...string) *world {
	bad := &world{ports: slices.Clone(w.ports), fw: api.FirewallSpec{Sets: slices.Clone(w.fw.Sets), Rules: slices.Clone(w.fw.Rules)}}
	for _, o := range owners {
		i := slices.IndexFunc(bad.ports, func(p Port) bool { return p.Owner == o })
		if i < 0 {
			continue
		}
		e := letIn(1, "", bad.ports[i].MAC)
		switch n := r.IntN(3); {
		case n == 0:
			e.Protocol = "gre"
		case n == 1 || !bad.ports[i].Firewall: // one that has none is open, and closed when it cannot be read
			e.Peers = []string{"bad-" + o}
		default:
			bad.ports[i].AllowedIPs = []string{"x"}
			continue
		}
		bad.fw.Rules = slices.Insert(bad.fw.Rules, r.IntN(len(bad.fw.Rules)+1), e)
	}
	return bad
}

// TestFailingEqualsNaive makes random changes, some owners' rules being malformed at
// times: each port is judged as the naive evaluator does by the last world in which
// the rules of its owner could be read, or is closed.
func TestFailingEqualsNaive(t *testing.T) {
	owners := []string{"a", "b", "c"}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(r)
		k := newFakeKernel()
		f := &Firewall{kernel: k}
		judge := make(map[string]*world) // by MAC, of ports with a firewall; nil: closed
		for step := range 12 {
			w.change(r, step)
			w.ports = slices.Clone(w.ports)
			for i := range w.ports {
				w.ports[i].Owner = owners[(i+int(seed))%3]
			}
			var failing []string
			for _, o := range owners {
				if r.IntN(3) == 0 && slices.ContainsFunc(w.ports, func(p Port) bool { return p.Owner == o }) {
					failing = append(failing, o)
				}
			}
			var closed []string
			good, before := *w, judge
			judge = make(map[string]*world)
			for _, p := range w.ports {
				switch {
				case !p.Firewall:
				case !slices.Contains(failing, p.Owner):
					judge[p.MAC] = &good
				default:
					if judge[p.MAC] = before[p.MAC]; before[p.MAC] == nil {
						closed = append(closed, p.MAC)
					}
				}
			}
			var named, shut []string
			for _, x := range applyOwned(t, f, w.spoiled(r, failing...)) {
				named, shut = append(named, x.Owner), append(shut, x.Closed...)
			}
			if slices.Sort(shut); !slices.Equal(named, failing) || len(shut) != len(closed) {
				t.Fatalf("seed %d step %d: failing %v, closed %v; want %v, %v", seed, step, named, shut, failing, closed)
			}
			flows := w.flows()
			r.Shuffle(len(flows), func(i, j int) { flows[i], flows[j] = flows[j], flows[i] })
			for _, flow := range flows[:min(len(flows), 60)] {
				want := judge[flow.MAC] != nil && judge[flow.MAC].naive(flow)
				if got := k.passes(flow); got != want {
					t.Fatalf("seed %d step %d: %+v passes %v, want %v (failing %v)\n%s", seed, step, flow, got, want, failing, k.ruleset)
				}
			}
			if len(k.failed) > 0 {
				t.Fatalf("seed %d step %d: refused %v", seed, step, k.failed)
			}
		}
	}
}

// TestSetPortFaults: rules of one port that cannot be made are its owner's fault. The
// port is closed, or keeps the rules it had; other owners' ports are changed beside that,
// as soon as ever; and what is mended is in force for all ports of the owner.
func TestSetPortFaults(t *testing.T) {
	a, b, more := ownedPort(1, true, "a"), ownedPort(2, true, "b"), ownedPort(3, true, "b")
	peer := netip.MustParseAddr("10.1.1.7")
	k := newFakeKernel()
	f := &Firewall{kernel: k, room: 10000}
	if err := f.SetPort(t.Context(), a, api.FirewallSpec{}); !errors.Is(err, errNotApplied) {
		t.Fatalf("before all: %v", err)
	}
	w := &world{ports: []Port{a, b}, fw: api.FirewallSpec{Rules: []api.FirewallEntry{letIn(22, "", a.MAC), letIn(23, "", b.MAC)}}}
	if got := applyOwned(t, f, w); got != nil {
		t.Fatalf("failures %+v", got)
	}
	set := func(p Port, want string, rules ...api.FirewallEntry) {
		t.Helper()
		for range 2 {
			err := f.SetPort(t.Context(), p, api.FirewallSpec{Rules: rules})
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Fatalf("set %s: %v, want %q", p.MAC, err, want)
			}
		}
	}
	ask := func(p Port, port uint16, want bool) {
		t.Helper()
		if got := k.passes(Flow{MAC: p.MAC, Direction: "in", Peer: peer, Protocol: "tcp", Port: port}); got != want {
			t.Errorf("%s port %d: passes %v", p.MAC, port, got)
		}
	}
	bad := letIn(24, "", more.MAC)
	bad.Direction = "up"
	set(more, `the firewall of account b: rule in-24: direction "up"`, bad)
	ask(more, 24, false)
	ask(b, 23, true)
	if k.passes(Flow{MAC: more.MAC, Direction: "out", Peer: peer, Protocol: "tcp", Port: 9}) {
		t.Error("the port is not closed")
	}
	before, commits := f.applied, k.commits
	set(a, "", letIn(80, "", a.MAC))
	if f.applied != before || k.commits != commits+1 {
		t.Errorf("another owner's change took all, and %d transactions", k.commits-commits)
	}
	ask(a, 80, true)
	ask(a, 22, false)
	// Another port of the owner keeps what it had, as long as something is wrong.
	set(b, `rule in-24: direction "up"`, letIn(25, "", b.MAC))
	ask(b, 23, true)
	ask(b, 25, false)
	// Mended, or gone.
	set(more, "", letIn(24, "", more.MAC))
	ask(more, 24, true)
	ask(b, 25, true)
	ask(b, 23, false)
	set(more, `direction "up"`, bad)
	ask(more, 24, true) // the rule of before
	for range 2 {
		if err := f.DropPort(t.Context(), more.MAC, "another instance"); err != nil || f.Protect(t.Context(), []string{more.Interface}) != nil {
			t.Errorf("drop another instance's: %v", err)
		}
	}
	for range 2 {
		if err := f.DropPort(t.Context(), more.MAC, ""); err != nil || f.Protect(t.Context(), []string{more.Interface}) == nil {
			t.Errorf("drop: %v", err)
		}
	}
	set(b, "", letIn(26, "", b.MAC))
	ask(b, 26, true)

	// Too much for all is the fault of whose rules are new, although another's are more.
	heavy := func(mac string, n int) api.FirewallSpec {
		w := &world{}
		w.crowd(mac, "x"+mac[15:], n)
		return w.fw
	}
	if err := f.SetPort(t.Context(), a, heavy(a.MAC, 150)); err != nil {
		t.Fatal(err)
	}
	if err := f.SetPort(t.Context(), b, heavy(b.MAC, 130)); err == nil || !strings.Contains(err.Error(), "account b") {
		t.Errorf("too much: %v", err)
	}
	ask(b, 26, true)
	if !f.applied.same(k.ruleset) {
		t.Error("the kernel has something else")
	}
}
