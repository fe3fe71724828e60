package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"nereid/api"
)

// ErrUnknownVNI says that a map is of a VNI that the last spec does not have.
var ErrUnknownVNI = errors.New("this server's spec does not have the VNI")

// ApplyMap takes a VNI's map, or a delta of it, and brings the kernel's entries to
// it: forwarding entries for MACs elsewhere and here, and neighbours that ARP and
// neighbour discovery are answered from. What is older than what is known is
// ignored. After a failure in the middle, the next call or the next Apply does the
// rest. An error also tells of entries that cannot be read; the others are used.
func (n *Network) ApplyMap(ctx context.Context, vni uint32, fm api.FabricMap) error {
	n.maps.Lock()
	defer n.maps.Unlock()
	m := n.segments[vni]
	if m == nil {
		return fmt.Errorf("apply map of VNI %d: %w", vni, ErrUnknownVNI)
	}
	changes, all, bad := m.update(fm)
	var err error
	if all || !m.synced {
		m.synced = false
		err = n.sync(ctx, m)
	} else if len(changes) > 0 {
		if err = n.System.Change(ctx, changes); err != nil {
			m.synced = false
		}
	}
	if err != nil {
		err = fmt.Errorf("apply map of VNI %d: %w", vni, err)
	}
	n.note(m)
	if bad > 0 {
		err = errors.Join(err, fmt.Errorf("apply map of VNI %d: %d entries cannot be read", vni, bad))
	}
	return err
}

// note keeps which map a segment uses, for those who do not wait for a change.
func (n *Network) note(m *segmentMap) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.inUse == nil {
		n.inUse = map[uint32]string{}
	}
	if m.have {
		n.inUse[m.vni] = fmt.Sprintf("%s:%d", m.epoch, m.version)
	}
}

// Maps are the maps in use, by VNI: epoch and version, joined by a colon. It waits for
// no change that is under way.
func (n *Network) Maps() map[uint32]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := maps.Clone(n.inUse)
	if v == nil {
		v = map[uint32]string{}
	}
	return v
}

// MapState is what to ask the head node for the next changes of a VNI's map with.
// It is not known before the first map.
func (n *Network) MapState(vni uint32) (epoch string, since uint64, known bool) {
	n.maps.Lock()
	defer n.maps.Unlock()
	m := n.segments[vni]
	if m == nil || !m.have {
		return "", 0, false
	}
	return m.epoch, m.version, true
}

// Lookup finds where an address of a VNI is, by the map in use.
func (n *Network) Lookup(vni uint32, ip netip.Addr) (e api.MapEntry, ok bool) {
	n.maps.Lock()
	defer n.maps.Unlock()
	m := n.segments[vni]
	if m == nil {
		return e, false
	}
	k, ok := m.entries[ip.As16()]
	if !ok {
		return e, false
	}
	return api.MapEntry{IP: ip.Unmap().String(), MAC: k.mac.String(), Underlay: m.underlays[k.underlay].String(), Version: k.version}, true
}

// sync compares a segment's entries with the kernel's as a whole.
func (n *Network) sync(ctx context.Context, m *segmentMap) error {
	if m.bridge == 0 || m.vxlan == 0 {
		return nil // Apply will say why, and come back
	}
	have, err := n.System.Table(ctx, m.bridge, m.vxlan)
	if err != nil {
		return fmt.Errorf("read entries: %w", err)
	}
	if err := n.System.Change(ctx, m.differences(have)); err != nil {
		return err
	}
	m.synced = true
	return nil
}

// settleMaps brings the segments to a spec and the links that are there now.
func (n *Network) settleMaps(ctx context.Context, spec api.NetworkSpec, s *State) error {
	n.maps.Lock()
	defer n.maps.Unlock()
	if n.segments == nil {
		n.segments = map[uint32]*segmentMap{}
	}
	ports := localPorts(spec, s)
	var own netip.Addr
	if spec.Underlay != nil {
		if p, err := parsePrefix(spec.Underlay.Address); err == nil {
			own = p.Addr()
		}
	}
	want := map[uint32]bool{}
	var errs []error
	for _, v := range spec.VNIs {
		want[v.VNI] = true
		m := n.segments[v.VNI]
		if m == nil {
			m = &segmentMap{vni: v.VNI}
			n.segments[v.VNI] = m
		}
		bridge, vxlan := index(s, BridgeOfVNI(v.VNI)), index(s, VXLANDevice(v.VNI))
		if m.bridge != bridge || m.vxlan != vxlan || m.own != own || !samePorts(m.ports, ports[v.VNI]) {
			m.bridge, m.vxlan, m.own, m.ports, m.synced = bridge, vxlan, own, ports[v.VNI], false
		}
		if !m.synced {
			if err := n.sync(ctx, m); err != nil {
				errs = append(errs, fmt.Errorf("VNI %d: %w", v.VNI, err))
			}
		}
	}
	maps.DeleteFunc(n.segments, func(vni uint32, _ *segmentMap) bool { return !want[vni] })
	n.mu.Lock()
	maps.DeleteFunc(n.inUse, func(vni uint32, _ string) bool { return !want[vni] })
	n.mu.Unlock()
	return errors.Join(errs...)
}

// index is a link's; 0 when it is not there or not ours.
func index(s *State, name string) int32 {
	if l := s.Links[name]; l != nil && l.class() != "" {
		return l.Index
	}
	return 0
}

// localPorts are the spec's ports that are in their VNIs' bridges.
func localPorts(spec api.NetworkSpec, s *State) map[uint32]map[MAC]localPort {
	ports := map[uint32]map[MAC]localPort{}
	for _, p := range spec.Ports {
		mac, err := parseMACBytes(p.MAC)
		i := index(s, PortDevice(p.MAC))
		if p.VNI == 0 || err != nil || i == 0 || s.Links[PortDevice(p.MAC)].Master != BridgeOfVNI(p.VNI) {
			continue
		}
		lp := localPort{index: i}
		for _, a := range p.Addresses {
			if ip, err := parsePrefix(a.Address); err == nil {
				lp.addrs = append(lp.addrs, ip.Addr())
			}
		}
		if ports[p.VNI] == nil {
			ports[p.VNI] = map[MAC]localPort{}
		}
		ports[p.VNI][mac] = lp
	}
	return ports
}

func samePorts(a, b map[MAC]localPort) bool {
	return maps.EqualFunc(a, b, func(x, y localPort) bool { return x.index == y.index && slices.Equal(x.addrs, y.addrs) })
}
