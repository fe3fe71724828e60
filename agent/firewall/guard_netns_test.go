//go:build netns

package firewall

import (
	"bytes"
	"maps"
	"testing"

	"nereid/api"
)

// TestNetNSSpoofing sends each frame and, after it, one that passes: what has not
// come until then was dropped.
func TestNetNSSpoofing(t *testing.T) {
	nodes := newLab(t, "nic1", "nic2", "uplink")
	f := newFirewall(t)
	applyTwice(t, f, guardWorld(api.SpoofFlags{}), Options{PortPrefix: "nic"})
	from, to := nodes["nic1"].wire(t), nodes["uplink"].wire(t)
	for i, s := range spoofs() {
		id := uint32(2 * i)
		before := counters(t, f)
		from.send(s.frame, id)
		from.send(nodes["nic1"].marker(), id+1)
		arrived := to.receive(id + 1)[id]
		want := maps.Clone(before)
		if s.counter != "" {
			want[s.counter]++
		}
		if got := counters(t, f); arrived != (s.counter == "") || !maps.Equal(got, want) {
			t.Errorf("%s: arrived %v, want %v; counters %v, want %v", s.name, arrived, s.counter == "", got, want)
		}
	}
	// What was not let pass was not learnt from either.
	if out := command(t, "bridge fdb show br br0"); bytes.Contains([]byte(out), []byte(macText(mac2)+" dev nic1")) {
		t.Errorf("the bridge believes that nic2's MAC is behind nic1:\n%s", out)
	}
}

// TestNetNSSpoofFlags: each flag lets pass what it is about, and no more.
func TestNetNSSpoofFlags(t *testing.T) {
	nodes := newLab(t, "nic1", "nic2", "uplink")
	f := newFirewall(t)
	from, to := nodes["nic1"].wire(t), nodes["uplink"].wire(t)
	id := uint32(0)
	for _, c := range []struct {
		name  string
		flags api.SpoofFlags
		free  map[string]bool // frames that now pass, by name; and all of a counter
	}{
		{"IP", api.SpoofFlags{AllowIPSpoofing: true}, map[string]bool{countIPv4: true, countIPv6: true,
			"ARP for another's IPv4": true, "duplicate address detection of another's": true, "neighbour advertisement for another's address": true}},
		{"MAC", api.SpoofFlags{AllowMACSpoofing: true}, map[string]bool{countMAC: true, "ARP with another's MAC": true,
			"router solicitation with another's MAC": true, "neighbour solicitation with another's MAC": true,
			"neighbour solicitation, another's MAC as second option": true, "neighbour advertisement with another's MAC": true,
			"neighbour advertisement behind an extension header": true}},
		{"DHCP", api.SpoofFlags{AllowDHCPSpoofing: true}, map[string]bool{countDHCP: true, countRA: true}},
		{"restricted traffic", api.SpoofFlags{AllowRestrictedTraffic: true}, map[string]bool{countEtherType: true}},
	} {
		applyTwice(t, f, guardWorld(c.flags), Options{PortPrefix: "nic"})
		for _, s := range spoofs() {
			want := s.counter == "" || c.free[s.counter] || c.free[s.name]
			switch s.name {
			case "IPv6 whose transport cannot be found":
				want = false // may hide anything
			case "another's MAC, to a link-local multicast":
				continue // is never forwarded
			}
			from.send(s.frame, id)
			from.send(nodes["nic1"].marker(), id+1)
			if got := to.receive(id + 1)[id]; got != want {
				t.Errorf("with %s spoofing: %s: passed %v, want %v", c.name, s.name, got, want)
			}
			id += 2
		}
	}
}

// TestNetNSGuardIsQuiet: the kernel's own IPv6 with duplicate address detection,
// neighbour discovery and MLD, ARP and ping work, and nothing of it is dropped.
func TestNetNSGuardIsQuiet(t *testing.T) {
	nodes := newLab(t, "nic1", "nic2")
	f := newFirewall(t)
	applyTwice(t, f, guardWorld(api.SpoofFlags{}), Options{PortPrefix: "nic"})
	for i, name := range []string{"nic1", "nic2"} {
		n := nodes[name]
		n.run(t, "ip addr add "+testPort(i+1, false).Addresses[0].Address+" dev eth0")
		n.run(t, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
		n.addIPv6(t, testPort(i+1, false).Addresses[1].Address)
	}
	for i, name := range []string{"nic1", "nic2"} {
		other := []string{"10.0.0.2", "10.0.0.1"}[i]
		nodes[name].run(t, "ping -c 2 -i 0.2 -W 5 "+other)
		nodes[name].run(t, "ping -c 2 -i 0.2 -W 5 "+[]string{"fd00::2", "fd00::1"}[i])
	}
	if got := counters(t, f); len(got) > 0 {
		t.Errorf("dropped: %v", got)
	}
}

// TestNetNSProtect: see proveProtect.
func TestNetNSProtect(t *testing.T) { proveProtect(t, newFirewall(t)) }
