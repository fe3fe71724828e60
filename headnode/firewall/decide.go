package firewall

import (
	"cmp"
	"net/netip"
	"slices"

	"nereid/api"
)

// Packet is the first packet of a connection at a port of an instance.
type Packet struct {
	MAC       string     // of the port
	Direction string     // "in" to the port, "out" from it
	Protocol  string     // as in FirewallEntry; others match no rule
	Peer      netip.Addr // source of what comes in, destination of what goes out
	Port      uint16     // tcp and udp: destination
	Type      uint8      // icmp and icmp6
	Code      uint8
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Action string // "allow" or "block"
	Rule   string // UUID of the rule that decided; empty: none matched, and the default did
	Log    bool   // it is logged
}

// Decide says what becomes of a packet at a port that has the firewall on. It is
// the meaning of a FirewallSpec, written for its reader and not for speed: the
// compiler that makes nftables of a spec is tested against it, and "nereid
// network trace" asks it.
//
// An entry matches a packet when it has the packet's direction, protocol and
// port (Ports), the peer is in one of its sets (Peers; no sets: every address),
// and the destination port is in one of its ranges, or the type and code are one
// of its types (no types: all). A set that the spec does not have, and a member
// that is no address, match nothing.
//
// Of the entries that match, those of the highest priority count. If they
// disagree, ALLOW wins inwards and BLOCK outwards. Of those that agree the one
// with the least UUID decides, and says whether the packet is logged. With no
// match, what comes in is blocked and what goes out is allowed.
//
// It knows nothing of established connections, which the first packet's verdict
// covers as long as it stays the same, nor of what is below the firewall: ARP,
// neighbour discovery, DHCP and anti-spoofing.
func Decide(spec api.FirewallSpec, p Packet) Verdict {
	var best *api.FirewallEntry
	for _, e := range spec.Rules {
		if matches(spec, e, p) && (best == nil || compareEntries(e, *best) < 0) {
			best = &e
		}
	}
	if best == nil {
		return Verdict{Action: defaultAction(p.Direction)}
	}
	return Verdict{Action: best.Action, Rule: best.Rule, Log: best.Log}
}

// compareEntries orders two entries of one direction: negative when a decides.
func compareEntries(a, b api.FirewallEntry) int {
	againstDefault := func(e api.FirewallEntry) int {
		if e.Action == defaultAction(e.Direction) {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(againstDefault(b), againstDefault(a)), cmp.Compare(a.Rule, b.Rule))
}

// defaultAction is what happens without a rule. At equal priority the other
// action wins.
func defaultAction(direction string) string {
	if direction == "out" {
		return "allow"
	}
	return "block"
}

func matches(spec api.FirewallSpec, e api.FirewallEntry, p Packet) bool {
	if e.Direction != p.Direction || e.Protocol != p.Protocol || !slices.Contains(e.Ports, p.MAC) {
		return false
	}
	if len(e.Peers) > 0 && !slices.ContainsFunc(spec.Sets, func(s api.AddressSet) bool {
		return slices.Contains(e.Peers, s.Name) && inSet(s, p.Peer)
	}) {
		return false
	}
	switch e.Protocol {
	case "tcp", "udp":
		return slices.ContainsFunc(e.Dst, func(r api.PortRange) bool { return r.First <= p.Port && p.Port <= r.Last })
	case "icmp", "icmp6":
		return len(e.Types) == 0 || slices.ContainsFunc(e.Types, func(t api.ICMPType) bool {
			return t.Type == p.Type && (t.Code == nil || *t.Code == p.Code)
		})
	}
	return true
}

func inSet(s api.AddressSet, a netip.Addr) bool {
	return slices.ContainsFunc(s.Members, func(m string) bool { return prefixOf(m).Contains(a.Unmap()) })
}
