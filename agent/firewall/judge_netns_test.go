//go:build netns

package firewall

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// TestNetNSKernelEqualsNaive sends the first packets of random flows through the
// kernel, with random rules that change one by one, and sees which arrive.
func TestNetNSKernelEqualsNaive(t *testing.T) {
	nodes := newLab(t, "nic1", "nic2", "nic3", "nic4", "uplink")
	wires := make(map[string]*wire)
	for name, n := range nodes {
		wires[name] = n.wire(t)
		wires[name].send(n.marker(), 0) // the bridge learns where it is
	}
	id := uint32(1)
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(r)
		f := newFirewall(t)
		for step := range 6 {
			applyTwice(t, f, w, Options{})
			flows := w.flows()
			r.Shuffle(len(flows), func(i, j int) { flows[i], flows[j] = flows[j], flows[i] })
			flows = flows[:min(len(flows), 250)]
			want := make(map[string]map[uint32]Flow)
			got := make(map[string]map[uint32]bool)
			for _, flow := range flows {
				p := flow.packet()
				wires[p.iif].send(p.frame, id)
				if want[p.oif] == nil {
					want[p.oif] = make(map[uint32]Flow)
				}
				want[p.oif][id] = flow
				id++
			}
			// Frames of one sender stay in order.
			for _, from := range []string{"nic1", "nic2", "nic3", "nic4", "uplink"} {
				wires[from].send(nodes[from].marker(), id)
				for to := range want {
					if (from == "uplink") != (to == "uplink") {
						if got[to] == nil {
							got[to] = make(map[uint32]bool)
						}
						for i := range wires[to].receive(id) {
							got[to][i] = true
						}
					}
				}
				id++
			}
			for to, ids := range want {
				for i, flow := range ids {
					if arrived := got[to][i]; arrived != w.naive(flow) {
						t.Fatalf("seed %d step %d: %+v: arrived %v\n%+v\n%s", seed, step, flow, arrived, w.fw, f.applied)
					}
				}
			}
			w.change(r, step)
		}
		if err := f.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNetNSSockets: TCP of real systems is let in and out as the rules say. nic2
// has no firewall, as without connection tracking replies would be judged as well.
func TestNetNSSockets(t *testing.T) {
	nodes := newLab(t, "nic1", "nic2")
	for i, name := range []string{"nic1", "nic2"} {
		n := nodes[name]
		n.run(t, "ip addr add "+testPort(i+1, false).Addresses[0].Address+" dev eth0")
		n.run(t, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
		n.addIPv6(t, testPort(i+1, false).Addresses[1].Address)
		for _, a := range []string{":80", ":81"} {
			n.listen(t, a, "hello")
		}
	}
	w := &world{ports: []Port{testPort(1, true), testPort(2, false)}}
	w.fw = api.FirewallSpec{
		Sets: []api.AddressSet{{Name: "friends", Members: []string{"10.0.0.2", "fd00::2"}}},
		Rules: []api.FirewallEntry{
			{Rule: "a", Direction: "in", Ports: []string{w.ports[0].MAC}, Peers: []string{"friends"}, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 80, Last: 80}}},
			{Rule: "b", Direction: "in", Ports: []string{w.ports[0].MAC}, Action: "allow", Protocol: "icmp6", Types: []api.ICMPType{{Type: 128}}},
		}}
	f := newFirewall(t)
	applyTwice(t, f, w, Options{})
	for _, a := range []string{"10.0.0.1", "[fd00::1]"} {
		dial(t, nodes["nic2"], a+":80")
		nodes["nic2"].blocked(t, f, a+":81", countBlockedIn)
	}
	nodes["nic2"].run(t, "ping -c 1 -W 5 fd00::1")

	// One more rule blocks what comes from friends; the rest stays.
	w.fw.Rules = append(w.fw.Rules, api.FirewallEntry{Rule: "c", Direction: "in", Ports: []string{w.ports[0].MAC}, Peers: []string{"friends"}, Action: "block", Protocol: "tcp", Priority: 1})
	applyTwice(t, f, w, Options{})
	nodes["nic2"].blocked(t, f, "10.0.0.1:80", countBlockedIn)
	w.fw.Rules = append(w.fw.Rules[:2:2], api.FirewallEntry{Rule: "d", Direction: "out", Ports: []string{w.ports[0].MAC}, Action: "block", Protocol: "tcp", Dst: []api.PortRange{{First: 81, Last: 81}}})
	applyTwice(t, f, w, Options{})
	nodes["nic1"].blocked(t, f, "10.0.0.2:81", countBlockedOut)
	dial(t, nodes["nic2"], "10.0.0.1:80")
}

