package network

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"nereid/api"
)

// Report is what there is: NICs and bonds as they are now, what the last Apply
// could not do, and the maps in use. Dropped packets are not counted here.
func (n *Network) Report(ctx context.Context) (api.NetworkReport, error) {
	s, err := n.System.Read(ctx)
	if err != nil {
		return api.NetworkReport{}, fmt.Errorf("read network: %w", err)
	}
	n.mu.Lock()
	r := api.NetworkReport{Applied: n.applied, Problems: slices.Clone(n.problems)}
	tags := n.tags
	spec := n.told
	n.mu.Unlock()
	spec.Ports = slices.Concat(spec.Ports, n.wanted())
	r.Maps = n.Maps()
	r.Unexpected, r.Gone = s.unexpected(spec)
	for _, name := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[name]
		if l.Kind != "bond" && !(l.device() && (l.Kind == "" || tags[name] != nil || bondOf(s, l) != "")) {
			continue
		}
		r.Links = append(r.Links, n.linkReport(s, l, tags[name]))
	}
	return r, nil
}

// unexpected are the instances' NICs that are there and that a spec does not expect,
// and the ids of those that it says are gone and that are.
func (s *State) unexpected(spec api.NetworkSpec) (nics []api.UnexpectedNIC, gone []string) {
	ports := make(map[string]api.PortSpec, len(spec.Ports))
	for _, p := range spec.Ports {
		ports[PortDevice(p.MAC)] = p
	}
	left := slices.Clone(spec.Gone)
	for _, name := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[name]
		if l.class() != classPort {
			continue
		}
		mac, instance := portOf(l.Alias)
		left = slices.DeleteFunc(left, func(g api.GoneNIC) bool { return isGone([]api.GoneNIC{g}, mac, instance) })
		p, named := ports[name]
		kept := spec.Kept != nil && slices.ContainsFunc(spec.Kept.NICs, func(m string) bool { return sameMAC(m, mac) })
		if named && !kept || isGone(spec.Gone, mac, instance) {
			continue
		}
		u := api.UnexpectedNIC{MAC: mac, Instance: instance, Owner: p.Owner, Tag: p.Tag, VLAN: p.VLAN, VNI: p.VNI, Closed: !named, Device: name, Bridge: l.Master}
		for _, a := range p.Addresses {
			u.Addresses = append(u.Addresses, a.Address)
		}
		nics = append(nics, u)
	}
	for _, g := range left {
		gone = append(gone, g.ID)
	}
	return nics, gone
}

func bondOf(s *State, l *Link) string {
	if m := s.Links[l.Master]; m != nil && m.Kind == "bond" {
		return m.Name
	}
	return ""
}

func (n *Network) linkReport(s *State, l *Link, tags []string) api.LinkReport {
	r := api.LinkReport{
		Name: l.Name, MAC: l.hardware(), Bond: bondOf(s, l), NICTags: tags, Up: l.Carrier, MTU: l.MTU,
		RxBytes: l.Stats.RxBytes, TxBytes: l.Stats.TxBytes, RxErrors: l.Stats.RxErrors, TxErrors: l.Stats.TxErrors,
		RxDropped: l.Stats.RxDropped, TxDropped: l.Stats.TxDropped,
	}
	if l.Carrier {
		r.SpeedMbps = n.speed(l.Name)
	}
	if l.Kind == "bond" && l.Mode == modeLACP {
		r.LACP = "down"
		for _, m := range s.ports(l.Name) {
			if state := lacp(m); lacpOrder(state) > lacpOrder(r.LACP) {
				r.LACP = state
			}
		}
	} else if b := s.Links[r.Bond]; b != nil && b.Mode == modeLACP {
		r.LACP = lacp(l)
	}
	return r
}

// Bits of the state of an 802.3ad port (IEEE 802.1AX, 6.4.2.3).
const (
	lacpSync       = 1 << 3
	lacpCollecting = 1 << 4
	lacpDefaulted  = 1 << 6
)

// lacp is a member's state: collecting when frames from it are taken, waiting
// while the partner does not let it, down without a link.
func lacp(m *Link) string {
	switch {
	case !m.Carrier:
		return "down"
	case m.Member.Actor&lacpCollecting != 0 && m.Member.Actor&lacpDefaulted == 0 && m.Member.Partner&lacpSync != 0:
		return "collecting"
	}
	return "waiting"
}

func lacpOrder(state string) int {
	return slices.Index([]string{"down", "waiting", "collecting"}, state)
}

// speed reads a link's speed in Mbit/s. The kernel says -1, or an error, when it
// does not know.
func (n *Network) speed(name string) int {
	root := n.Sys
	if root == "" {
		root = "/sys"
	}
	b, err := os.ReadFile(filepath.Join(root, "class", "net", name, "speed"))
	if err != nil {
		return 0
	}
	mbps, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || mbps < 0 {
		return 0
	}
	return mbps
}
