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
	m := n.segment(vni)
	if m == nil {
		return fmt.Errorf("apply map of VNI %d: %w", vni, ErrUnknownVNI)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
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

// segment is what is known of a VNI; nil: this server does not have it.
func (n *Network) segment(vni uint32) *segmentMap {
	n.maps.Lock()
	defer n.maps.Unlock()
	return n.segments[vni]
}

func (n *Network) allSegments() []*segmentMap {
	n.maps.Lock()
	defer n.maps.Unlock()
	return slices.Collect(maps.Values(n.segments))
}

// setLocal notes that a port is on a VNI here, or with nil that it is not, and changes
// the entries of its addresses. joined: it was put into the bridge just now, which
// then knows nothing of it.
func (n *Network) setLocal(ctx context.Context, vni uint32, mac string, port *localPort, joined bool) error {
	m := n.segment(vni)
	hw, err := parseMACBytes(mac)
	if m == nil || err != nil {
		return nil // it has no entries
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changes := m.setPort(hw, port, joined)
	if len(changes) == 0 {
		return nil
	}
	if err := n.System.Change(ctx, changes); err != nil {
		m.synced = false
		n.tidy(true) // all entries are compared, which no port waits for
		return fmt.Errorf("set the entries of NIC %s in VNI %d: %w", mac, vni, err)
	}
	return nil
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

// Lookup finds where an address of a VNI is, by the map in use.
func (n *Network) Lookup(vni uint32, ip netip.Addr) (e api.MapEntry, ok bool) {
	m := n.segment(vni)
	if m == nil {
		return e, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
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
	spec.Ports = slices.Concat(spec.Ports, n.wanted())
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
		n.maps.Lock()
		if n.segments == nil {
			n.segments = map[uint32]*segmentMap{}
		}
		m := n.segments[v.VNI]
		if m == nil {
			m = &segmentMap{vni: v.VNI}
			n.segments[v.VNI] = m
		}
		n.maps.Unlock()
		if err := n.settleMap(ctx, m, s, own, ports[v.VNI]); err != nil {
			errs = append(errs, fmt.Errorf("VNI %d: %w", v.VNI, err))
		}
	}
	n.maps.Lock()
	maps.DeleteFunc(n.segments, func(vni uint32, _ *segmentMap) bool { return !want[vni] })
	n.maps.Unlock()
	n.mu.Lock()
	maps.DeleteFunc(n.inUse, func(vni uint32, _ string) bool { return !want[vni] })
	n.mu.Unlock()
	return errors.Join(errs...)
}

// settleMap brings one segment to the links that are there now.
func (n *Network) settleMap(ctx context.Context, m *segmentMap, s *State, own netip.Addr, ports map[MAC]localPort) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	bridge, vxlan := index(s, BridgeOfVNI(m.vni)), index(s, VXLANDevice(m.vni))
	if m.bridge != bridge || m.vxlan != vxlan || m.own != own || !samePorts(m.ports, ports) {
		m.bridge, m.vxlan, m.own, m.ports, m.synced = bridge, vxlan, own, ports, false
	}
	if m.synced {
		return nil
	}
	return n.sync(ctx, m)
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
		if ports[p.VNI] == nil {
			ports[p.VNI] = map[MAC]localPort{}
		}
		ports[p.VNI][mac] = *localOf(p, s.Links[PortDevice(p.MAC)])
	}
	return ports
}

// localOf is what a VNI's entries need of a port.
func localOf(p api.PortSpec, l *Link) *localPort {
	lp := &localPort{index: l.Index}
	for _, a := range p.Addresses {
		if ip, err := parsePrefix(a.Address); err == nil {
			lp.addrs = append(lp.addrs, ip.Addr())
		}
	}
	return lp
}

func samePorts(a, b map[MAC]localPort) bool {
	return maps.EqualFunc(a, b, func(x, y localPort) bool { return x.index == y.index && slices.Equal(x.addrs, y.addrs) })
}
