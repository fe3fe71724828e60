package firewall

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// vocabulary is what random worlds are made of: few words, so that they meet.
type vocabulary struct{ *rand.Rand }

func (v vocabulary) of(list ...string) string { return list[v.IntN(len(list))] }

func (v vocabulary) target() string {
	switch v.IntN(5) {
	case 0:
		return v.of("ip 10.0.0.1", "ip 10.0.0.2", "ip fd00::1", "ip 192.0.2.1")
	case 1:
		return v.of("subnet 10.0.0.0/30", "subnet 10.0.0.0/29", "subnet fd00::/126")
	case 2:
		return "vm " + uuid(v.IntN(6))
	case 3:
		return "tag " + v.of("a", "b")
	}
	return "tag " + v.of("a", "b") + " = " + v.of("x", "y")
}

func (v vocabulary) targets() string {
	switch v.IntN(4) {
	case 0:
		return v.of("any", "all vms")
	case 1:
		return "(" + v.target() + " OR " + v.target() + " OR " + v.target() + ")"
	}
	return v.target()
}

func (v vocabulary) rule(i int) api.FirewallRule {
	for {
		protocol := v.of("tcp PORT 1", "tcp PORTS 1-2", "tcp (PORT 1 AND PORT 3)", "udp PORT ALL", "icmp TYPE ALL", "icmp (TYPE 1 AND TYPE 2 CODE 1)", "icmp6 TYPE 1", "ah")
		text := fmt.Sprintf("FROM %s TO %s %s %s PRIORITY %d", v.targets(), v.targets(), v.of("ALLOW", "BLOCK"), protocol, v.IntN(4))
		if _, err := Parse(text); err != nil {
			continue // about no instance, or of no such family
		}
		r := api.FirewallRule{UUID: uuid(i), Rule: text, Enabled: v.IntN(8) > 0, Log: v.IntN(6) == 0, Owner: v.of(alice, bob)}
		if v.IntN(4) == 0 {
			r.Owner, r.Global = "", true
		}
		return r
	}
}

func (v vocabulary) packet(macs []string) Packet {
	return Packet{MAC: v.of(macs...), Direction: v.of("in", "out"), Protocol: v.of("tcp", "tcp", "tcp", "udp", "icmp", "icmp6", "ah", "esp"),
		Peer: netip.MustParseAddr(v.of("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.9", "192.0.2.1", "fd00::1", "fd00::2", "fd00::9", "::ffff:10.0.0.1")),
		Port: uint16(v.IntN(4)), Type: uint8(v.IntN(3)), Code: uint8(v.IntN(2))}
}

// TestMeaning compares random specs with what the language says of a rule, an
// instance and a packet, without sets, ports or anything left out.
func TestMeaning(t *testing.T) {
	for seed := range uint64(300) {
		v := vocabulary{rand.New(rand.NewPCG(seed, 1))}
		var rules []api.FirewallRule
		for i := range v.IntN(14) {
			rules = append(rules, v.rule(i))
		}
		var instances []Instance
		var ports []api.PortSpec
		var macs []string
		at := make(map[string]Instance)
		for i := range 6 {
			in := Instance{UUID: uuid(i), Owner: v.of(alice, bob), Tags: map[string]string{}, Addresses: addrs(fmt.Sprintf("10.0.0.%d", i), fmt.Sprintf("fd00::%d", i))}
			if v.IntN(2) == 0 {
				in.Tags["a"] = v.of("x", "y")
			}
			if v.IntN(2) == 0 {
				in.Tags["b"] = v.of("x", "y")
			}
			instances = append(instances, in)
			for n := range v.IntN(3) {
				mac := fmt.Sprintf("02:00:00:00:%02x:%02x", n, i)
				ports, macs, at[mac] = append(ports, api.PortSpec{MAC: mac, Instance: in.UUID, Firewall: true}), append(macs, mac), in
			}
		}
		if len(ports) == 0 {
			continue
		}
		r, err := NewResolver(rules, instances)
		if err != nil {
			t.Fatal(err)
		}
		spec := r.Spec(ports)
		checkShape(t, spec, ports)
		parsed := make([]api.ParsedRule, len(rules))
		for i, r := range rules {
			if parsed[i], err = Parse(r.Rule); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 {
			p := v.packet(macs)
			got, want := Decide(spec, p), meaning(rules, parsed, instances, at[p.MAC], p)
			if got.Rule == "" && want.Action == defaultAction(p.Direction) {
				want.Rule = "" // it was left out: the default says the same
			}
			if got != want {
				t.Fatalf("seed %d: %+v: got %+v, want %+v of\n%s\n%s", seed, p, got, want, texts(rules), show(spec))
			}
		}

		v.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
		v.Shuffle(len(instances), func(i, j int) { instances[i], instances[j] = instances[j], instances[i] })
		v.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
		if r, err = NewResolver(rules, instances); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, r.Spec(ports)); diff != "" {
			t.Fatalf("seed %d: in another order:\n%s", seed, diff)
		}
	}
}

