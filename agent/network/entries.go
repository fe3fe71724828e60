package network

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"nereid/api"
)

// segmentMap is what is known of one VNI: its map, as the head node sent it, and
// its ports on this server. It is compact, as a VNI may have 100,000 entries: the
// underlay addresses, of which there are few, are kept once.
type segmentMap struct {
	mu sync.Mutex // held while entries are changed; before it, if at all, Network.maps

	vni           uint32
	bridge, vxlan int32 // indexes; 0: not there
	own           netip.Addr
	ports         map[MAC]localPort

	have      bool // there was a map
	epoch     string
	version   uint64
	entries   map[[16]byte]mapped
	underlays []netip.Addr

	synced bool // the kernel has what this has
}

type localPort struct {
	index int32
	addrs []netip.Addr
}

// mapped is one entry: 16 bytes beside its key's 16.
type mapped struct {
	version  uint64
	mac      MAC
	underlay uint16 // index of underlays
}

// maxUnderlays is how many servers one VNI can be on.
const maxUnderlays = 1 << 16

// place is where an entry's MAC is; not ok when it should be here and is not.
func (m *segmentMap) place(e mapped) (p Place, ok bool) {
	u := m.underlays[e.underlay]
	if u == m.own {
		port, ok := m.ports[e.mac]
		return Place{Port: port.index}, ok
	}
	return Place{Port: m.vxlan, Underlay: u}, true
}

// neighbour says whether the bridge answers for an entry: always for what is
// elsewhere, and for IPv4 here. Here, IPv6 is answered by its owner (doc.go).
func (m *segmentMap) neighbour(ip netip.Addr, e mapped) bool {
	return ip.Is4() || m.underlays[e.underlay] != m.own
}

func (m *segmentMap) underlay(a netip.Addr) (uint16, bool) {
	if i := slices.Index(m.underlays, a); i >= 0 {
		return uint16(i), true
	}
	if len(m.underlays) == maxUnderlays {
		return 0, false
	}
	m.underlays = append(m.underlays, a)
	return uint16(len(m.underlays) - 1), true
}

// deciding is the entry that says where a MAC is: of several the newest, and of
// those that of the greatest address.
type deciding struct {
	e   mapped
	key [16]byte
	set bool
}

func (d deciding) yields(e mapped, key [16]byte) bool {
	return !d.set || cmp.Or(cmp.Compare(e.version, d.e.version), bytes.Compare(key[:], d.key[:])) > 0
}

// where finds where each of these MACs is. Ports here that the map does not have
// are where they are.
func (m *segmentMap) where(macs map[MAC]bool) map[MAC]Place {
	newest := make(map[MAC]deciding, len(macs))
	for key, e := range m.entries {
		if macs[e.mac] && newest[e.mac].yields(e, key) {
			newest[e.mac] = deciding{e, key, true}
		}
	}
	places := make(map[MAC]Place, len(macs))
	for mac := range macs {
		if d := newest[mac]; d.set {
			if p, ok := m.place(d.e); ok {
				places[mac] = p
			}
		} else if port, ok := m.ports[mac]; ok {
			places[mac] = Place{Port: port.index}
		}
	}
	return places
}

// table is all that the kernel should have.
func (m *segmentMap) table() Table {
	t := Table{Forward: make(map[MAC]Place, len(m.entries)), Neighbours: make(map[netip.Addr]MAC, len(m.entries))}
	newest := make(map[MAC]deciding, len(m.entries))
	for key, e := range m.entries {
		ip := netip.AddrFrom16(key).Unmap()
		if m.neighbour(ip, e) {
			t.Neighbours[ip] = e.mac
		}
		if !newest[e.mac].yields(e, key) {
			continue
		}
		newest[e.mac] = deciding{e, key, true}
		if p, ok := m.place(e); ok {
			t.Forward[e.mac] = p
		} else {
			delete(t.Forward, e.mac)
		}
	}
	for mac, port := range m.ports {
		if !newest[mac].set {
			t.Forward[mac] = Place{Port: port.index}
		}
		for _, ip := range port.addrs {
			if _, ok := m.entries[ip.As16()]; !ok && ip.Is4() {
				t.Neighbours[ip] = mac
			}
		}
	}
	return t
}

