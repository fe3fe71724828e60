package firewall

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// office is a small spec with one of everything.
func office() *world {
	w := &world{ports: []Port{testPort(1, true), testPort(2, true), testPort(3, false)}}
	w.ports[1].Bridge = "br1"
	w.ports[1].SpoofFlags = api.SpoofFlags{AllowMACSpoofing: true, AllowedIPs: []string{"10.9.0.0/24", "fe80::7"}}
	w.ports[2].VNI = 0
	w.ports[2].SpoofFlags = api.SpoofFlags{AllowIPSpoofing: true, AllowDHCPSpoofing: true, AllowRestrictedTraffic: true}
	code := uint8(0)
	both := []string{w.ports[0].MAC, w.ports[1].MAC}
	w.fw = api.FirewallSpec{
		Sets: []api.AddressSet{{Name: "web", Members: []string{"10.1.1.1", "fd01::1"}}, {Name: "office", Members: []string{"10.1.0.0/16"}}},
		Rules: []api.FirewallEntry{
			{Rule: "aaaa", Direction: "in", Ports: both, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 22, Last: 22}}},
			{Rule: "bbbb", Direction: "in", Ports: both[:1], Peers: []string{"web"}, Action: "allow", Protocol: "udp", Dst: []api.PortRange{{First: 53, Last: 53}, {First: 5000, Last: 6000}}},
			{Rule: "cccc", Direction: "in", Ports: both, Peers: []string{"office"}, Action: "block", Protocol: "tcp", Priority: 2, Log: true},
			{Rule: "dddd", Direction: "out", Ports: both, Peers: []string{"office"}, Action: "block", Protocol: "icmp", Types: []api.ICMPType{{Type: 8, Code: &code}, {Type: 13}}},
			{Rule: "eeee", Direction: "in", Ports: both[1:], Action: "allow", Protocol: "esp"},
		}}
	return w
}

var officeOptions = Options{Underlay: []string{"192.0.2.0/24", "192.0.2.128/25", "2001:db8::/32"}, Isolated: []string{"br0"}}