func dial(t *testing.T, n *node, address string) {
	t.Helper()
	c, err := n.connect(t.Context(), 0, address, "hello")
	if err != nil {
		t.Fatalf("connect to %s: %v", address, err)
	}
	c.Close()
}

// TestNetNSVXLAN: packets to the VXLAN port come from the underlay or not at all,
// and nothing comes to the server from an isolated bridge.
func TestNetNSVXLAN(t *testing.T) {
	n := newNode(t, "uplink")
	command(t, "ip addr add 192.0.2.1/24 dev uplink")
	command(t, "sysctl -qw net.ipv6.conf.uplink.disable_ipv6=0 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.uplink.rp_filter=0")
	command(t, "ip addr add 2001:db8::1/64 dev uplink nodad")
	command(t, "ip route add 0.0.0.0/0 dev uplink")
	f := newFirewall(t)
	w := &world{}

	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout), unix.Bind(fd, &unix.SockaddrInet6{Port: 4789})); err != nil {
		t.Fatal(err)
	}
	link, err := net.InterfaceByName("uplink")
	if err != nil {
		t.Fatal(err)
	}
	from := n.wire(t)
	send := func(src string, data byte) {
		a, dst := netip.MustParseAddr(src), netip.MustParseAddr("192.0.2.1")
		if a.Is6() {
			dst = netip.MustParseAddr("2001:db8::1")
		}
		if _, err := unix.Write(from.fd, ipPacket([6]byte(link.HardwareAddr), n.mac, a, dst, protoUDP, udp(5555, 4789, data))); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() byte {
		b := make([]byte, 100)
		if _, _, err := unix.Recvfrom(fd, b, 0); err != nil {
			t.Fatalf("receive: %v", err)
		}
		return b[0]
	}
	for _, prefixes := range [][]string{nil, {"vb"}, {"vb", "uplink"}} { // the last one is not told without a lookup
		applyTwice(t, f, w, Options{Underlay: []string{"192.0.2.0/25", "2001:db8::/64"}, Isolated: []string{"vb7"}, IsolatedPrefixes: prefixes})
		for i, c := range []struct {
			src  string
			pass bool
		}{{"192.0.2.9", true}, {"192.0.2.127", true}, {"192.0.2.128", false}, {"198.51.100.1", false}, {"2001:db8::9", true}, {"2001:db8:1::9", false}} {
			before := counters(t, f)[countVXLAN]
			send(c.src, byte(i))
			send("192.0.2.9", 100)
			got := receive()
			if got != 100 {
				if last := receive(); last != 100 {
					t.Fatalf("received %d", last)
				}
			}
			if pass := got == byte(i); pass != c.pass || (counters(t, f)[countVXLAN] > before) == c.pass {
				t.Errorf("VXLAN from %s, isolated %v: passed %v, want %v; counters %v", c.src, prefixes, pass, c.pass, counters(t, f))
			}
		}
	}
	for i, prefixes := range [][]string{nil, {"up"}} {
		applyTwice(t, f, w, Options{Underlay: []string{"192.0.2.0/25"}, Isolated: []string{"uplink"}, IsolatedPrefixes: prefixes})
		send("192.0.2.9", 1)
		if got := counters(t, f); got[countIsolated] != uint64(i+1) || got[countVXLAN] != 9 {
			t.Errorf("counters %v: want %d isolated, and those of before", got, i+1)
		}
	}
}