func texts(rules []api.FirewallRule) string {
	var b strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&b, "%s %s global=%t enabled=%t log=%t\n", r.UUID[34:], r.Rule, r.Global, r.Enabled, r.Log)
	}
	return b.String()
}

// meaning is the verdict by the rules themselves.
func meaning(rules []api.FirewallRule, all []api.ParsedRule, instances []Instance, local Instance, p Packet) Verdict {
	type match struct {
		api.FirewallRule
		parsed api.ParsedRule
	}
	var best []match
	for i, r := range rules {
		parsed := all[i]
		mine, theirs := parsed.To, parsed.From
		if p.Direction == "out" {
			mine, theirs = theirs, mine
		}
		inScope := func(in Instance) bool { return r.Global || in.Owner == r.Owner }
		isMine := slices.ContainsFunc(mine, func(t api.RuleTarget) bool { return names(t, local) && inScope(local) })
		isTheirs := slices.ContainsFunc(theirs, func(t api.RuleTarget) bool {
			switch t.Kind {
			case api.TargetAny:
				return true
			case api.TargetIP:
				return netip.MustParseAddr(t.Value) == p.Peer.Unmap()
			case api.TargetSubnet:
				return netip.MustParsePrefix(t.Value).Contains(p.Peer.Unmap())
			}
			return slices.ContainsFunc(instances, func(in Instance) bool {
				return inScope(in) && names(t, in) && slices.Contains(in.Addresses, p.Peer.Unmap())
			})
		})
		if !r.Enabled || !isMine || !isTheirs || parsed.Protocol != p.Protocol || !about(parsed, p) {
			continue
		}
		if len(best) > 0 && parsed.Priority < best[0].parsed.Priority {
			continue
		}
		if len(best) > 0 && parsed.Priority > best[0].parsed.Priority {
			best = nil
		}
		best = append(best, match{r, parsed})
	}
	v := Verdict{Action: map[string]string{"in": "block", "out": "allow"}[p.Direction]}
	if len(best) == 0 {
		return v
	}
	wins := map[string]string{"in": "allow", "out": "block"}[p.Direction]
	if slices.ContainsFunc(best, func(m match) bool { return m.parsed.Action == wins }) {
		v.Action = wins
	}
	for _, m := range best {
		if m.parsed.Action == v.Action && (v.Rule == "" || m.UUID < v.Rule) {
			v.Rule, v.Log = m.UUID, m.Log
		}
	}
	return v
}

// names says whether a target means an instance.
func names(t api.RuleTarget, in Instance) bool {
	value, tagged := in.Tags[t.Value]
	switch t.Kind {
	case api.TargetAllVMs:
		return true
	case api.TargetVM:
		return t.Value == in.UUID
	case api.TargetTag:
		return tagged && (t.TagValue == nil || *t.TagValue == value)
	}
	return false
}

func about(r api.ParsedRule, p Packet) bool {
	for _, x := range r.Ports {
		if p.Port >= x.First && p.Port <= x.Last {
			return true
		}
	}
	for _, x := range r.Types {
		if p.Type == x.Type && (x.Code == nil || *x.Code == p.Code) {
			return true
		}
	}
	return len(r.Ports) == 0 && len(r.Types) == 0
}

// checkShape holds a spec to what api promises of one.
func checkShape(t *testing.T, spec api.FirewallSpec, ports []api.PortSpec) {
	t.Helper()
	known := make(map[string]bool)
	for _, s := range spec.Sets {
		if !regexp.MustCompile(`^[a-z0-9_]{1,31}$`).MatchString(s.Name) || known[s.Name] || len(s.Members) == 0 {
			t.Errorf("set %q with %d members: its name is not valid or not unique, or it is empty", s.Name, len(s.Members))
		}
		known[s.Name] = true
	}
	used := make(map[string]bool)
	for _, e := range spec.Rules {
		if len(e.Ports) == 0 || !slices.IsSorted(e.Ports) {
			t.Errorf("ports %v: none, or not sorted", e.Ports)
		}
		for _, m := range e.Ports {
			if !slices.ContainsFunc(ports, func(p api.PortSpec) bool { return p.MAC == m && p.Firewall }) {
				t.Errorf("port %s is none of the server's", m)
			}
		}
		for _, s := range e.Peers {
			used[s] = true
			if !known[s] {
				t.Errorf("set %q is missing", s)
			}
		}
	}
	if len(used) != len(known) {
		t.Errorf("%d sets, %d used", len(known), len(used))
	}
}