// TestGolden shows the whole ruleset that production has.
func TestGolden(t *testing.T) {
	w := office()
	s, err := parseInput(w.ports, w.fw, officeOptions)
	if err != nil {
		t.Fatal(err)
	}
	r, err := build(s, newNumbers(1000), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/office.ruleset"
	if *update {
		if err := os.WriteFile(file, []byte(r.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), r.String()); d != "" {
		t.Errorf("%s (-update writes it anew):\n%s", file, d)
	}
}

func apply(t *testing.T, f *Firewall, w *world, o Options) {
	t.Helper()
	if err := applyAll(t.Context(), f, w.ports, w.fw, o); err != nil {
		t.Fatal(err)
	}
	k := f.kernel.(*fakeKernel)
	before := k.commits
	if err := applyAll(t.Context(), f, w.ports, w.fw, o); err != nil || k.commits != before {
		t.Fatalf("the second Apply: %d transactions, %v", k.commits-before, err)
	}
}

// TestSmallChanges: what is sent is what has changed, not what there is.
func TestSmallChanges(t *testing.T) {
	w := manyRules(1000)
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	apply(t, f, w, Options{})
	whole := k.last.size()
	for _, c := range []struct {
		name   string
		change func()
		atMost int
	}{
		{"a member more", func() {
			w.fw.Sets = slices.Clone(w.fw.Sets)
			w.fw.Sets[500].Members = append(slices.Clone(w.fw.Sets[500].Members), "10.99.0.1")
		}, 8},
		{"a member less", func() {
			w.fw.Sets = slices.Clone(w.fw.Sets)
			w.fw.Sets[500].Members = w.fw.Sets[500].Members[1:]
		}, 8},
		{"a rule less", func() { w.fw.Rules = slices.Concat(w.fw.Rules[:300], w.fw.Rules[301:]) }, 20},
		{"a rule that logs", func() {
			w.fw.Rules = append(slices.Clone(w.fw.Rules), api.FirewallEntry{Rule: "x", Direction: "in", Ports: []string{w.ports[0].MAC}, Action: "allow", Protocol: "tcp", Log: true, Dst: []api.PortRange{{First: 9, Last: 9}}})
		}, 2000}, // of a group of its own, which it splits off
		{"another port for that rule", func() {
			w.fw.Rules = slices.Clone(w.fw.Rules)
			w.fw.Rules[len(w.fw.Rules)-1].Dst = []api.PortRange{{First: 11, Last: 11}}
		}, 8},
		{"a flag of a port", func() { w.ports = slices.Clone(w.ports); w.ports[3].AllowDHCPSpoofing = true }, 1},
	} {
		generation := f.applied.numbers.generation
		c.change()
		apply(t, f, w, Options{})
		if k.last.replace || k.last.size() > c.atMost {
			t.Errorf("%s: %d elements of %d sent, want at most %d", c.name, k.last.size(), whole, c.atMost)
		}
		if judged := c.name != "a flag of a port"; (f.applied.numbers.generation != generation) != judged {
			t.Errorf("%s: generation %d, was %d", c.name, f.applied.numbers.generation, generation)
		}
	}
}

// TestFailures: the old ruleset stays, and what somebody did to it is undone.
func TestFailures(t *testing.T) {
	w := office()
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	refused := errors.New("no memory")
	k.fail = refused
	if err := applyAll(t.Context(), f, w.ports, w.fw, officeOptions); !errors.Is(err, refused) || k.ruleset != nil {
		t.Fatalf("the first Apply: %v", err)
	}
	apply(t, f, w, officeOptions)
	k.counts[countARP] = counted{7, 700}
	before := k.ruleset.String()

	// The small change is refused, the replacement is not: counters go on.
	w.ports[0].AllowDHCPSpoofing = true
	k.fail = refused
	apply(t, f, w, officeOptions)
	if n, err := f.Counters(t.Context()); err != nil || n[countARP] != 7 || k.replaced != 2 {
		t.Errorf("counters %v, %d replacements, %v", n, k.replaced, err)
	}
	w.ports[0].AllowDHCPSpoofing = false
	apply(t, f, w, officeOptions)
	if after := k.ruleset.String(); after != before {
		t.Errorf("a change and its undoing:\n%s", cmp.Diff(before, after))
	}

	// Malformed input.
	bad := office()
	bad.fw.Rules[2].Peers = []string{"nowhere"}
	if err := applyAll(t.Context(), f, bad.ports, bad.fw, officeOptions); err == nil || !strings.Contains(err.Error(), `rule cccc: address set "nowhere"`) {
		t.Errorf("an unknown set: %v", err)
	}
	if after := k.ruleset.String(); after != before {
		t.Error("malformed input changed something")
	}

	// Drift.
	verify := func(want bool) {
		t.Helper()
		if got, err := f.VerifyOrRepair(t.Context()); err != nil || got != want || k.ruleset.String() != before {
			t.Errorf("repaired %v, want %v; %v", got, want, err)
		}
	}
	verify(false)
	k.gen++ // somebody else's tables
	verify(false)
	k.gen++
	delete(k.elements[setMAC], key(encodeName("nic1"), mac1[:]))
	verify(true)
	k.gen++
	k.chains = slices.DeleteFunc(slices.Clone(k.chains), func(c chain) bool { return c.name == "guard_na" })
	verify(true)
	k.gen++
	replaced := k.replaced
	k.chains = slices.DeleteFunc(slices.Clone(k.chains), func(c chain) bool { return c.name == "port_nic1" }) // its interface was made anew
	repaired, err := f.VerifyOrRepair(t.Context())
	if now := k.ruleset.String(); err != nil || !repaired || k.replaced != replaced || !strings.Contains(now, "port_nic1") {
		t.Errorf("repaired %v, %v, with %d replacements; there is\n%s", repaired, err, k.replaced-replaced, now)
	}
	k.gen++
	k.ruleset = nil
	verify(true)
	verify(false)
	k.mixed = true // br_netfilter, just loaded
	verify(true)
	verify(false)
	k.mixed = true
	if apply(t, f, w, officeOptions); k.mixed {
		t.Error("Apply left br_netfilter on")
	}
	if err := f.Remove(t.Context()); err != nil || k.ruleset != nil {
		t.Errorf("Remove: %v", err)
	}
}

// crowd adds n tags, and for each of n ports a rule that each third tag may use it: about
// n*n/3 elements.
func (w *world) crowd(mac, owner string, n int) {
	for i := range n {
		w.fw.Sets = append(w.fw.Sets, api.AddressSet{Name: fmt.Sprintf("%stag%d", owner, i), Members: []string{netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}).String()}})
	}
	for i := range n {
		e := api.FirewallEntry{Rule: fmt.Sprintf("%srule-%d", owner, i), Direction: "in", Ports: []string{mac}, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: uint16(2 * i), Last: uint16(2 * i)}}}
		for k := i % 3; k < n; k += 3 {
			if k%n != i {
				e.Peers = append(e.Peers, fmt.Sprintf("%stag%d", owner, k))
			}
		}
		w.fw.Rules = append(w.fw.Rules, e)
	}
}

