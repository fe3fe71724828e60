package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"nereid/agent/firewall"
	"nereid/agent/network"
	"nereid/api"
)

// bridges are the names that the bridge of a NIC tag and VLAN may have: one of each tag
// on the same NIC or bond, whose segment is the same.
func bridges(s api.NetworkSpec, tag string, vlan int) []string {
	names := []string{network.BridgeOfTag(tag, vlan)}
	i := slices.IndexFunc(s.Tags, func(t api.TagSpec) bool { return t.Name == tag })
	if i < 0 {
		return names
	}
	for _, t := range s.Tags {
		if t.MAC == s.Tags[i].MAC && t.Bond == s.Tags[i].Bond && t.Name != tag {
			names = append(names, network.BridgeOfTag(t.Name, vlan))
		}
	}
	slices.Sort(names) // so that ports of all these tags have the same one first
	return names
}

func bridgesOf(s api.NetworkSpec, p api.PortSpec) []string {
	if p.VNI != 0 {
		return []string{network.BridgeOfVNI(p.VNI)}
	}
	return bridges(s, p.Tag, p.VLAN)
}

// filterPorts are the ports of a spec with the names of their devices.
func filterPorts(s api.NetworkSpec) []firewall.Port {
	ports := make([]firewall.Port, len(s.Ports))
	for i, p := range s.Ports {
		ports[i] = filterPort(s, p)
	}
	return ports
}

// filterPort is a port, on a server with the spec's tags, with the names of its devices.
// The server itself is out of its reach, but on segments on which it has an address.
func filterPort(s api.NetworkSpec, p api.PortSpec) firewall.Port {
	names := bridgesOf(s, p)
	own := p.VNI == 0 && (slices.Contains(bridges(s, "admin", 0), names[0]) ||
		s.Underlay != nil && slices.Contains(bridges(s, s.Underlay.Tag, s.Underlay.VLAN), names[0]))
	return firewall.Port{Interface: network.PortDevice(p.MAC), Bridge: names[0], Names: names[1:], Isolated: !own, PortSpec: p}
}

// filterOptions are what is not of a port: fabrics reach no server, with ports or
// without.
func filterOptions(s api.NetworkSpec) firewall.Options {
	o := firewall.Options{PortPrefix: network.PortPrefix, IsolatedPrefixes: network.BridgePrefixes()}
	if s.Underlay != nil {
		o.Underlay = s.Underlay.Subnets
	}
	for _, v := range s.VNIs {
		o.Isolated = append(o.Isolated, network.BridgeOfVNI(v.VNI))
	}
	return o
}

// rulesFailed says whose firewall rules could not be made, and what that means for
// their NICs; empty: nobody's.
func rulesFailed(failed []firewall.Failure) string {
	if len(failed) == 0 {
		return ""
	}
	accounts := make([]string, len(failed))
	for i, f := range failed {
		accounts[i] = fmt.Sprintf("account %s (%v", cmp.Or(f.Owner, "unknown"), f.Err)
		if len(f.Closed) > 0 {
			accounts[i] += "; NICs that had no rules before are closed: " + andMore(f.Closed)
		}
		accounts[i] += ")"
	}
	return "Firewall rules cannot be made, and the NICs of their accounts keep the rules of before: " + andMore(accounts) +
		"; correct what is named, a rule with nereid firewall update RULE or nereid firewall disable RULE, a NIC with nereid nic update MAC."
}

// andMore lists the first five, and counts the others.
func andMore(names []string) string {
	const most = 5
	s := strings.Join(names[:min(len(names), most)], ", ")
	if n := len(names) - most; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}
