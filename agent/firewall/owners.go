package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"nereid/api"
)

// Failure is an owner whose rules cannot be made. For its ports the rules that were in
// force stay, with new addresses and flags as far as these can be read.
type Failure struct {
	Owner  string
	Err    error    // the first thing that is wrong
	Closed []string // MACs of ports that had no rules before: they send and take nothing
}

// faults is what is wrong with the input, by owner: the first thing of each. A rule is
// of the owners of its ports, an address set of the owners of rules that name it, and
// what is of no port here is of the owner "".
type faults map[string]error

func (f faults) add(owner string, err error) {
	if f[owner] == nil {
		f[owner] = err
	}
}

func (f faults) Error() string {
	owners := slices.Sorted(maps.Keys(f))
	return fmt.Sprintf("owner %s, the first of %d whose rules cannot be made: %v", owners[0], len(owners), f[owners[0]])
}

// wanted is what Apply was asked for. Its slices are not changed.
type wanted struct {
	ports []Port
	fw    api.FirewallSpec
}

// portsByMAC finds ports, whatever the spelling of their MACs.
type portsByMAC map[string]*Port

func macKey(text string) string {
	if m, err := parseMAC(text); err == nil {
		return string(m[:])
	}
	return text
}

func ownersOf(ports []Port) portsByMAC {
	m := make(portsByMAC, len(ports))
	for i, p := range ports {
		if k := macKey(p.MAC); m[k] == nil {
			m[k] = &ports[i]
		}
	}
	return m
}

func (m portsByMAC) at(mac string) *Port { return m[macKey(mac)] }

