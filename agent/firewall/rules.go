package firewall

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"nereid/api"
)

// direction of a rule, as its port sees it.
type direction uint8

const (
	in direction = iota
	out
)

func (d direction) String() string { return [...]string{"in", "out"}[d] }

// span is a range of destination ports; of ICMP, of type*256 + code.
type span struct{ first, last uint16 }

// ruleInput is an api.FirewallEntry, parsed.
type ruleInput struct {
	key       string // rules with the same key differ in their ports only
	id        string
	direction direction
	ports     []int // indices into spec.ports, only those with a firewall
	any       bool  // every peer
	peers     []int // indices into spec.sets
	allow     bool
	protocol  byte
	spans     []span
	priority  int
	log       bool
}

var (
	ruleIDRE  = regexp.MustCompile(`^[0-9a-zA-Z-]{1,64}$`) // it ends up in names and log prefixes
	setNameRE = regexp.MustCompile(`^[a-z0-9_]{1,31}$`)
)

// malformed is a rule that cannot be read, or an address set that no rule names.
type malformed struct {
	ports []string // of the rule
	err   error
}

// parseRules reads the entries, without those that concern none of the ports, and
// puts them in the order in which they are looked at.
func (s *spec) parseRules(fw api.FirewallSpec, byMAC map[[6]byte]int) (wrong []malformed) {
	named := make(map[string]int)
	unread := make(map[string]error) // sets
	for _, a := range fw.Sets {
		in, err := parseSet(a)
		if _, twice := named[a.Name]; twice {
			err = fmt.Errorf("address set %q: there twice", a.Name)
		}
		if err != nil {
			unread[a.Name] = err
			continue
		}
		named[a.Name] = len(s.sets)
		s.sets = append(s.sets, in)
	}
	blamed := make(map[string]bool)
	byKey := make(map[string]int)
	for _, e := range fw.Rules {
		r, err := parseRule(e, named)
		for _, p := range e.Peers {
			if bad := unread[p]; bad != nil {
				err, blamed[p] = bad, true
			}
		}
		for _, text := range e.Ports {
			mac, bad := parseMAC(text)
			if bad != nil {
				err = fmt.Errorf("port: %w", bad)
			}
			// A port that has gone, or has no firewall, is no reason to refuse a rule.
			if i, here := byMAC[mac]; here && s.ports[i].firewall {
				r.ports = append(r.ports, i)
			}
		}
		if err != nil {
			wrong = append(wrong, malformed{e.Ports, fmt.Errorf("rule %s: %w", e.Rule, err)})
		}
		if len(r.ports) == 0 {
			continue
		}
		r.key = r.content(s.sets)
		if i, there := byKey[r.key]; there {
			s.rules[i].ports = append(s.rules[i].ports, r.ports...)
			continue
		}
		byKey[r.key] = len(s.rules)
		s.rules = append(s.rules, r)
	}
	for _, name := range slices.Sorted(maps.Keys(unread)) {
		if !blamed[name] {
			wrong = append(wrong, malformed{nil, unread[name]})
		}
	}
	slices.SortFunc(s.rules, compareRules)
	return wrong
}

// content is all of a rule but its ports.
func (r *ruleInput) content(sets []setInput) string {
	peers := make([]string, len(r.peers))
	for i, s := range r.peers {
		peers[i] = sets[s].name
	}
	slices.Sort(peers)
	return fmt.Sprint(r.id, r.direction, r.any, peers, r.allow, r.protocol, r.spans, r.priority, r.log)
}

func parseSet(a api.AddressSet) (setInput, error) {
	in := setInput{name: a.Name}
	if !setNameRE.MatchString(a.Name) {
		return in, fmt.Errorf("address set %q: not a name", a.Name)
	}
	for _, m := range a.Members {
		p, err := parsePrefix(m)
		switch {
		case err != nil:
			return in, fmt.Errorf("address set %s: %w", a.Name, err)
		case p.IsSingleIP():
			in.hosts = append(in.hosts, p.Addr())
		default:
			in.nets = append(in.nets, p)
		}
	}
	return in, nil
}

// compareRules sorts the rule that decides before those that it beats: the higher
// priority, then in an allow and out a block. The rest only makes the order, and
// with it which of two equal rules is shown and logs, independent of the input's.
func compareRules(a, b ruleInput) int {
	rank := func(r ruleInput) int {
		if r.allow == (r.direction == in) {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.direction, b.direction), cmp.Compare(b.priority, a.priority), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.id, b.id), cmp.Compare(a.key, b.key))
}

func parseRule(e api.FirewallEntry, named map[string]int) (ruleInput, error) {
	r := ruleInput{id: e.Rule, any: len(e.Peers) == 0, priority: e.Priority, log: e.Log}
	if !ruleIDRE.MatchString(e.Rule) {
		return r, fmt.Errorf("%q is not a UUID", e.Rule)
	}
	switch e.Direction {
	case "in":
	case "out":
		r.direction = out
	default:
		return r, fmt.Errorf("direction %q: want in or out", e.Direction)
	}
	switch e.Action {
	case "allow":
		r.allow = true
	case "block":
	default:
		return r, fmt.Errorf("action %q: want allow or block", e.Action)
	}
	for _, p := range e.Peers {
		i, ok := named[p]
		if !ok {
			return r, fmt.Errorf("address set %q is not in the spec", p)
		}
		r.peers = append(r.peers, i)
	}
	var err error
	r.protocol, r.spans, err = parseTraffic(e)
	return r, err
}

// parseTraffic finds the protocol's number and what is meant of it. No ports and no
// types mean all.
func parseTraffic(e api.FirewallEntry) (proto byte, spans []span, err error) {
	switch e.Protocol {
	case "tcp", "udp":
		proto = protoTCP
		if e.Protocol == "udp" {
			proto = protoUDP
		}
		for _, p := range e.Dst {
			if p.First > p.Last {
				return 0, nil, fmt.Errorf("ports %d-%d: the first is above the last", p.First, p.Last)
			}
			spans = append(spans, span{p.First, p.Last})
		}
	case "icmp", "icmp6":
		proto = protoICMP
		if e.Protocol == "icmp6" {
			proto = protoICMP6
		}
		for _, t := range e.Types {
			x := span{uint16(t.Type) << 8, uint16(t.Type)<<8 | 0xff}
			if t.Code != nil {
				x.first |= uint16(*t.Code)
				x.last = x.first
			}
			spans = append(spans, x)
		}
	case "ah":
		proto = protoAH
	case "esp":
		proto = protoESP
	default:
		return 0, nil, fmt.Errorf("protocol %q: want tcp, udp, icmp, icmp6, ah or esp", e.Protocol)
	}
	if len(spans) == 0 {
		spans = []span{{0, 0xffff}}
	}
	return proto, spans, nil
}
