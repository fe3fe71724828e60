package agent

import (
	"slices"
	"strings"

	"nereid/api"
)

// portTable lists the ports of a server as its agent works with them. It goes with a
// portState, whose changes it takes in: a change costs what changed, and a copy of the
// list. Lists that it gives are not changed later. It is guarded by the state's mutex.
type portTable struct {
	all    []api.PortSpec          // by MAC
	named  []api.PortSpec          // the same without stale ones
	owners map[string]*ownersPorts // of those that are named and have a firewall
	stale  bool                    // there were stale ones
	made   uint64                  // versions that were given
}

// ownersPorts are the ports of an account that have a firewall.
type ownersPorts struct {
	ports   []api.PortSpec // by MAC
	version uint64         // no other list had it
}

// fewPorts is of how many changes each is made by itself; more are a new table.
const fewPorts = 16

// update takes in what changed of a state since it was last called.
func (t *portTable) update(s *portState) {
	touched := s.touched
	s.touched = nil
	if t.owners == nil || t.stale || len(s.Stale) > 0 || len(touched) > fewPorts {
		t.build(s)
		return
	}
	for _, mac := range touched {
		i, was := findPort(t.all, mac)
		if was {
			t.own(t.all[i].Owner, mac, nil)
		}
		var port *api.PortSpec
		if p, is := s.Items[mac]; is {
			port = &p
			if p.Firewall {
				t.own(p.Owner, mac, port)
			}
		}
		t.all = withPort(t.all, mac, port)
	}
	t.named = t.all
}

// build makes the table of all that there is.
func (t *portTable) build(s *portState) {
	t.all = listPorts(*s, func(string) bool { return true })
	t.named, t.stale = t.all, len(s.Stale) > 0
	if t.stale {
		t.named = listPorts(*s, func(mac string) bool { return !s.Stale[mac] })
	}
	t.owners = map[string]*ownersPorts{}
	for _, p := range t.named {
		if !p.Firewall {
			continue
		}
		o := t.owners[p.Owner]
		if o == nil {
			t.made++
			o = &ownersPorts{version: t.made}
			t.owners[p.Owner] = o
		}
		o.ports = append(o.ports, p)
	}
}

// own gives an account a port in place of that with the MAC; nil: none.
func (t *portTable) own(owner, mac string, port *api.PortSpec) {
	var ports []api.PortSpec
	if o := t.owners[owner]; o != nil {
		ports = o.ports
	}
	if ports = withPort(ports, mac, port); len(ports) == 0 {
		delete(t.owners, owner)
		return
	}
	t.made++
	t.owners[owner] = &ownersPorts{ports: ports, version: t.made}
}

// findPort finds a MAC, in lower case, in a list by MAC.
func findPort(list []api.PortSpec, mac string) (int, bool) {
	return slices.BinarySearchFunc(list, mac, func(p api.PortSpec, mac string) int { return strings.Compare(strings.ToLower(p.MAC), mac) })
}

// withPort is a list with a port in place of that with the MAC; nil: without.
func withPort(list []api.PortSpec, mac string, port *api.PortSpec) []api.PortSpec {
	i, there := findPort(list, mac)
	if !there && port == nil {
		return list
	}
	out := append(make([]api.PortSpec, 0, len(list)+1), list[:i]...)
	if port != nil {
		out = append(out, *port)
	}
	if there {
		i++
	}
	return slices.Clip(append(out, list[i:]...))
}
