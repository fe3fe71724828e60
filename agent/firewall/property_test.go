package firewall

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"nereid/api"
)

// world is a random spec, with what is needed to ask about it.
type world struct {
	ports []Port
	fw    api.FirewallSpec
}

func testMAC(i int) [6]byte { return [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)} }

func macText(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func testPort(i int, firewall bool) Port {
	return Port{Interface: fmt.Sprintf("nic%d", i), Bridge: "br0", PortSpec: api.PortSpec{
		MAC: macText(testMAC(i)), Firewall: firewall, VNI: 7,
		Addresses: []api.PortAddress{{Address: fmt.Sprintf("10.0.0.%d/24", i)}, {Address: fmt.Sprintf("fd00::%x/64", i)}},
	}}
}

// The numbers are small so that rules, sets and packets meet.
var (
	testPeers = []string{"10.1.0.0/16", "10.1.1.0/24", "10.1.1.7", "10.1.1.8", "10.2.0.0/15", "0.0.0.0/0", "10.1.1.128/25", "fd01::/16", "fd01::1", "fd01:0:0:1::/64", "fd01::2", "::/0", "255.255.255.255", "10.1.1.0/24"}
	askPeers  = []string{"10.1.1.7", "10.1.1.8", "10.1.1.9", "10.1.1.200", "10.1.2.3", "10.2.0.1", "10.3.255.255", "10.4.0.0", "8.8.8.8", "255.255.255.255", "0.0.0.1", "fd01::1", "fd01::2", "fd01::3", "fd01:0:0:1::5", "fd02::1", "::1"}
	askPorts  = []uint16{0, 1, 22, 79, 80, 81, 100, 101, 443, 8000, 65534, 65535}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (w *world) randomSet(r *rand.Rand, name string) api.AddressSet {
	s := api.AddressSet{Name: name}
	for range r.IntN(4) {
		s.Members = append(s.Members, pick(r, testPeers))
	}
	return s
}

func (w *world) randomRule(r *rand.Rand, id int) api.FirewallEntry {
	e := api.FirewallEntry{Rule: fmt.Sprintf("rule-%d", id), Priority: r.IntN(3), Log: r.IntN(8) == 0,
		Direction: pick(r, []string{"in", "out"}), Action: pick(r, []string{"allow", "block"}),
		Protocol: pick(r, []string{"tcp", "tcp", "udp", "icmp", "icmp6", "ah", "esp"})}
	for _, p := range w.ports {
		if r.IntN(2) == 0 {
			e.Ports = append(e.Ports, p.MAC)
		}
	}
	for range r.IntN(3) {
		e.Peers = append(e.Peers, pick(r, w.fw.Sets).Name)
	}
	for range r.IntN(3) {
		switch e.Protocol {
		case "tcp", "udp":
			a, b := pick(r, askPorts), pick(r, askPorts)
			if r.IntN(2) == 0 {
				b = a
			}
			e.Dst = append(e.Dst, api.PortRange{First: min(a, b), Last: max(a, b)})
		case "icmp", "icmp6":
			t := api.ICMPType{Type: pick(r, []uint8{0, 3, 8, 128, 255})}
			if code := uint8(r.IntN(3)); code < 2 {
				t.Code = &code
			}
			e.Types = append(e.Types, t)
		}
	}
	return e
}

func newWorld(r *rand.Rand) *world {
	w := &world{}
	for i := range 1 + r.IntN(4) {
		w.ports = append(w.ports, testPort(i+1, r.IntN(5) > 0))
	}
	for i := range 1 + r.IntN(5) {
		w.fw.Sets = append(w.fw.Sets, w.randomSet(r, fmt.Sprintf("set%d", i)))
	}
	for i := range r.IntN(14) {
		w.fw.Rules = append(w.fw.Rules, w.randomRule(r, i))
	}
	return w
}

// naive decides by looking at everything, from the words of api.FirewallSpec.
func (w *world) naive(f Flow) bool {
	allow := f.Direction == "out"
	best := -1
	for _, e := range w.fw.Rules {
		if e.Direction != f.Direction || e.Protocol != f.Protocol || !slices.Contains(e.Ports, f.MAC) {
			continue
		}
		meets := len(e.Peers) == 0
		for _, s := range w.fw.Sets {
			for _, m := range s.Members {
				p, err := netip.ParsePrefix(m)
				if err != nil {
					a := netip.MustParseAddr(m)
					p = netip.PrefixFrom(a, a.BitLen())
				}
				meets = meets || slices.Contains(e.Peers, s.Name) && p.Contains(f.Peer)
			}
		}
		about := len(e.Dst)+len(e.Types) == 0
		for _, d := range e.Dst {
			about = about || d.First <= f.Port && f.Port <= d.Last
		}
		for _, t := range e.Types {
			about = about || t.Type == f.Type && (t.Code == nil || *t.Code == f.Code)
		}
		if !meets || !about {
			continue
		}
		// Between equals, allow beats block in, and block beats allow out.
		if e.Priority > best || e.Priority == best && (e.Action == "allow") == (f.Direction == "in") {
			best, allow = e.Priority, e.Action == "allow"
		}
	}
	return allow
}

// flows are questions about every port.
func (w *world) flows() []Flow {
	var fs []Flow
	for _, p := range w.ports {
		if !p.Firewall {
			continue
		}
		for _, d := range []string{"in", "out"} {
			for _, peer := range askPeers {
				a := netip.MustParseAddr(peer)
				for _, port := range askPorts {
					fs = append(fs, Flow{MAC: p.MAC, Direction: d, Peer: a, Protocol: "tcp", Port: port}, Flow{MAC: p.MAC, Direction: d, Peer: a, Protocol: "udp", Port: port})
				}
				for _, t := range []uint8{0, 3, 8, 128, 255} {
					for code := range uint8(3) {
						fs = append(fs, Flow{MAC: p.MAC, Direction: d, Peer: a, Protocol: map[bool]string{true: "icmp", false: "icmp6"}[a.Is4()], Type: t, Code: code})
					}
				}
				fs = append(fs, Flow{MAC: p.MAC, Direction: d, Peer: a, Protocol: "esp"})
				if a.Is4() { // in IPv6 it is an extension header
					fs = append(fs, Flow{MAC: p.MAC, Direction: d, Peer: a, Protocol: "ah"})
				}
			}
		}
	}
	return fs
}

// packet makes the first packet of a flow, and the connection that it opens.
func (f Flow) packet() *packet {
	mac, _ := parseMAC(f.MAC)
	i := int(mac[5])
	own := netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i))
	if f.Peer.Is6() {
		own = netip.MustParseAddr(fmt.Sprintf("fd00::%x", i))
	}
	proto, _, _ := parseTraffic(api.FirewallEntry{Protocol: f.Protocol})
	var payload []byte
	port := [2]byte{}
	switch proto {
	case protoTCP, protoUDP:
		payload = udp(1234, f.Port)
		if proto == protoTCP {
			payload = tcp(1234, f.Port)
		}
		binary.BigEndian.PutUint16(port[:], f.Port)
	case protoICMP, protoICMP6:
		payload = []byte{f.Type, f.Code, 0, 0, 0, 1, 0, 1}
		port = [2]byte{f.Type, f.Code}
	default:
		payload = make([]byte, 24)
	}
	p := &packet{iif: "uplink", oif: fmt.Sprintf("nic%d", i), bridge: "br0"}
	src, dst, srcMAC, dstMAC := f.Peer, own, testMAC(999), mac
	if f.Direction == "out" {
		p.iif, p.oif = p.oif, p.iif
		src, dst, srcMAC, dstMAC = dst, src, dstMAC, srcMAC
	}
	p.frame = ipPacket(dstMAC, srcMAC, src, dst, proto, payload)
	p.ct = &connection{state: 8, direction: original, protocol: proto, src: src, dst: dst, port: port}
	return p
}