// TestTooMuch: rules that would become too many elements are refused by name.
func TestTooMuch(t *testing.T) {
	w := manyRules(0)
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	apply(t, f, w, Options{})
	before := k.ruleset.String()
	w.crowd(w.ports[0].MAC, "", 2000)
	err := applyAll(t.Context(), f, w.ports, w.fw, Options{})
	if err == nil || !strings.Contains(err.Error(), "rule rule-") || !strings.Contains(err.Error(), "name fewer tags") {
		t.Fatalf("Apply: %v", err)
	}
	t.Log(err)
	if k.ruleset.String() != before {
		t.Error("the old ruleset did not stay")
	}
}

// TestTenThousandTags is within the limits.
func TestTenThousandTags(t *testing.T) {
	w := manyRules(10000)
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	apply(t, f, w, Options{})
	t.Logf("%d elements", k.last.size())
}

// TestTracked follows connections through changes of the rules.
func TestTracked(t *testing.T) {
	w := office()
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	apply(t, f, w, Options{})
	ssh := Flow{MAC: w.ports[0].MAC, Direction: "in", Peer: netip.MustParseAddr("10.5.5.5"), Protocol: "tcp", Port: 22}
	m := &machine{counters: make(map[string]int)}
	pass := func(p *packet) bool { m.ruleset = k.ruleset; return m.pass(bridgeTable, forward, p) }
	first := ssh.packet()
	if !pass(first) || first.ct.mark != f.applied.numbers.generation {
		t.Fatalf("a new connection: mark %d, generation %d", first.ct.mark, f.applied.numbers.generation)
	}
	established := func(p *packet) *packet { p.ct.state, p.ct.mark = 2, first.ct.mark; return p }

	// Another rule: judged again, and passed again.
	w.fw.Rules = w.fw.Rules[1:]
	w.fw.Rules = append(w.fw.Rules, api.FirewallEntry{Rule: "ffff", Direction: "in", Ports: []string{w.ports[0].MAC}, Action: "allow", Protocol: "tcp"})
	apply(t, f, w, Options{})
	again := established(ssh.replied())
	if !pass(again) || again.ct.mark != f.applied.numbers.generation {
		t.Errorf("after a change that allows it: mark %d, generation %d", again.ct.mark, f.applied.numbers.generation)
	}
	// A block, that neither side passes.
	w.fw.Rules = slices.Clone(w.fw.Rules[:len(w.fw.Rules)-1])
	apply(t, f, w, Options{})
	for name, p := range map[string]*packet{"from the peer": established(ssh.packet()), "to the peer": established(ssh.replied())} {
		if pass(p) || p.ct.mark == f.applied.numbers.generation {
			t.Errorf("%s, after a change that blocks it: passed, or mark %d", name, p.ct.mark)
		}
	}
	// Out is judged by the peer, also when the packet comes from there.
	ping := Flow{MAC: w.ports[0].MAC, Direction: "out", Peer: netip.MustParseAddr("10.1.2.3"), Protocol: "icmp", Type: 8}
	if pass(ping.packet()) || pass(established(ping.replied())) {
		t.Error("a blocked ping passed")
	}
	// A copy that is flooded to another port does not stamp.
	dns := Flow{MAC: w.ports[0].MAC, Direction: "in", Peer: netip.MustParseAddr("10.1.1.1"), Protocol: "udp", Port: 53}
	copied := dns.packet()
	copied.oif = "nic3"
	if p := copied; pass(p) && p.ct.mark != 0 {
		t.Errorf("a flooded copy has mark %d", p.ct.mark)
	}
	// What belongs to no connection.
	before := maps.Clone(m.counters)
	stray := ssh.packet()
	stray.ct = nil
	if pass(stray) || m.counters[countInvalid] != before[countInvalid]+1 {
		t.Error("an invalid packet passed")
	}
	// Frames of other protocols do not reach a port with a firewall.
	mpls := ssh.packet()
	mpls.frame = ether(testMAC(1), testMAC(999), 0x8847, make([]byte, 40))
	if pass(mpls) {
		t.Error("MPLS passed a firewall")
	}
	// Discovery and ARP do.
	for _, frame := range [][]byte{
		arpPacket(testMAC(1), testMAC(999), 1, testMAC(999), up4, [6]byte{}, own4),
		ipPacket(testMAC(1), testMAC(999), other6, own6, protoICMP6, icmp6(ndNeighborSolicitation, 0, own6.AsSlice(), option(1, testMAC(999)))),
	} {
		if !pass(&packet{iif: "uplink", oif: "nic1", bridge: "br0", frame: frame, untracked: true}) {
			t.Errorf("%x did not pass", frame)
		}
	}
	// Rules that log.
	logged := Flow{MAC: w.ports[0].MAC, Direction: "in", Peer: netip.MustParseAddr("10.1.7.7"), Protocol: "tcp", Port: 22}
	if pass(logged.packet()) || !slices.Equal(m.logged, []string{"nereid cccc in block "}) {
		t.Errorf("logged %q", m.logged)
	}
}

