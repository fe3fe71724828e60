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

// appliedPorts is the network that is applied: what the head node wants of it, and the ports.
// before is the one that was applied until now: of it is kept what stale ports need. A
// head node that wants nothing of it leaves it as it was, but for the ports. rules says what
// rules mean for ports; known is false while it knows none, which leaves them as they were.
func appliedPorts(s portState, before, wanted *api.NetworkSpec, rules func([]api.PortSpec) (fw api.FirewallSpec, known bool)) *api.NetworkSpec {
	if before == nil && wanted == nil {
		return nil
	}
	all := listPorts(s, func(string) bool { return true })
	named := slices.Clip(all)
	if len(s.Stale) > 0 {
		named = listPorts(s, func(mac string) bool { return !s.Stale[mac] })
	}
	at := fmt.Sprintf("%s:%d", s.Follow.Epoch, s.Follow.Since)
	if wanted == nil {
		n := *before
		n.Ports, n.Gone, n.PortsAt, n.Kept = all, gonePorts(s), at, nil
		if fw, known := rules(named); known {
			n.Firewall = fw
			keepRules(before, &n, s.Stale)
		}
		if len(named) < len(all) {
			n.Kept = &api.Kept{NICs: slices.Sorted(maps.Keys(s.Stale))}
			if before.Kept != nil {
				n.Kept.VNIs = before.Kept.VNIs
			}
		}
		return &n
	}
	next := *wanted
	next.Ports, next.Gone, next.PortsAt = named, gonePorts(s), at
	next.Firewall, _ = rules(named)
	if before != nil {
		b := *before
		b.Ports = all
		before = &b
	}
	return keepNICs(before, &next)
}

// network is the network that is applied: see appliedPorts.
func (a *Agent) network(before, wanted *api.NetworkSpec) *api.NetworkSpec {
	a.ports.mu.Lock()
	defer a.ports.mu.Unlock()
	return appliedPorts(a.ports.state, before, wanted, func(ports []api.PortSpec) (api.FirewallSpec, bool) {
		fw, _, known := a.copies.firewall(ports)
		return fw, known
	})
}

// refollow says which sets of accounts are to be followed for the ports that there are to
// be. It reports whether one of them is new.
func (a *Agent) refollow() (more bool) {
	a.ports.mu.Lock()
	s := a.ports.state
	ports := listPorts(s, func(mac string) bool { return !s.Stale[mac] })
	a.ports.mu.Unlock()
	_, sets, _ := a.copies.firewall(ports)
	return a.copies.want(sets)
}