// replied is a packet of the other side of the same connection.
func (f Flow) replied() *packet {
	p := f.packet()
	p.iif, p.oif = p.oif, p.iif
	p.ct.state, p.ct.direction = 2, reply
	swap := func(a, b, n int) {
		for i := range n {
			p.frame[a+i], p.frame[b+i] = p.frame[b+i], p.frame[a+i]
		}
	}
	swap(0, 6, 6)
	if f.Peer.Is4() {
		swap(26, 30, 4)
	} else {
		swap(22, 38, 16)
	}
	if proto, at, _ := p.transport(); proto == protoTCP || proto == protoUDP {
		swap(at, at+2, 2)
	}
	return p
}

// check compares verdicts of a compiled ruleset with the naive ones, of some flows.
func (w *world) check(t *testing.T, rnd *rand.Rand, r *ruleset, tracked bool) {
	t.Helper()
	flows := w.flows()
	rnd.Shuffle(len(flows), func(i, j int) { flows[i], flows[j] = flows[j], flows[i] })
	for _, f := range flows[:min(len(flows), 60)] {
		want := w.naive(f)
		ask := map[string]*packet{"headers": f.packet()}
		ask["headers"].ct, ask["headers"].untracked = nil, true
		if tracked {
			ask["first packet"] = f.packet()
			ask["reply"] = f.replied()
		}
		for how, p := range ask {
			m := &machine{ruleset: r, counters: make(map[string]int)}
			if got := m.pass(bridgeTable, forward, p); got != want {
				t.Fatalf("%s: %+v: %v, want %v\n%+v\n%s", how, f, got, want, w.fw, r)
			} else if got && p.ct != nil && p.ct.mark == 0 {
				t.Fatalf("%s: %+v: passed, and the connection was not stamped", how, f)
			}
			if p.mark != 0 && want {
				t.Fatalf("%s: %+v: the packet's mark stays %d", how, f, p.mark)
			}
		}
		var specs []api.PortSpec
		for _, p := range w.ports {
			specs = append(specs, p.PortSpec)
		}
		d, err := Explain(specs, w.fw, f)
		if err != nil || d.Allow != want {
			t.Fatalf("Explain %+v: %+v %v, want %v\n%+v", f, d, err, want, w.fw)
		}
	}
}

