package firewall

import (
	"fmt"
	"net/netip"
	"slices"

	"nereid/api"
)

// Flow is the first packet of a connection, as one port sees it.
type Flow struct {
	MAC       string // of the port
	Direction string // in or out
	Peer      netip.Addr
	Protocol  string // tcp, udp, icmp, icmp6, ah, esp; anything else is decided by default
	Port      uint16 // destination, of tcp and udp
	Type      uint8  // of icmp and icmp6
	Code      uint8
}

// Decision is what a firewall does about a Flow, and because of what.
type Decision struct {
	Allow  bool   `json:"allow"`
	Rule   string `json:"rule,omitempty"` // UUID; empty: no rule is about it
	Reason string `json:"reason"`
}

// Explain finds the rule that decides about a flow, by looking at them one after the
// other and not in what was compiled.
func Explain(ports []api.PortSpec, fw api.FirewallSpec, f Flow) (Decision, error) {
	mac, err := parseMAC(f.MAC)
	if err != nil {
		return Decision{}, fmt.Errorf("explain a flow: %w", err)
	}
	i := slices.IndexFunc(ports, func(p api.PortSpec) bool { m, err := parseMAC(p.MAC); return err == nil && m == mac })
	switch {
	case i < 0:
		return Decision{}, fmt.Errorf("explain a flow: no port of this server has the MAC %s", f.MAC)
	case f.Direction != "in" && f.Direction != "out":
		return Decision{}, fmt.Errorf("explain a flow: direction %q: want in or out", f.Direction)
	case !ports[i].Firewall:
		return Decision{Allow: true, Reason: "the port has no firewall"}, nil
	}
	s := &spec{ports: []portInput{{mac: mac, firewall: true}}}
	if wrong := s.parseRules(fw, map[[6]byte]int{mac: 0}); len(wrong) > 0 {
		return Decision{}, fmt.Errorf("explain a flow: %w", wrong[0].err)
	}
	peer := f.Peer.Unmap()
	for _, r := range s.rules {
		if r.direction.String() != f.Direction || !f.matches(r) || !r.any && !slices.ContainsFunc(r.peers, func(p int) bool { return s.sets[p].has(peer) }) {
			continue
		}
		word := map[bool]string{true: "allows", false: "blocks"}[r.allow]
		return Decision{r.allow, r.id, fmt.Sprintf("rule %s, priority %d, %s it", r.id, r.priority, word)}, nil
	}
	if f.Direction == "in" {
		return Decision{Reason: "no rule is about it, and what comes in is blocked by default"}, nil
	}
	return Decision{Allow: true, Reason: "no rule is about it, and what goes out is allowed by default"}, nil
}

// matches says whether a rule is about such packets, whoever the peer is.
func (f Flow) matches(r ruleInput) bool {
	proto, _, err := parseTraffic(api.FirewallEntry{Protocol: f.Protocol})
	if err != nil || proto != r.protocol {
		return false
	}
	var x uint16
	switch proto {
	case protoTCP, protoUDP:
		x = f.Port
	case protoICMP, protoICMP6:
		x = uint16(f.Type)<<8 | uint16(f.Code)
	}
	return slices.ContainsFunc(r.spans, func(s span) bool { return s.first <= x && x <= s.last })
}

func (s setInput) has(a netip.Addr) bool {
	return slices.Contains(s.hosts, a) || slices.ContainsFunc(s.nets, func(n netip.Prefix) bool { return n.Contains(a) })
}
