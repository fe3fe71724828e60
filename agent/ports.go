package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"nereid/api"
)

// portState is what the agent knows of its server's ports: one for each MAC.
type portState = setState[api.PortSpec]

// portKind is the set of a server's ports. A MAC is of one port at a time.
func portKind() kind[api.PortSpec] {
	return kind[api.PortSpec]{
		what: "port", file: portsFile, set: api.PortSet,
		key: func(p api.PortSpec) string {
			if p.MAC == "" {
				return ""
			}
			return api.PortKey(p.MAC, p.Instance)
		},
		slot: func(key string) string { mac, _, _ := strings.Cut(key, "/"); return mac },
		lost: "What the head node wants of instances' NICs could not be kept",
	}
}

func newPortState() portState { return newSetState(portKind()) }

// portsOfSpec are the ports that a spec names, as agents kept them that followed no set.
func portsOfSpec(last *api.NetworkSpec) *portState {
	if last == nil {
		return nil
	}
	s := newPortState()
	for _, port := range last.Ports {
		s.Items[strings.ToLower(port.MAC)] = port
	}
	if last.Kept != nil {
		for _, mac := range last.Kept.NICs {
			s.Stale[strings.ToLower(mac)] = true
		}
	}
	for _, g := range last.Gone {
		s.Gone[strings.ToLower(api.PortKey(g.MAC, g.Instance))] = g.ID
	}
	return &s
}

// listPorts gives the ports that keep wants, by MAC.
func listPorts(s portState, keep func(mac string) bool) []api.PortSpec {
	var out []api.PortSpec
	for _, mac := range slices.Sorted(maps.Keys(s.Items)) {
		if keep(mac) {
			out = append(out, s.Items[mac])
		}
	}
	return out
}

// gonePorts are the NICs that are to be removed, by key.
func gonePorts(s portState) []api.GoneNIC {
	var out []api.GoneNIC
	for _, key := range slices.Sorted(maps.Keys(s.Gone)) {
		mac, instance, _ := strings.Cut(key, "/")
		out = append(out, api.GoneNIC{ID: s.Gone[key], MAC: mac, Instance: instance})
	}
	return out
}

// accountSets are what the sets of accounts mean for ports; *copies has them.
type accountSets interface {
	firewall(owners map[string]*ownersPorts) (fw api.FirewallSpec, sets []string, known bool)
	route(s *api.NetworkSpec, ports []api.PortSpec, before *api.NetworkSpec)
	versions() string
}

// appliedPorts is the network that is applied: what the head node wants of it, the ports,
// and what accounts' sets mean for them. before is the one that was applied until now: of
// it is kept what stale ports need. A head node that wants nothing of it leaves NIC tags,
// bonds and the underlay as they were; where no rules are known, these too.
func appliedPorts(s portState, t *portTable, before, wanted *api.NetworkSpec, sets accountSets) *api.NetworkSpec {
	if before == nil && wanted == nil {
		return nil
	}
	if wanted == nil {
		w := *before
		w.Kept, wanted = nil, &w
	}
	next := *wanted
	next.SetsAt = sets.versions() // first: what comes meanwhile is told of by the next one
	fw, _, known := sets.firewall(t.owners)
	next.Ports, next.Gone, next.Firewall = t.named, gonePorts(s), fw
	next.PortsAt = fmt.Sprintf("%s:%d", s.Follow.Epoch, s.Follow.Since)
	sets.route(&next, t.all, before)
	if before == nil {
		return &next
	}
	out := &next
	if out.Kept = nil; len(s.Stale) > 0 {
		b := *before
		b.Ports = t.all
		out = keepNICs(&b, &next)
	}
	if !known {
		out.Firewall = before.Firewall
	}
	return out
}

// network is the network that is applied: see appliedPorts.
func (a *Agent) network(before, wanted *api.NetworkSpec) *api.NetworkSpec {
	a.ports.mu.Lock()
	defer a.ports.mu.Unlock()
	a.table.update(&a.ports.state)
	return appliedPorts(a.ports.state, &a.table, before, wanted, a.copies)
}

// refollow says which sets of accounts are to be followed for the ports that there are to
// be. It reports whether one of them is new.
func (a *Agent) refollow() (more bool) {
	a.ports.mu.Lock()
	defer a.ports.mu.Unlock()
	a.table.update(&a.ports.state)
	_, sets, _ := a.copies.firewall(a.table.owners)
	return a.copies.want(append(sets, a.copies.fabricSets(a.table.all)...))
}
