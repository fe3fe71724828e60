//go:build netns

package network

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// fabric is two servers with two VNIs that have the same subnets; on each server
// two instances of the first and one of the second.
func fabric(t *testing.T, under1, under2 string) (n1, n2 *node, ports map[string][]api.PortSpec) {
	l := newLab(t)
	n1, n2 = l.server(t, 1, 1), l.server(t, 2, 1)
	ports = map[string][]api.PortSpec{
		under1: {labPort(1, 1, 100, "10.0.0.1/24", "fd00::1/64"), labPort(2, 1, 100, "10.0.0.2/24", "fd00::2/64"), labPort(3, 1, 200, "10.0.0.1/24", "fd00::1/64")},
		under2: {labPort(1, 2, 100, "10.0.0.3/24", "fd00::3/64"), labPort(2, 2, 100, "10.0.0.4/24", "fd00::4/64"), labPort(3, 2, 200, "10.0.0.2/24", "fd00::2/64")},
	}
	n1.mustApply(t, n1.labSpec(1, withBits(under1), []uint32{100, 200}, ports[under1]...))
	n2.mustApply(t, n2.labSpec(2, withBits(under2), []uint32{100, 200}, ports[under2]...))
	for _, n := range []*node{n1, n2} {
		for _, v := range []uint32{100, 200} {
			for range 2 {
				if err := n.ApplyMap(t.Context(), v, mapOf(v, 1, ports)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return n1, n2, ports
}

func withBits(a string) string {
	if strings.Contains(a, ":") {
		return a + "/64"
	}
	return a + "/24"
}

// TestNetNSFabric: every instance of a VNI reaches every other, IPv4 and IPv6, and
// none of the other VNI, whose addresses are the same.
func TestNetNSFabric(t *testing.T) {
	for _, under := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		t.Run(under[0], func(t *testing.T) {
			_, _, ports := fabric(t, under[0], under[1])
			var all []api.PortSpec
			for _, u := range under {
				all = append(all, ports[u]...)
			}
			for _, from := range all {
				for i, to := range all {
					for _, a := range to.Addresses {
						ip := netip.MustParsePrefix(a.Address).Addr().String()
						same := from.VNI == to.VNI
						// An address that both VNIs have answers from one's own.
						mine := strings.Contains(fmt.Sprint(addressesIn(all, from.VNI)), ip+"/")
						if got := reaches(t, from.MAC, ip); got != (same || mine) {
							t.Errorf("%s of VNI %d to %s of %s, number %d of VNI %d: %v", from.MAC, from.VNI, ip, to.MAC, i, to.VNI, got)
						}
					}
				}
			}
		})
	}
}

func addressesIn(ports []api.PortSpec, vni uint32) (addrs []string) {
	for _, p := range ports {
		for _, a := range p.Addresses {
			if p.VNI == vni {
				addrs = append(addrs, a.Address)
			}
		}
	}
	return addrs
}

// sent is how many packets a link sent, or gave to the host.
func (n *node) counter(t *testing.T, link, name string) int {
	t.Helper()
	var c int
	out := run(t, "ip", "netns", "exec", n.ns, "cat", "/sys/class/net/"+link+"/statistics/"+name)
	if _, err := fmt.Sscan(out, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNetNSNoFlood: what is not in the map does not leave the server, and does not
// come to other instances: ARP and ND for an unknown address, unknown unicast,
// broadcast, multicast. ARP for what is elsewhere is answered here.
func TestNetNSNoFlood(t *testing.T) {
	n1, _, ports := fabric(t, "192.0.2.1", "192.0.2.2")
	from, other := ports["192.0.2.1"][0], ports["192.0.2.1"][1]
	quiet := func(what string, do func()) {
		t.Helper()
		vx, drop := n1.counter(t, "vx100", "tx_packets"), n1.counter(t, "vx100", "tx_dropped")
		frames := sniff(t, other.MAC)
		do()
		got := frames()
		if d := n1.counter(t, "vx100", "tx_packets") - vx; d != 0 {
			t.Errorf("%s: %d packets left the server", what, d)
		}
		if d := n1.counter(t, "vx100", "tx_dropped") - drop; d != 0 {
			t.Errorf("%s: %d packets came to the VXLAN device", what, d)
		}
		// Instances talk IPv6 multicast on their own.
		if what == "multicast" && got[unix.ETH_P_IPV6] == 0 {
			t.Errorf("%s: nothing came to the other instance of this server", what)
		}
		if what != "multicast" && got[unix.ETH_P_ARP]+got[unix.ETH_P_IP] > 0 {
			t.Errorf("%s: came to another instance: %v", what, got)
		}
	}
	quiet("ARP for an unknown address", func() { reaches(t, from.MAC, "10.0.0.77") })
	quiet("unknown unicast", func() {
		mustInside(t, from.MAC, "ip", "neigh", "replace", "10.0.0.78", "lladdr", "02:de:ad:00:00:01", "dev", "eth0")
		reaches(t, from.MAC, "10.0.0.78")
	})
	quiet("broadcast", func() {
		_, _ = inside(t, from.MAC, "ping", "-b", "-n", "-c", "2", "-i", "0.2", "-W", "1", "10.0.0.255")
	})
	// Multicast stays on the server; between its instances it passes, see doc.go.
	quiet("multicast", func() {
		reaches(t, from.MAC, "fd00::77")
		_, _ = inside(t, from.MAC, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", "eth0", "ff02::1")
		_, _ = inside(t, from.MAC, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", "eth0", "224.0.0.1")
	})
	// Resolving an address that is elsewhere sends nothing: only the ping does.
	mustInside(t, from.MAC, "ip", "neigh", "flush", "dev", "eth0")
	before := n1.counter(t, "vx100", "tx_packets")
	for _, ip := range []string{"10.0.0.3", "fd00::3"} {
		if out, err := inside(t, from.MAC, "ping", "-n", "-c", "1", "-W", "1", ip); err != nil {
			t.Fatal(out)
		}
	}
	if d := n1.counter(t, "vx100", "tx_packets") - before; d != 2 {
		t.Errorf("two pings sent %d packets over VXLAN", d)
	}
}

func mustInside(t *testing.T, mac, name string, args ...string) string {
	t.Helper()
	out, err := inside(t, mac, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// TestNetNSHostClosed: an instance does not find the host, neither by ARP for its
// addresses nor by IPv6, and the host has no address on the instances' side.
func TestNetNSHostClosed(t *testing.T) {
	n1, _, ports := fabric(t, "192.0.2.1", "192.0.2.2")
	from := ports["192.0.2.1"][0]
	mac := strings.TrimSpace(run(t, "ip", "netns", "exec", n1.ns, "cat", "/sys/class/net/vb100/address"))
	mustInside(t, from.MAC, "ip", "route", "add", "192.0.2.0/24", "dev", "eth0")
	if reaches(t, from.MAC, "192.0.2.1") {
		t.Error("the host answers ARP for its underlay address on a VNI")
	}
	mustInside(t, from.MAC, "ip", "neigh", "replace", "192.0.2.1", "lladdr", mac, "dev", "eth0")
	if reaches(t, from.MAC, "192.0.2.1") {
		t.Error("the host answers on a VNI")
	}
	for _, link := range []string{"vb100", "vx100", PortDevice(from.MAC)} {
		if out := n1.ip(t, "-o", "addr", "show", "dev", link); out != "" {
			t.Errorf("addresses: %s", out)
		}
	}
}

// TestNetNSMove: an address moves to another server; all that host the VNI take
// the change, whichever comes first, spec or map.
func TestNetNSMove(t *testing.T) {
	for _, mapFirst := range []bool{true, false} {
		t.Run(fmt.Sprint("map first: ", mapFirst), func(t *testing.T) {
			n1, n2, ports := fabric(t, "192.0.2.1", "192.0.2.2")
			moved := ports["192.0.2.2"][0] // 10.0.0.3
			delta := api.FabricMap{VNI: 100, Epoch: "e", Version: 2, Entries: []api.MapEntry{
				{IP: "10.0.0.3", MAC: moved.MAC, Underlay: "192.0.2.1", Version: 2}, {IP: "fd00::3", MAC: moved.MAC, Underlay: "192.0.2.1", Version: 2}}}
			maps := func() {
				for _, n := range []*node{n1, n2} {
					if err := n.ApplyMap(t.Context(), 100, delta); err != nil {
						t.Fatal(err)
					}
				}
			}
			if mapFirst {
				maps()
			}
			n2.mustApply(t, n2.labSpec(2, "192.0.2.2/24", []uint32{100, 200}, ports["192.0.2.2"][1:]...))
			n1.mustApply(t, n1.labSpec(1, "192.0.2.1/24", []uint32{100, 200}, append(ports["192.0.2.1"], moved)...))
			if !mapFirst {
				maps()
			}
			for _, from := range []api.PortSpec{ports["192.0.2.1"][0], ports["192.0.2.2"][1]} {
				for _, ip := range []string{"10.0.0.3", "fd00::3"} {
					if !reaches(t, from.MAC, ip) {
						t.Errorf("%s does not reach %s after its move", from.MAC, ip)
					}
				}
			}
			// Gone altogether.
			delta = api.FabricMap{VNI: 100, Epoch: "e", Version: 3, Entries: []api.MapEntry{{IP: "10.0.0.3", Version: 3, Deleted: true}, {IP: "fd00::3", Version: 3, Deleted: true}}}
			n1.mustApply(t, n1.labSpec(1, "192.0.2.1/24", []uint32{100, 200}, ports["192.0.2.1"]...))
			maps()
			for _, n := range []*node{n1, n2} {
				for _, out := range []string{n.bridge(t, "fdb", "show"), n.ip(t, "neigh")} {
					if strings.Contains(out, moved.MAC) {
						t.Errorf("%s still knows %s:\n%s", n.ns, moved.MAC, out)
					}
				}
			}
		})
	}
}

// TestNetNSRestart: a new agent without a map leaves the entries; with the map it
// changes only what differs.
func TestNetNSRestart(t *testing.T) {
	n1, _, ports := fabric(t, "192.0.2.1", "192.0.2.2")
	entries := func() string {
		return n1.bridge(t, "fdb", "show", "br", "vb100") + n1.ip(t, "neigh", "show", "dev", "vb100")
	}
	before := entries()
	n1.open(t)
	spec := n1.labSpec(1, "192.0.2.1/24", []uint32{100, 200}, ports["192.0.2.1"]...)
	n1.mustApply(t, spec)
	if after := entries(); after != before {
		t.Errorf("the entries were\n%s and are\n%s", before, after)
	}
	m := mapOf(100, 5, ports)
	if err := n1.ApplyMap(t.Context(), 100, m); err != nil {
		t.Fatal(err)
	}
	if after := entries(); after != before {
		t.Errorf("the entries were\n%s and are\n%s", before, after)
	}
	if got := n1.Maps()[100]; got != "e:5" {
		t.Errorf("map %q", got)
	}
	// Another package's neighbour, the gateway, stays; a stray entry of a VXLAN
	// device does not.
	n1.ip(t, "neigh", "replace", "10.0.0.254", "lladdr", "02:00:5e:00:00:01", "dev", "vb100", "nud", "permanent")
	n1.bridge(t, "fdb", "add", "02:99:99:99:99:99", "dev", "vx100", "dst", "192.0.2.99", "self", "master", "static")
	n1.open(t)
	n1.mustApply(t, spec)
	if err := n1.ApplyMap(t.Context(), 100, m); err != nil {
		t.Fatal(err)
	}
	n1.ip(t, "neigh", "del", "10.0.0.254", "dev", "vb100") // fails when it is not there
	if after := entries(); strings.Contains(after, "02:99:99:99:99:99") {
		t.Errorf("a stray entry is still there:\n%s", after)
	}
}

// TestMain runs the test binary in a network and a mount namespace of its own, with an
// empty /run: named namespaces of instances are another test binary's somewhere else.
func TestMain(m *testing.M) {
	for _, tool := range []string{"ip", "bridge", "ping"} {
		if _, err := exec.LookPath(tool); err != nil {
			panic("the netns tier needs iproute2 and iputils-ping: " + err.Error())
		}
	}
	const mark = "NEREID_NETWORK_NETNS"
	if os.Getenv(mark) == "" {
		unshare, err := exec.LookPath("unshare")
		if err == nil {
			err = os.Setenv(mark, "1")
		}
		if err == nil {
			err = syscall.Exec(unshare, append([]string{"unshare", "--net", "--mount", "--"}, os.Args...), os.Environ())
		}
		panic("this tier needs root and util-linux's unshare: " + err.Error())
	}
	if err := syscall.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		panic("mount: " + err.Error())
	}
	m.Run()
}