// of is whose a rule of these ports is.
func (m portsByMAC) of(macs []string) []string {
	var owners []string
	for _, text := range macs {
		if p := m.at(text); p != nil {
			owners = append(owners, p.Owner)
		}
	}
	if owners == nil {
		return []string{""}
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// members are those of each address set.
func (in wanted) members() map[string][]string {
	m := make(map[string][]string, len(in.fw.Sets))
	for _, a := range in.fw.Sets {
		m[a.Name] = a.Members
	}
	return m
}

// keptName is an address set's name by its members: the name it has in the spec may
// stand for others by now.
func keptName(members []string) string {
	sum := sha256.Sum256([]byte(strings.Join(members, " ")))
	return "kept_" + hex.EncodeToString(sum[:12])
}

// without is the input where owners who are set aside have the rules that are in force
// for their ports. A port that has a firewall and had none before, or that cannot be
// read and was not there, is closed. closed names these ports by owner.
func (in wanted) without(aside faults, inForce wanted) (out wanted, closed map[string][]string) {
	closed = make(map[string][]string)
	before := ownersOf(inForce.ports)
	names := make(map[string]bool)
	macs := make(map[string]bool)
	for _, p := range in.ports {
		if aside[p.Owner] != nil {
			if macs[macKey(p.MAC)] || names[p.Interface] {
				continue // it is another port's
			}
			p = p.lastGood(before.at(p.MAC))
			if p.closed {
				closed[p.Owner] = append(closed[p.Owner], p.MAC)
			}
		}
		macs[macKey(p.MAC)], names[p.Interface] = true, true
		out.ports = append(out.ports, p)
	}
	owners := ownersOf(in.ports)
	used := make(map[string]bool)
	for _, e := range in.fw.Rules {
		if !slices.ContainsFunc(owners.of(e.Ports), func(o string) bool { return aside[o] == nil }) {
			continue
		}
		e.Ports = slices.DeleteFunc(slices.Clone(e.Ports), func(m string) bool {
			p := owners.at(m)
			return p != nil && aside[p.Owner] != nil
		})
		out.fw.Rules = append(out.fw.Rules, e)
		for _, name := range e.Peers {
			used[name] = true
		}
	}
	for _, a := range in.fw.Sets {
		if used[a.Name] {
			out.fw.Sets = append(out.fw.Sets, a)
		}
	}
	out.keep(aside, inForce)
	return out, closed
}

// lastGood is a port whose owner's rules cannot be made. old is the port of that MAC
// in force, or nil.
func (p Port) lastGood(old *Port) Port {
	if old != nil && (old.Owner != p.Owner || old.closed) {
		old = nil
	}
	_, err := parsePort(p)
	if err != nil && old != nil {
		p.Addresses, p.AllowedIPs = old.Addresses, old.AllowedIPs
		_, err = parsePort(p)
	}
	if err == nil && (!p.Firewall || old != nil && old.Firewall) {
		return p
	}
	return Port{Interface: p.Interface, Bridge: p.Bridge, Names: p.Names, Isolated: p.Isolated, closed: true,
		PortSpec: api.PortSpec{MAC: p.MAC, Instance: p.Instance, Owner: p.Owner, VNI: p.VNI, Firewall: true}}
}

// keep adds the rules in force for ports of owners who are set aside.
func (in *wanted) keep(aside faults, inForce wanted) {
	owners, have, members := ownersOf(in.ports), in.members(), inForce.members()
	names := make(map[string]string) // of sets, by the name they had
	for _, e := range inForce.fw.Rules {
		e.Ports = slices.DeleteFunc(slices.Clone(e.Ports), func(m string) bool {
			p := owners.at(m)
			return p == nil || aside[p.Owner] == nil || !p.Firewall || p.closed
		})
		if len(e.Ports) == 0 {
			continue
		}
		e.Peers = slices.Clone(e.Peers)
		for i, old := range e.Peers {
			if names[old] == "" {
				name := old
				if now, taken := have[name]; taken && !slices.Equal(now, members[old]) {
					name = keptName(members[old])
				}
				if _, there := have[name]; !there {
					have[name] = members[old]
					in.fw.Sets = append(in.fw.Sets, api.AddressSet{Name: name, Members: members[old]})
				}
				names[old] = name
			}
			e.Peers[i] = names[old]
		}
		in.fw.Rules = append(in.fw.Rules, e)
	}
}

// rulesByOwner are the rules of each owner's ports, one by one and sorted, with address
// sets named by what is in them.
func (in wanted) rulesByOwner() map[string][]string {
	owners, byName := ownersOf(in.ports), make(map[string]string)
	for name, m := range in.members() {
		byName[name] = keptName(m)
	}
	out := make(map[string][]string)
	for _, e := range in.fw.Rules {
		e.Peers = slices.Clone(e.Peers)
		for i, name := range e.Peers {
			e.Peers[i] = byName[name]
		}
		rule := contentOf(e)
		for _, m := range e.Ports {
			if p := owners.at(m); p != nil && p.Firewall {
				out[p.Owner] = append(out[p.Owner], macKey(m)+" "+rule)
			}
		}
	}
	for _, rules := range out {
		slices.Sort(rules)
	}
	return out
}

// crowd are the owners to set aside next: n of those whose rules are not the ones in
// force, the heaviest first.
func (in wanted) crowd(c crowded, aside faults, inForce wanted, n int) faults {
	now, before := in.rulesByOwner(), inForce.rulesByOwner()
	next := make(faults)
	for _, o := range c.owners() {
		if len(next) < n && aside[o] == nil && !slices.Equal(now[o], before[o]) {
			next.add(o, c[o].err)
		}
	}
	return next
}

// compiled is what an input comes to.
type compiled struct {
	in       wanted // in which owners who are set aside have what was in force
	state    *state
	failures []Failure // by owner
}

// compile makes the ruleset of an input, where inForce is what is in force. Owners whose rules cannot be made are set
// aside until the rest can: all of whom something cannot be read, and when the limits
// are passed, one, two, four and so on.
func (f *Firewall) compile(in, inForce wanted, o Options, n *numbers) (compiled, error) {
	aside, closed, atOnce := make(faults), map[string][]string(nil), 1
	for try := in; ; {
		s, err := parseInput(try.ports, try.fw, o)
		if err == nil {
			c := compiled{in: try}
			s.room = f.room
			if c.state, err = build(s, n, f.applied, !f.Stateless); err == nil {
				for _, o := range slices.Sorted(maps.Keys(aside)) {
					c.failures = append(c.failures, Failure{o, aside[o], closed[o]})
				}
				return c, nil
			}
		}
		var next faults
		if heavy := (crowded)(nil); errors.As(err, &heavy) {
			next = in.crowd(heavy, aside, inForce, atOnce)
			atOnce *= 2
		} else if !errors.As(err, &next) {
			return compiled{}, err
		}
		before := len(aside)
		for o, err := range next {
			aside.add(o, err)
		}
		if len(aside) == before {
			return compiled{}, err // nothing is left that could be set aside
		}
		try, closed = in.without(aside, inForce)
	}
}