// TestZones: what concerns a firewall is looked up in its bridge's zone.
func TestZones(t *testing.T) {
	w := office()
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	apply(t, f, w, Options{})
	zones := f.applied.numbers.zones
	if zones["br0"] == zones["br1"] || zones["br0"] == 0 || zones["br1"] == 0 {
		t.Fatalf("zones %v", zones)
	}
	for _, c := range []struct {
		name, iif, bridge string
		dst               [6]byte
		zone              uint16
		untracked         bool
	}{
		{"from a port", "nic1", "br0", testMAC(999), zones["br0"], false},
		{"to a port", "uplink", "br0", testMAC(1), zones["br0"], false},
		{"between others in a fabric", "uplink", "br0", testMAC(77), 0, true},
		{"a bridge whose port may have any MAC", "uplink", "br1", testMAC(77), zones["br1"], false},
		{"a bridge that is none of ours", "uplink", "br7", testMAC(77), 0, false},
	} {
		src, from := testMAC(999), netip.MustParseAddr("10.0.0.99")
		if c.iif == "nic1" {
			src, from = testMAC(1), netip.MustParseAddr("10.0.0.1")
		}
		p := &packet{iif: c.iif, bridge: c.bridge, frame: ipPacket(c.dst, src, from, other4, protoTCP, tcp(1, 2))}
		m := &machine{ruleset: k.ruleset, counters: make(map[string]int)}
		if !m.pass(bridgeTable, prerouting, p) || p.zone != c.zone || p.untracked != c.untracked {
			t.Errorf("%s: zone %d, untracked %v; want %d, %v", c.name, p.zone, p.untracked, c.zone, c.untracked)
		}
	}
	// Another process has the same zones.
	g := &Firewall{kernel: k}
	apply(t, g, w, Options{})
	if !maps.Equal(g.applied.numbers.zones, zones) {
		t.Errorf("zones %v, were %v", g.applied.numbers.zones, zones)
	}
	// So many that names share numbers.
	bridges := make([]string, 5000)
	for i := range bridges {
		bridges[i] = fmt.Sprintf("br%d", i)
	}
	many, err := assignZones(zones, bridges)
	seen := make(map[uint16]bool)
	for _, z := range many {
		seen[z] = true
	}
	if err != nil || len(seen) != 5000 || seen[0] || many["br0"] != zones["br0"] {
		t.Errorf("%d zones for 5000 bridges, %v", len(seen), err)
	}
}

