package firewall

import (
	"bytes"
	"net/netip"
	"testing"

	"nereid/api"
)

// spoof is a frame that nic1 sends to uplink.
type spoof struct {
	name    string
	frame   []byte
	counter string // that counts it; empty: it passes
}

var (
	mac1, mac2, macUp = testMAC(1), testMAC(2), testMAC(999)
	own4, other4      = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	own6, other6      = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	local6, far6      = linkLocal(mac1), linkLocal(mac2)
	zero4, zero6      = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	allNodes          = netip.MustParseAddr("ff02::1")
	up4               = netip.MustParseAddr("10.0.0.231")
)

// spoofs are frames of a port with the address 10.0.0.1, fd00::1 and no flags.
func spoofs() []spoof {
	ip := func(src, dst netip.Addr, proto byte, payload []byte) []byte {
		return ipPacket(macUp, mac1, src, dst, proto, payload)
	}
	nd := func(src netip.Addr, payload []byte) []byte { return ip(src, allNodes, protoICMP6, payload) }
	tagged := func(f []byte) []byte {
		return append(append(bytes.Clone(f[:12]), 0x81, 0x00, 0, 5), f[12:]...)
	}
	extended := func(f []byte, next byte, header ...byte) []byte { // puts an extension header before the payload
		f = append(append(bytes.Clone(f[:54]), header...), f[54:]...)
		f[54], f[20] = f[20], next
		n := len(f) - 54
		f[18], f[19] = byte(n>>8), byte(n)
		return f
	}
	multicast := [6]byte{0x01, 0x80, 0xc2, 0, 0, 0}
	ns, na, rs := byte(ndNeighborSolicitation), byte(ndNeighborAdvertisement), byte(ndRouterSolicitation)
	data := udp(1000, 2000, 1, 2, 3)
	return []spoof{
		{"own MAC and IPv4", ip(own4, up4, protoUDP, data), ""},
		{"another's MAC", ipPacket(macUp, mac2, own4, up4, protoUDP, data), countMAC},
		{"another's MAC, to a link-local multicast", ether([6]byte{0x01, 0x80, 0xc2, 0, 0, 3}, mac2, 0x888e, make([]byte, 50)), countMAC},
		{"another's IPv4", ip(other4, up4, protoUDP, data), countIPv4},
		{"the router's IPv4, ICMP", ip(netip.MustParseAddr("10.0.0.254"), up4, protoICMP, []byte{8, 0, 0, 0, 0, 0, 0, 0}), countIPv4},
		{"0.0.0.0, DHCP client", ipPacket(broadcast, mac1, zero4, netip.MustParseAddr("255.255.255.255"), protoUDP, udp(68, 67, 1)), ""},
		{"0.0.0.0, not DHCP", ip(zero4, up4, protoUDP, data), countIPv4},
		{"allowed_ips, an address", ip(netip.MustParseAddr("10.7.0.9"), up4, protoUDP, data), ""},
		{"allowed_ips, first of a subnet", ip(netip.MustParseAddr("10.8.4.0"), up4, protoUDP, data), ""},
		{"allowed_ips, last of a subnet", ip(netip.MustParseAddr("10.8.7.255"), up4, protoUDP, data), ""},
		{"just after allowed_ips", ip(netip.MustParseAddr("10.8.8.0"), up4, protoUDP, data), countIPv4},
		{"just before allowed_ips", ip(netip.MustParseAddr("10.8.3.255"), up4, protoUDP, data), countIPv4},
		{"a truncated IPv4 header", ether(macUp, mac1, 0x0800, []byte{0x45, 0}), countIPv4},

		{"DHCP server", ip(own4, up4, protoUDP, udp(67, 68, 2)), countDHCP},
		{"DHCPv6 server", ip(local6, allNodes, protoUDP, udp(547, 546, 2)), countDHCP},
		{"DHCPv6 client", ip(local6, allNodes, protoUDP, udp(546, 547, 1)), ""},

		{"ARP", arpPacket(broadcast, mac1, 1, mac1, own4, [6]byte{}, up4), ""},
		{"ARP probe", arpPacket(broadcast, mac1, 1, mac1, zero4, [6]byte{}, own4), ""},
		{"ARP with another's MAC", arpPacket(broadcast, mac1, 1, mac2, own4, [6]byte{}, up4), countARP},
		{"ARP for another's IPv4", arpPacket(broadcast, mac1, 2, mac1, other4, [6]byte{}, up4), countARP},
		{"ARP of allowed_ips", arpPacket(broadcast, mac1, 1, mac1, netip.MustParseAddr("10.8.5.5"), [6]byte{}, up4), ""},
		{"ARP of another hardware", ether(broadcast, mac1, 0x0806, []byte{0, 6, 8, 0, 6, 4, 0, 1}, make([]byte, 20)), countARP},
		{"ARP cut short", ether(broadcast, mac1, 0x0806, []byte{0, 1}), countARP},

		{"own IPv6", ip(own6, other6, protoUDP, data), ""},
		{"own link-local", ip(local6, allNodes, protoUDP, data), ""},
		{"another's IPv6", ip(other6, allNodes, protoUDP, data), countIPv6},
		{"another's link-local", ip(far6, allNodes, protoUDP, data), countIPv6},
		{"IPv6 of allowed_ips", ip(netip.MustParseAddr("fd07::beef"), other6, protoUDP, data), ""},
		{":: with UDP", ip(zero6, allNodes, protoUDP, data), countIPv6},
		{":: with an echo request", nd(zero6, icmp6(128, 0)), countIPv6},
		{":: with an MLD report", extended(nd(zero6, icmp6(143, 0)), 0, protoICMP6, 0, 5, 2, 0, 0, 1, 0), ""},
		{"IPv6 whose transport cannot be found", extended(ip(own6, other6, 0, nil), 0, 0, 200, 0, 0, 0, 0, 0, 0), countIPv6},

		{"router advertisement", nd(local6, icmp6(ndRouterAdvertisement, 0, make([]byte, 8))), countRA},
		{"router advertisement behind an extension header", extended(nd(local6, icmp6(ndRouterAdvertisement, 0, make([]byte, 8))), 0, protoICMP6, 0, 1, 4, 0, 0, 0, 0), countRA},
		{"redirect", nd(local6, icmp6(ndRedirect, 0, make([]byte, 32))), countRA},
		{"router solicitation", nd(local6, icmp6(rs, 0, option(1, mac1))), ""},
		{"router solicitation without option", nd(zero6, icmp6(rs, 0)), ""},
		{"router solicitation with another's MAC", nd(local6, icmp6(rs, 0, option(1, mac2))), countND},

		{"neighbour solicitation", nd(own6, icmp6(ns, 0, other6.AsSlice(), option(1, mac1))), ""},
		{"neighbour solicitation with another's MAC", nd(own6, icmp6(ns, 0, other6.AsSlice(), option(1, mac2))), countND},
		{"neighbour solicitation, another's MAC as second option", nd(own6, icmp6(ns, 0, other6.AsSlice(), []byte{14, 1, 0, 0, 0, 0, 0, 0}, option(1, mac2))), countND},
		{"duplicate address detection", nd(zero6, icmp6(ns, 0, own6.AsSlice())), ""},
		{"duplicate address detection with a nonce", nd(zero6, icmp6(ns, 0, own6.AsSlice(), []byte{14, 1, 1, 2, 3, 4, 5, 6})), ""},
		{"duplicate address detection of another's", nd(zero6, icmp6(ns, 0, other6.AsSlice())), countND},
		{"neighbour advertisement", nd(own6, icmp6(na, 0x60000000, own6.AsSlice(), option(2, mac1))), ""},
		{"neighbour advertisement without option", nd(local6, icmp6(na, 0x60000000, local6.AsSlice())), ""},
		{"neighbour advertisement for another's address", nd(own6, icmp6(na, 0x60000000, other6.AsSlice(), option(2, mac1))), countND},
		{"neighbour advertisement with another's MAC", nd(own6, icmp6(na, 0x60000000, own6.AsSlice(), option(2, mac2))), countND},
		{"neighbour advertisement behind an extension header", extended(nd(own6, icmp6(na, 0, own6.AsSlice(), option(2, mac1))), 0, protoICMP6, 0, 1, 4, 0, 0, 0, 0), countND},

		{"a VLAN tag", tagged(ip(own4, up4, protoUDP, data)), countEtherType},
		{"a VLAN tag before TCP", tagged(ip(own4, up4, protoTCP, data)), countEtherType},
		{"a VLAN tag before TCP over IPv6", tagged(ip(own6, other6, protoTCP, data)), countEtherType},
		{"a spanning tree BPDU", ether(multicast, mac1, 38, []byte{0x42, 0x42, 3}, make([]byte, 35)), countEtherType},
		{"MPLS", ether(macUp, mac1, 0x8847, make([]byte, 46)), countEtherType},
	}
}