// update takes a map or a delta. It returns what changed of the kernel's entries;
// all means that they have to be compared as a whole. bad counts entries that
// could not be read.
func (m *segmentMap) update(fm api.FabricMap) (changes []Change, all bool, bad int) {
	same := m.have && fm.Epoch == m.epoch
	if same && fm.Version <= m.version && (!fm.Full || fm.Version < m.version) {
		return nil, false, 0 // seen already
	}
	type change struct {
		ip  [16]byte
		e   mapped
		del bool
	}
	edits := make([]change, 0, len(fm.Entries))
	for _, e := range fm.Entries {
		ip, err := parseAddr(e.IP)
		if err != nil {
			bad++
			continue
		}
		c := change{ip: ip.As16(), del: e.Deleted}
		if !e.Deleted {
			mac, err1 := parseMACBytes(e.MAC)
			u, err2 := parseAddr(e.Underlay)
			var ok bool
			if err1 == nil && err2 == nil {
				c.e.underlay, ok = m.underlay(u)
			}
			if !ok {
				bad++
				continue
			}
			c.e.mac, c.e.version = mac, e.Version
		}
		c.e.version = e.Version
		edits = append(edits, c)
	}
	m.have, m.epoch, m.version = true, fm.Epoch, fm.Version
	if fm.Full {
		m.entries = make(map[[16]byte]mapped, len(edits))
		for _, c := range edits {
			if !c.del {
				m.entries[c.ip] = c.e
			}
		}
		return nil, true, bad
	}
	macs := map[MAC]bool{}
	edits = slices.DeleteFunc(edits, func(c change) bool {
		old, ok := m.entries[c.ip]
		if ok && old.version > c.e.version {
			return true // of one address the greater version wins
		}
		if ok {
			macs[old.mac] = true
		}
		if !c.del {
			macs[c.e.mac] = true
		}
		return false
	})
	before := m.where(macs)
	for _, c := range edits {
		ip := netip.AddrFrom16(c.ip).Unmap()
		old, ok := m.entries[c.ip]
		had := ok && m.neighbour(ip, old)
		if c.del {
			delete(m.entries, c.ip)
			if mac, ok := m.localNeighbour(ip); ok {
				changes = append(changes, Change{Dev: m.bridge, IP: ip, MAC: mac})
			} else if had {
				changes = append(changes, Change{Delete: true, Dev: m.bridge, IP: ip, MAC: old.mac})
			}
			continue
		}
		m.entries[c.ip] = c.e
		if m.neighbour(ip, c.e) {
			changes = append(changes, Change{Dev: m.bridge, IP: ip, MAC: c.e.mac})
		} else if had {
			changes = append(changes, Change{Delete: true, Dev: m.bridge, IP: ip, MAC: old.mac})
		}
	}
	after := m.where(macs)
	for mac := range macs {
		changes = append(changes, m.forward(mac, before, after)...)
	}
	return changes, false, bad
}

// setPort notes where a port is here; nil: nowhere. It returns what changed of the
// kernel's entries. A port that joined the bridge just now has none.
func (m *segmentMap) setPort(mac MAC, port *localPort, joined bool) (changes []Change) {
	macs := map[MAC]bool{mac: true}
	before := m.where(macs)
	old := m.ports[mac]
	if port == nil {
		delete(m.ports, mac)
		port = &localPort{}
	} else {
		if m.ports == nil {
			m.ports = map[MAC]localPort{}
		}
		m.ports[mac] = *port
	}
	if p, ok := before[mac]; ok && joined && p.Port == port.index {
		delete(before, mac)
	}
	changes = m.forward(mac, before, m.where(macs))
	unmapped := func(ip netip.Addr) bool {
		_, ok := m.entries[ip.As16()]
		return ip.Is4() && !ok
	}
	for _, ip := range old.addrs {
		if _, taken := m.localNeighbour(ip); !taken && unmapped(ip) {
			changes = append(changes, Change{Delete: true, Dev: m.bridge, IP: ip, MAC: mac})
		}
	}
	for _, ip := range port.addrs {
		if unmapped(ip) && (joined || !slices.Contains(old.addrs, ip)) {
			changes = append(changes, Change{Dev: m.bridge, IP: ip, MAC: mac})
		}
	}
	return changes
}