// TestRefusals: malformed input is refused with what is wrong in it.
func TestRefusals(t *testing.T) {
	port := testPort(1, true)
	for _, c := range []struct {
		name  string
		ports []Port
		fw    api.FirewallSpec
		o     Options
		want  string
	}{
		{"two ports of one MAC", []Port{port, port}, api.FirewallSpec{}, Options{}, "another port has the same MAC or interface"},
		{"no interface", []Port{{Bridge: "br0", PortSpec: port.PortSpec}}, api.FirewallSpec{}, Options{}, "not a name of an interface"},
		{"a bad address", []Port{{Interface: "a", Bridge: "b", PortSpec: api.PortSpec{MAC: port.MAC, Addresses: []api.PortAddress{{Address: "10.0.0.1"}}}}}, api.FirewallSpec{}, Options{}, "address:"},
		{"bad allowed_ips", []Port{{Interface: "a", Bridge: "b", PortSpec: api.PortSpec{MAC: port.MAC, SpoofFlags: api.SpoofFlags{AllowedIPs: []string{"x"}}}}}, api.FirewallSpec{}, Options{}, "allowed_ips:"},
		{"a bad underlay", nil, api.FirewallSpec{}, Options{Underlay: []string{"10.0.0.0/33"}}, "underlay subnet"},
		{"a bad prefix", nil, api.FirewallSpec{}, Options{IsolatedPrefixes: []string{""}}, "prefix"},
		{"an isolated bridge of another name", nil, api.FirewallSpec{}, Options{Isolated: []string{"nb7", "br7"}, IsolatedPrefixes: []string{"vb", "nb"}}, `isolated bridge "br7"`},
		{"a bad isolated bridge", nil, api.FirewallSpec{}, Options{Isolated: []string{"a/b"}}, "isolated bridge"},
		{"a set twice", nil, api.FirewallSpec{Sets: []api.AddressSet{{Name: "a"}, {Name: "a"}}}, Options{}, `address set "a"`},
		{"a bad member", nil, api.FirewallSpec{Sets: []api.AddressSet{{Name: "a", Members: []string{"fe80::1%eth0"}}}}, Options{}, "address set a"},
		{"a bad direction", nil, api.FirewallSpec{Rules: []api.FirewallEntry{{Rule: "r", Direction: "up"}}}, Options{}, `rule r: direction "up"`},
		{"a bad action", nil, api.FirewallSpec{Rules: []api.FirewallEntry{{Rule: "r", Direction: "in"}}}, Options{}, `rule r: action ""`},
		{"a bad protocol", nil, api.FirewallSpec{Rules: []api.FirewallEntry{{Rule: "r", Direction: "in", Action: "allow", Protocol: "gre"}}}, Options{}, `rule r: protocol "gre"`},
		{"bad ports", nil, api.FirewallSpec{Rules: []api.FirewallEntry{{Rule: "r", Direction: "in", Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 2, Last: 1}}}}}, Options{}, "rule r: ports 2-1"},
		{"a rule's name for a log", nil, api.FirewallSpec{Rules: []api.FirewallEntry{{Rule: "r\n"}}}, Options{}, "is not a UUID"},
	} {
		if err := applyAll(t.Context(), &Firewall{kernel: newFakeKernel()}, c.ports, c.fw, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// Who counts does not wait for an Apply.
func TestCountersDuringApply(t *testing.T) {
	k := newFakeKernel()
	f := &Firewall{kernel: k}
	k.during = func() {
		done := make(chan error, 1)
		go func() { _, err := f.Counters(t.Context()); done <- err }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Counters waits for Apply")
		}
	}
	w := office()
	if err := applyAll(t.Context(), f, w.ports, w.fw, officeOptions); err != nil || k.commits == 0 {
		t.Errorf("apply: %v, %d transactions", err, k.commits)
	}
}
