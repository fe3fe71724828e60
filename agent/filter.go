package agent

import (
	"slices"

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
		names := bridgesOf(s, p)
		ports[i] = firewall.Port{Interface: network.PortDevice(p.MAC), Bridge: names[0], Names: names[1:], PortSpec: p}
	}
	return ports
}

// filterOptions keeps the server itself out of reach of instances, but for segments
// on which it has an address of its own.
func filterOptions(s api.NetworkSpec) firewall.Options {
	o := firewall.Options{PortPrefix: network.PortPrefix, IsolatedPrefixes: network.BridgePrefixes()}
	own := map[string]bool{}
	for _, b := range bridges(s, "admin", 0) {
		own[b] = true
	}
	if s.Underlay != nil {
		o.Underlay = s.Underlay.Subnets
		for _, b := range bridges(s, s.Underlay.Tag, s.Underlay.VLAN) {
			own[b] = true
		}
	}
	for _, v := range s.VNIs {
		o.Isolated = append(o.Isolated, network.BridgeOfVNI(v.VNI))
	}
	for _, p := range s.Ports {
		for _, b := range bridgesOf(s, p) {
			if p.VNI == 0 && !own[b] {
				own[b] = true
				o.Isolated = append(o.Isolated, b)
			}
		}
	}
	return o
}
