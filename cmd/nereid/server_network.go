package main

import (
	"maps"
	"slices"
	"strings"

	"nereid/api"
)

// networkSection is what the agent says of a server's network; nothing when there
// is nothing to say of it.
func networkSection(c *card, r api.NetworkReport) {
	if len(r.Problems)+len(r.Maps)+len(r.Gateways)+len(r.Drops) == 0 && r.Applied {
		return
	}
	c.section("Network")
	if !r.Applied {
		c.line("applied", "not all of it yet")
	}
	if len(r.Maps) > 0 {
		c.line("maps", api.Plural(len(r.Maps), "VNI"))
	}
	c.bullets(r.Problems, red)
	t := &table{header: []string{"NAT OF ACCOUNT", "IS DONE BY", "DO NOT ANSWER"}}
	for _, g := range r.Gateways {
		t.add(text(g.Owner), text(g.Used), styled(strings.Join(g.Down, ", "), red))
	}
	c.table(t)
	t = &table{header: []string{"DROPPED", "PACKETS"}}
	for _, name := range slices.Sorted(maps.Keys(r.Drops)) {
		if n := r.Drops[name]; n > 0 {
			t.add(text(dropped(name)), number("%d", n))
		}
	}
	c.table(t)
}

// dropped says why packets were dropped: what api.NetworkReport.Drops calls it, in
// words. An agent may know more reasons than this program.
func dropped(name string) string {
	switch name {
	case "mac":
		return "anti-spoofing: another MAC"
	case "ipv4", "ipv6":
		return "anti-spoofing: another " + strings.Replace(name, "ip", "IP", 1) + " address"
	case "arp":
		return "anti-spoofing: ARP for another"
	case "nd":
		return "anti-spoofing: neighbour discovery for another"
	case "dhcp":
		return "anti-spoofing: a DHCP server's answer"
	case "ra":
		return "anti-spoofing: a router advertisement or redirect"
	case "ethertype":
		return "anti-spoofing: neither IPv4, ARP nor IPv6"
	case "closed":
		return "firewall: from a NIC that is closed"
	case "blocked_in":
		return "firewall: to an instance"
	case "blocked_out":
		return "firewall: from an instance"
	case "invalid":
		return "firewall: part of no connection"
	case "isolated":
		return "from an instance to the server itself"
	case "vxlan":
		return "VXLAN from outside the underlay"
	case "router_to_private":
		return "router: by NAT to a private, admin or underlay address"
	case "router_not_internet_nat":
		return "router: out, without internet_nat, or not TCP, UDP or ICMP"
	case "router_to_router":
		return "router: to the gateway itself"
	case "router_to_nobody":
		return "router: in, to a port that is nobody's"
	}
	return name
}