// TestCompiledEqualsNaive compiles random specs.
func TestCompiledEqualsNaive(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(r)
		for _, tracked := range []bool{true, false} {
			s, err := parseInput(w.ports, w.fw, Options{})
			if err != nil {
				t.Fatal(err)
			}
			rs, err := build(s, newNumbers(1), nil, tracked)
			if err != nil {
				t.Fatal(err)
			}
			w.check(t, r, rs.ruleset, tracked)
		}
	}
}

// TestChangesEqualNaive applies random changes one after the other; what the kernel
// then has judges as the naive evaluator, whatever numbers were kept.
func TestChangesEqualNaive(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		w := newWorld(r)
		k := newFakeKernel()
		f := &Firewall{kernel: k}
		o := Options{PortPrefix: []string{"", "nic"}[seed%2]}
		// The base chains of the firewall are there as long as it has a port.
		any := func() bool { return slices.ContainsFunc(w.ports, func(p Port) bool { return p.Firewall }) }
		replaced := 1
		for step := range 12 {
			had := any()
			if w.change(r, step); step > 0 && had && !any() {
				replaced++
			}
			for range 2 {
				before := k.commits
				if err := applyAll(t.Context(), f, w.ports, w.fw, o); err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
				if k.commits > before+1 {
					t.Fatalf("seed %d step %d: %d transactions", seed, step, k.commits-before)
				}
			}
			before := k.commits
			if err := applyAll(t.Context(), f, w.ports, w.fw, o); err != nil || k.commits != before {
				t.Fatalf("seed %d step %d: again: %d transactions, %v", seed, step, k.commits-before, err)
			}
			if k.replaced != replaced {
				t.Fatalf("seed %d step %d: everything was replaced %d times, not %d: %v", seed, step, k.replaced, replaced, k.failed)
			}
			w.check(t, r, k.ruleset, true)
		}
	}
}

// change changes one thing.
func (w *world) change(r *rand.Rand, step int) {
	switch r.IntN(6) {
	case 0:
		w.fw.Rules = append(w.fw.Rules, w.randomRule(r, 100+step))
	case 1:
		if n := len(w.fw.Rules); n > 0 {
			w.fw.Rules = slices.Delete(slices.Clone(w.fw.Rules), 0, 1+r.IntN(n))
		}
	case 2, 3:
		i := r.IntN(len(w.fw.Sets))
		w.fw.Sets = slices.Clone(w.fw.Sets)
		w.fw.Sets[i] = w.randomSet(r, w.fw.Sets[i].Name)
	case 4:
		if len(w.ports) == 0 {
			return
		}
		w.ports = slices.Clone(w.ports)
		i := r.IntN(len(w.ports))
		w.ports[i] = testPort(i+1, r.IntN(2) == 0)
	case 5:
		if len(w.fw.Rules) > 0 {
			w.fw.Rules = slices.Clone(w.fw.Rules)
			i := r.IntN(len(w.fw.Rules))
			w.fw.Rules[i] = w.randomRule(r, i)
		}
	}
}