func guardWorld(flags api.SpoofFlags) *world {
	w := &world{ports: []Port{testPort(1, false), testPort(2, false)}}
	flags.AllowedIPs = []string{"10.7.0.9", "10.8.4.0/22", "fd07::/64"}
	w.ports[0].SpoofFlags = flags
	return w
}

// TestGuardProgram executes what TestNetNSSpoofing sends through the kernel.
func TestGuardProgram(t *testing.T) {
	for _, prefix := range []string{"", "nic"} {
		k := newFakeKernel()
		apply(t, &Firewall{kernel: k}, guardWorld(api.SpoofFlags{}), Options{PortPrefix: prefix})
		guards(t, k)
	}
}

func guards(t *testing.T, k *fakeKernel) {
	t.Helper()
	for _, s := range spoofs() {
		m := &machine{ruleset: k.ruleset, counters: make(map[string]int)}
		p := &packet{iif: "nic1", oif: "uplink", bridge: "br0", frame: s.frame}
		if got := m.pass(netdevTable, ingress, p); got != (s.counter == "") || s.counter != "" && m.counters[s.counter] != 1 {
			t.Errorf("%s: passed %v, counters %v; want %q", s.name, got, m.counters, s.counter)
		}
		p.iif = "uplink"
		if !m.pass(netdevTable, ingress, p) {
			t.Errorf("%s: dropped from an interface that is no port", s.name)
		}
	}
}