// localNeighbour is the MAC of an IPv4 address of a port here.
func (m *segmentMap) localNeighbour(ip netip.Addr) (MAC, bool) {
	for mac, port := range m.ports {
		if ip.Is4() && slices.Contains(port.addrs, ip) {
			return mac, true
		}
	}
	return MAC{}, false
}

// forward makes a MAC's forwarding entry what it is in after.
func (m *segmentMap) forward(mac MAC, before, after map[MAC]Place) []Change {
	old, had := before[mac]
	now, has := after[mac]
	switch {
	case had && has && old == now, !had && !has:
		return nil
	case !has:
		return []Change{{Delete: true, Dev: old.Port, MAC: mac, VXLAN: old.Port == m.vxlan}}
	}
	changes := []Change{{Dev: now.Port, MAC: mac, Underlay: now.Underlay, VXLAN: now.Port == m.vxlan}}
	if had && old.Port == m.vxlan && now.Port != m.vxlan {
		changes = append(changes, Change{Delete: true, Dev: old.Port, MAC: mac, VXLAN: true, SelfOnly: true})
	}
	return changes
}

// differences are the changes that make have what the segment's table is. Of
// ports that are not of this package entries are left alone; before the first map
// nothing is deleted, so that a restarted agent cuts nobody off.
func (m *segmentMap) differences(have Table) []Change {
	want := m.table()
	var changes []Change
	mine := map[int32]bool{m.vxlan: true}
	for _, p := range m.ports {
		mine[p.index] = true
	}
	for mac, p := range have.Forward {
		if !m.have {
			break
		}
		if _, ok := want.Forward[mac]; !ok && mine[p.Port] {
			changes = append(changes, Change{Delete: true, Dev: p.Port, MAC: mac, VXLAN: p.Port == m.vxlan})
		}
	}
	for ip, mac := range have.Neighbours {
		if !m.have {
			break
		}
		if _, ok := want.Neighbours[ip]; !ok {
			changes = append(changes, Change{Delete: true, Dev: m.bridge, IP: ip, MAC: mac})
		}
	}
	for mac, p := range want.Forward {
		if have.Forward[mac] != p {
			changes = append(changes, m.forward(mac, have.Forward, want.Forward)...)
		}
	}
	for ip, mac := range want.Neighbours {
		if have.Neighbours[ip] != mac {
			changes = append(changes, Change{Dev: m.bridge, IP: ip, MAC: mac})
		}
	}
	return changes
}

// disturbed reports whether events tell of an entry of this segment that is not as
// it should be.
func (m *segmentMap) disturbed(events []Event) bool {
	macs := map[MAC]bool{}
	for _, e := range events {
		if e.Kind == EventForward {
			macs[e.MAC] = true
		}
	}
	places := m.where(macs)
	return slices.ContainsFunc(events, func(e Event) bool {
		if e.Kind == EventNeighbour {
			return !m.neighbourFits(e)
		}
		p, ok := places[e.MAC]
		here := ok && p.Port == e.Dev
		switch {
		case e.Gone:
			return here
		case e.Dev == m.vxlan && e.Self:
			return !here || p.Underlay != e.IP
		}
		return !here && e.Static
	})
}

func (m *segmentMap) neighbourFits(e Event) bool {
	var mac MAC
	k, ok := m.entries[e.IP.As16()]
	if ok && m.neighbour(e.IP, k) {
		mac = k.mac
	} else if mac, ok = m.localNeighbour(e.IP); !ok {
		return true // another package's
	}
	return !e.Gone && mac == e.MAC
}

func (ch Change) String() string {
	verb := either(ch.Delete, "delete", "set")
	if ch.IP.IsValid() {
		return fmt.Sprintf("%s neighbour %s %s on link %d", verb, ch.IP, ch.MAC, ch.Dev)
	}
	to := ""
	if ch.Underlay.IsValid() {
		to = " to " + ch.Underlay.String()
	}
	return fmt.Sprintf("%s forwarding of %s by link %d%s", verb, ch.MAC, ch.Dev, to)
}
