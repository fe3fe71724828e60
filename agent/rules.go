package agent

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"nereid/api"
)

// ruleIndex is a server's firewall by the ports that it is about.
type ruleIndex struct {
	fw   api.FirewallSpec
	keys []string            // of fw.Rules: rules with the same differ in their ports only
	sets map[string][]string // members, by name
	of   map[string][]int    // by MAC in lower case: places in fw.Rules
}

// indexRules makes the index of the rules of about so many ports.
func indexRules(fw api.FirewallSpec, ports int) *ruleIndex {
	x := &ruleIndex{fw: fw, keys: make([]string, len(fw.Rules)), sets: make(map[string][]string, len(fw.Sets)), of: make(map[string][]int, ports)}
	for _, s := range fw.Sets {
		x.sets[s.Name] = s.Members
	}
	for i, e := range fw.Rules {
		for _, mac := range e.Ports {
			mac = strings.ToLower(mac)
			x.of[mac] = append(x.of[mac], i)
		}
		e.Ports = nil
		key, _ := json.Marshal(e)
		x.keys[i] = string(key)
	}
	return x
}

// port are the rules of one port, with the address sets that they name.
func (x *ruleIndex) port(mac string) (fw api.FirewallSpec) {
	named := map[string]bool{}
	for _, i := range x.of[strings.ToLower(mac)] {
		e := x.fw.Rules[i]
		fw.Rules = append(fw.Rules, e)
		for _, name := range e.Peers {
			if members, there := x.sets[name]; there && !named[name] {
				named[name] = true
				fw.Sets = append(fw.Sets, api.AddressSet{Name: name, Members: members})
			}
		}
	}
	return fw
}

// same reports whether two indexes say the same of all ports but some.
func (x *ruleIndex) same(o *ruleIndex, but map[string]bool) bool {
	for name, members := range x.sets {
		if others, there := o.sets[name]; there && !slices.Equal(members, others) {
			return false
		}
	}
	for mac, mine := range x.of {
		if !but[mac] && !slices.EqualFunc(mine, o.of[mac], func(i, j int) bool { return x.keys[i] == o.keys[j] }) {
			return false
		}
	}
	for mac := range o.of {
		if _, there := x.of[mac]; !there && !but[mac] {
			return false
		}
	}
	return true
}

// ruled is the spec whose rules are in force, or will be with what the NICs' workers
// have to do.
type ruled struct {
	spec    api.NetworkSpec
	rules   *ruleIndex
	failing map[string]bool // accounts whose rules could not be made
}

// index is the index of a spec's rules: this one's, where they are the same.
func (r *ruled) index(s api.NetworkSpec) *ruleIndex {
	if r != nil && reflect.DeepEqual(r.spec.Firewall, s.Firewall) {
		return r.rules
	}
	return indexRules(s.Firewall, len(s.Ports))
}

// byPorts reports whether another spec's rules are made by making those of NICs that are
// touched, which accounts have.
func (r *ruled) byPorts(s api.NetworkSpec, x *ruleIndex, touched, accounts map[string]bool) bool {
	if r == nil || !reflect.DeepEqual(r.spec.Tags, s.Tags) || !reflect.DeepEqual(r.spec.Underlay, s.Underlay) || !reflect.DeepEqual(r.spec.VNIs, s.VNIs) {
		return false
	}
	for a := range maps.Keys(accounts) {
		if r.failing[a] {
			return false
		}
	}
	return x == r.rules || r.rules.same(x, touched)
}

// infrastructure is a spec without its ports and their rules.
func infrastructure(s api.NetworkSpec) api.NetworkSpec {
	s.Ports, s.Gone, s.PortsAt, s.SetsAt, s.Firewall = nil, nil, "", "", api.FirewallSpec{}
	return s
}