// TestNetNSDrift: what is done to our tables by hand is seen and undone; what is
// done elsewhere is left alone.
func TestNetNSDrift(t *testing.T) {
	f := newFirewall(t)
	r := rand.New(rand.NewPCG(1, 1))
	w := newWorld(r)
	newLab(t, "nic1", "nic2")
	w.ports[0].Firewall = true
	applyTwice(t, f, w, Options{Underlay: []string{"10.0.0.0/8"}})
	program := func() string { return command(t, "nft list ruleset") }
	want := program()
	if strings.Count(want, "table ") != 3 || !strings.Contains(command(t, "nft -j list ruleset"), `"behaviours"`) {
		t.Errorf("nft lists\n%s", want)
	}
	check := func(what string, repaired bool) {
		t.Helper()
		for _, want := range []bool{repaired, false} {
			if got, err := f.VerifyOrRepair(t.Context()); err != nil || got != want {
				t.Errorf("%s: repaired %v, want %v; %v", what, got, want, err)
			}
		}
	}
	check("nothing", false)
	command(t, "nft add table ip firewall_test_foreign")
	defer exec.Command("nft", "delete", "table", "ip", "firewall_test_foreign").Run()
	check("another table", false)
	for _, c := range []string{
		"flush chain netdev nereid_firewall guard_arp",
		"add rule netdev nereid_firewall guard accept",
		"flush chain netdev nereid_firewall port_nic1",
		"delete chain netdev nereid_firewall port_nic1",
		"insert rule inet nereid_firewall host accept",
		"add element netdev nereid_firewall free_mac { nic1 }",
		"flush set bridge nereid_firewall judged",
		"flush map bridge nereid_firewall decisions",
		"add chain bridge nereid_firewall mine { type filter hook prerouting priority -400 ; }",
		"delete table bridge nereid_firewall",
		"delete table netdev nereid_firewall",
		"flush ruleset",
	} {
		command(t, "nft "+c)
		check(c, true)
		got := command(t, "nft list table bridge nereid_firewall") + command(t, "nft list table inet nereid_firewall") + command(t, "nft list table netdev nereid_firewall")
		if inOrder(got) != inOrder(want) {
			t.Errorf("%s: after the repair:\n%s\nwant\n%s", c, got, want)
		}
	}
	// br_netfilter, which this kernel has, was on when the lab was made.
	for _, tables := range []string{"iptables", "ip6tables", "arptables"} {
		if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
			t.Log("no br_netfilter here")
			break
		}
		key := "net.bridge.bridge-nf-call-" + tables
		if got := command(t, "sysctl -n "+key); got != "0\n" {
			t.Errorf("%s is %q", key, got)
		}
		command(t, "sysctl -qw "+key+"=1")
		check(key+"=1", true)
		if got := command(t, "sysctl -n "+key); got != "0\n" {
			t.Errorf("after the repair %s is %q", key, got)
		}
	}
	// A change of the spec over a change by hand replaces what does not fit.
	command(t, "nft delete table bridge nereid_firewall")
	w.ports = append(w.ports, testPort(9, true))
	applyTwice(t, f, w, Options{Underlay: []string{"10.0.0.0/8"}})
	check("a change over a change by hand", false)
	// Another process takes over, with the same zones.
	zones := f.applied.numbers.zones
	g := newFirewall(t)
	applyTwice(t, g, w, Options{Underlay: []string{"10.0.0.0/8"}})
	if fmt.Sprint(g.applied.numbers.zones) != fmt.Sprint(zones) {
		t.Errorf("zones %v, were %v", g.applied.numbers.zones, zones)
	}
	check("another process's replacement", true)
}

// inOrder is what nft lists with its chains and sets in order: one that was made anew
// alone comes last.
func inOrder(listing string) string {
	blocks := strings.Split(listing, "\n\n")
	for i, b := range blocks {
		blocks[i] = strings.Trim(strings.TrimSuffix(strings.TrimRight(b, "\n"), "\n}"), "\n")
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n\n")
}

// TestNetNSFailedTransaction: a transaction with one bad part changes nothing.
func TestNetNSFailedTransaction(t *testing.T) {
	f := newFirewall(t)
	w := newWorld(rand.New(rand.NewPCG(2, 2)))
	applyTwice(t, f, w, Options{})
	before := command(t, "nft list ruleset")
	decisions, _ := f.applied.set(setDecisions)
	judged, _ := f.applied.set(setJudged)
	tr := replacement(f.applied.ruleset, nil)
	tr.addElements = append(tr.addElements,
		setElements{judged, elements{string(encodeName("more")): {}}},
		setElements{decisions, elements{string(encodeNumber(9)): {data: "goto nowhere"}}})
	err := system{}.commit(t.Context(), tr)
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "add elements to set decisions") {
		t.Errorf("commit: %v", err)
	}
	if after := command(t, "nft list ruleset"); after != before {
		t.Errorf("after a failed transaction:\n%s\nbefore:\n%s", after, before)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := applyAll(canceled, f, append(w.ports, testPort(9, true)), w.fw, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	if repaired, err := f.VerifyOrRepair(t.Context()); repaired || err != nil {
		t.Error(repaired, err)
	}
	applyTwice(t, f, w, Options{})
}
