//go:build vm

package firewall

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"nereid/api"
)

// These tests run as root inside a guest whose kernel has nf_conntrack_bridge and
// nft_meta_bridge, with the programs ip, bridge, nft, sysctl, ping and unshare. They
// use the firewall as production does.

// bridged is a bridge with two ports that have addresses.
func bridged(t *testing.T, bridge string, server, client int) pair {
	t.Helper()
	names := []string{fmt.Sprintf("nic%d", server), fmt.Sprintf("nic%d", client)}
	nodes := newBridge(t, bridge, append(names, "up"+bridge)...)
	p := pair{server: nodes[names[0]], client: nodes[names[1]], serverPort: testPort(server, true), clientPort: testPort(client, true), addresses: []string{"10.0.0.1", "fd00::1"}}
	p.serverPort.Bridge, p.clientPort.Bridge = bridge, bridge
	p.serverPort.Addresses = []api.PortAddress{{Address: "10.0.0.1/24"}, {Address: "fd00::1/64"}}
	p.clientPort.Addresses = []api.PortAddress{{Address: "10.0.0.2/24"}, {Address: "fd00::2/64"}}
	for _, n := range []struct {
		*node
		port Port
	}{{p.server, p.serverPort}, {p.client, p.clientPort}} {
		n.run(t, "ip addr add "+n.port.Addresses[0].Address+" dev eth0")
		n.run(t, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
		n.addIPv6(t, n.port.Addresses[1].Address)
	}
	return p
}

func production(t testing.TB) *Firewall {
	f := newFirewall(t)
	f.Stateless = false
	return f
}

// BenchmarkRealThroughput is with connection tracking: what was let pass is not judged
// again.
func BenchmarkRealThroughput(b *testing.B) { throughput(b, production) }

// TestRealTracking: connections across a bridge, through changes of the rules.
func TestRealTracking(t *testing.T) {
	p := bridged(t, "br0", 1, 2)
	f := production(t)
	proveTracking(t, f, p, Options{})
	p.stray(t, f, p.server.mac)
	for _, c := range []string{"nft list ruleset", "nft -j list ruleset"} {
		if out := command(t, c); !strings.Contains(out, setBehaviours) {
			t.Errorf("%s:\n%s", c, out)
		}
	}
}

// TestRealZones: two accounts with the same addresses, and connections that differ
// in nothing but the bridge.
func TestRealZones(t *testing.T) {
	a, b := bridged(t, "br0", 1, 2), bridged(t, "br1", 3, 4)
	f := production(t)
	w := &world{ports: []Port{a.serverPort, a.clientPort, b.serverPort, b.clientPort}}
	allow := func(p Port) api.FirewallEntry {
		return api.FirewallEntry{Rule: "allow" + p.Interface, Direction: "in", Ports: []string{p.MAC}, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 80, Last: 80}}}
	}
	w.fw.Rules = []api.FirewallEntry{allow(a.serverPort), allow(b.serverPort)}
	applyTwice(t, f, w, Options{})
	a.server.listen(t, ":80", "here is A")
	b.server.listen(t, ":80", "here is B")
	for _, address := range a.addresses {
		at := net.JoinHostPort(address, "80")
		ca, err := a.client.connect(t.Context(), 4000, at, "here is A")
		if err != nil {
			t.Fatal(err)
		}
		defer ca.Close()
		cb, err := b.client.connect(t.Context(), 4000, at, "here is B")
		if err != nil {
			t.Fatal(err)
		}
		defer cb.Close()
		// What A forbids is no matter for B.
		w.fw.Rules = []api.FirewallEntry{allow(b.serverPort)}
		applyTwice(t, f, w, Options{})
		before := counters(t, f)
		if _, err := ca.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		counts(t, f, before, countBlockedIn)
		if err := echo(cb, "still here"); err != nil {
			t.Error(err)
		}
		w.fw.Rules = []api.FirewallEntry{allow(a.serverPort), allow(b.serverPort)}
		applyTwice(t, f, w, Options{})
		if err := expect(ca, "x"); err != nil {
			t.Error(err)
		}
	}
}

// TestRealUntracked: between ports of a fabric that have no firewall nothing is
// tracked, so that they cannot fill the table.
func TestRealUntracked(t *testing.T) {
	p := bridged(t, "br0", 1, 2)
	p.serverPort.Firewall, p.clientPort.Firewall = false, false
	third := testPort(3, true)
	f := production(t)
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil { // of the tests before
		t.Fatal(err)
	}
	w := &world{ports: []Port{p.serverPort, p.clientPort, third}}
	applyTwice(t, f, w, Options{})
	p.server.listen(t, ":80", "web")
	c, err := p.client.connect(t.Context(), 0, "10.0.0.1:80", "web")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out, err := exec.CommandContext(t.Context(), "cat", "/proc/net/nf_conntrack").CombinedOutput()
	if err == nil && strings.Contains(string(out), "dst=10.0.0.1") {
		t.Errorf("tracked:\n%s", out)
	}
}

// TestRealGuard: the guard comes before connection tracking and works beside it.
func TestRealGuard(t *testing.T) {
	nodes := newLab(t, "nic1", "nic2", "uplink")
	f := production(t)
	applyTwice(t, f, guardWorld(api.SpoofFlags{}), Options{})
	from, to := nodes["nic1"].wire(t), nodes["uplink"].wire(t)
	for i, s := range spoofs() {
		id := uint32(2 * i)
		before := counters(t, f)
		from.send(s.frame, id)
		from.send(nodes["nic1"].marker(), id+1)
		arrived := to.receive(id + 1)[id]
		if counted := s.counter == "" || counters(t, f)[s.counter] == before[s.counter]+1; !counted || s.counter != "" && arrived {
			t.Errorf("%s: arrived %v, counters %v", s.name, arrived, counters(t, f))
		}
	}
}

// TestRealProtect: see proveProtect.
func TestRealProtect(t *testing.T) { proveProtect(t, production(t)) }
