package network

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"nereid/api"
)

// Bond modes, as in api.BondSpec.
const (
	modeActiveBackup = "active-backup"
	modeLACP         = "802.3ad"
)

// maxName is the longest name of a link (IFNAMSIZ without its zero).
const maxName = 15

// checkBonds refuses bonds that cannot be meant: nothing at all is changed then.
func checkBonds(spec api.NetworkSpec, s *State) error {
	var errs []error
	refuse := func(b api.BondSpec, format string, args ...any) {
		errs = append(errs, fmt.Errorf("bond %s: %s; nothing was changed", b.Name, fmt.Sprintf(format, args...)))
	}
	names, members := map[string]bool{}, map[string]string{}
	for _, b := range spec.Bonds {
		switch {
		case b.Name == "" || len(b.Name) > maxName:
			refuse(b, "a name has 1 to %d characters", maxName)
		case names[b.Name]:
			refuse(b, "there are two of that name")
		case b.Mode != modeActiveBackup && b.Mode != modeLACP:
			refuse(b, "the mode %q is not known; give it active-backup or 802.3ad", b.Mode)
		case len(b.MACs) == 0 || len(b.MACs) > 16:
			refuse(b, "it has %s; give it 1 to 16", api.Plural(len(b.MACs), "NIC"))
		}
		names[b.Name] = true
		if l := s.Links[b.Name]; l != nil && l.class() != classBond && !fresh(s, l, "bond") {
			refuse(b, "a link of that name is there that the agent did not make; choose another name")
		}
		for _, m := range b.MACs {
			mac, err := parseMAC(m)
			if err != nil {
				refuse(b, "%v", err)
				continue
			}
			if other, ok := members[mac]; ok {
				refuse(b, "NIC %s is also a member of bond %s; take it from one of them", mac, other)
			}
			members[mac] = b.Name
			if l, _ := s.device(mac); l != nil {
				continue
			}
			for _, l := range s.Links {
				if l.Kind == "bond" && sameMAC(l.MAC, mac) {
					refuse(b, "%s is the MAC of bond %s, and a bond cannot be made of bonds; name the MACs of NICs", mac, l.Name)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// resolveBonds finds the members.
func (p *plan) resolveBonds() {
	for _, b := range p.spec.Bonds {
		var members []string
		for _, mac := range b.MACs {
			l, why := p.now.device(mac)
			if l == nil {
				p.problem("Bond %s is without NIC %s: %s; take it out of the bond or put the NIC back.", b.Name, mac, why)
				continue
			}
			members = append(members, l.Name)
		}
		if len(members) == 0 {
			p.problem("Bond %s was not made: none of its NICs is there.", b.Name)
			continue
		}
		p.bonds[b.Name] = members
		for _, m := range members {
			p.homes[m] = b.Name
		}
	}
}

// resolveTags finds what provides each tag.
func (p *plan) resolveTags() {
	for _, t := range p.spec.Tags {
		if t.Bond != "" {
			if p.bonds[t.Bond] == nil {
				p.problem("NIC tag %s is not provided: bond %s is not there; see the other problems.", t.Name, t.Bond)
				continue
			}
			p.tags[t.Name] = tag{t.Bond, t.MTU}
			continue
		}
		l, why := p.now.device(t.MAC)
		if l == nil {
			p.problem("NIC tag %s is not provided by NIC %s: %s; let another NIC provide the tag or put this one back.", t.Name, t.MAC, why)
			continue
		}
		if bond, ok := p.homes[l.Name]; ok {
			p.problem("NIC tag %s is not provided by NIC %s: it is a member of bond %s; let the bond provide the tag.", t.Name, t.MAC, bond)
			continue
		}
		p.tags[t.Name] = tag{l.Name, t.MTU}
	}
}

// resolveSegments finds which segments are needed, and where the host is on them.
func (p *plan) resolveSegments() {
	need := func(tag string, vlan int, bridged bool) {
		t, ok := p.tags[tag]
		if !ok || vlan < 0 || vlan > 4094 {
			return
		}
		key := segmentKey{t.link, vlan}
		seg := p.segments[key]
		if seg == nil {
			seg = &segment{}
			p.segments[key] = seg
		}
		seg.bridged = seg.bridged || bridged
	}
	for _, port := range p.spec.Ports {
		if port.VNI == 0 {
			need(port.Tag, port.VLAN, true)
		}
	}
	for _, g := range p.needs {
		if g.vni == 0 {
			need(g.tag, g.vlan, true)
		}
	}
	for _, r := range p.spec.Routers {
		if r.NAT != nil && r.NAT.Tag != "" {
			need(r.NAT.Tag, r.NAT.VLAN, true)
		}
	}
	if u := p.spec.Underlay; u != nil {
		need(u.Tag, u.VLAN, false)
	}
	for key, seg := range p.segments {
		for _, name := range slices.Sorted(maps.Keys(p.tags)) {
			if t := p.tags[name]; t.link == key.link {
				seg.tags = append(seg.tags, name)
				seg.mtu = max(seg.mtu, t.mtu)
			}
		}
		seg.home = key.link
		if key.vlan != 0 {
			seg.home = p.vlanName(key, seg)
		}
	}
	p.assignBridges()
	for key, seg := range p.segments {
		if seg.bridged {
			base := seg.home
			seg.home = seg.bridgeName(key.vlan)
			p.homes[base] = seg.home
		}
	}
}

// sortedSegments are the segments' keys in a fixed order.
func (p *plan) sortedSegments() []segmentKey {
	return slices.SortedFunc(maps.Keys(p.segments), func(a, b segmentKey) int {
		return cmp.Or(cmp.Compare(a.link, b.link), cmp.Compare(a.vlan, b.vlan))
	})
}

// assignBridges finds for each segment the bridge that is there already: it has
// the name of one of the tags. Where two tags part, one of them keeps it.
func (p *plan) assignBridges() {
	taken := map[string]bool{}
	for _, further := range []bool{false, true} { // first by names, then by further names
		for _, key := range p.sortedSegments() {
			seg := p.segments[key]
			for _, t := range seg.tags {
				l := p.now.find(BridgeOfTag(t, key.vlan))
				if l == nil || l.class() != classTag || taken[l.Name] || seg.bridge != "" || !seg.bridged || further != (l.Name != BridgeOfTag(t, key.vlan)) {
					continue
				}
				seg.bridge, taken[l.Name] = l.Name, true
			}
		}
	}
}

// bridgeName is the name of a segment's bridge: the one it has, if that is of one
// of the tags, otherwise after the first tag.
func (s *segment) bridgeName(vlan int) string {
	for _, t := range s.tags {
		if BridgeOfTag(t, vlan) == s.bridge {
			return s.bridge
		}
	}
	return BridgeOfTag(s.tags[0], vlan)
}

// nameBridges takes names from bridges that are another segment's now, so that it
// can have them.
func (p *plan) nameBridges() {
	wanted := map[string]bool{} // bridge and further name
	for _, key := range p.sortedSegments() {
		for _, t := range p.segments[key].tags {
			wanted[p.segments[key].bridge+" "+BridgeOfTag(t, key.vlan)] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.now.Links)) {
		l := p.now.Links[name]
		if l.class() != classTag {
			continue
		}
		for _, alt := range slices.Clone(l.AltNames) {
			if !wanted[name+" "+alt] {
				p.add(AltName{name, alt, false})
			}
		}
	}
	for _, key := range p.sortedSegments() {
		seg := p.segments[key]
		if seg.bridge == "" || seg.bridge == seg.home {
			continue
		}
		if slices.Contains(p.now.Links[seg.bridge].AltNames, seg.home) {
			p.add(AltName{seg.bridge, seg.home, false})
		}
		p.add(Rename{seg.bridge, seg.home})
	}
}

// vlanName is the name of a segment's VLAN device: of the one that is there, if
// it was made here, otherwise after the first tag.
func (p *plan) vlanName(key segmentKey, seg *segment) string {
	for _, name := range slices.Sorted(maps.Keys(p.now.Links)) {
		if l := p.now.Links[name]; l.class() == classVLAN && l.Parent == key.link && l.VLAN == key.vlan {
			return name
		}
	}
	return VLANDevice(seg.tags[0], key.vlan)
}

// segment is the segment of a tag and VLAN, nil when it is not there.
func (p *plan) segment(tag string, vlan int) *segment {
	t, ok := p.tags[tag]
	if !ok {
		return nil
	}
	return p.segments[segmentKey{t.link, vlan}]
}

// mtus are the MTUs that the tags need of NICs and bonds, limited to what these
// can do.
func (p *plan) mtus() map[string]int {
	want := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(p.tags)) {
		t := p.tags[name]
		most := 0
		devices := []string{t.link}
		if members := p.bonds[t.link]; members != nil {
			devices = members
		}
		for _, d := range devices {
			if l := p.now.Links[d]; l != nil && l.MaxMTU > 0 && (most == 0 || l.MaxMTU < most) {
				most = l.MaxMTU
			}
		}
		if most > 0 && t.mtu > most {
			p.problem("NIC tag %s has MTU %d, and %s supports at most %d; large packets are lost: make the tag's MTU smaller or let another NIC provide it.", name, t.mtu, t.link, most)
			t.mtu = most
		}
		want[t.link] = max(want[t.link], t.mtu)
	}
	return want
}

// makeBonds makes bonds that are not there, without members, gives all NICs and
// bonds their MTU, and takes members out that do not belong in.
func (p *plan) makeBonds() {
	mtus := p.mtus()
	for _, b := range p.spec.Bonds {
		members := p.bonds[b.Name]
		if members == nil {
			if p.now.Links[b.Name] != nil {
				p.keep[b.Name] = true // its NICs may come back
			}
			continue
		}
		rate := ""
		if b.Mode == modeLACP {
			rate = cmp.Or(b.LACPRate, "slow")
		}
		first := p.now.Links[members[0]]
		if l := p.now.Links[b.Name]; l != nil && l.Kind == "bond" && l.Mode != b.Mode {
			p.remake(l)
		}
		mtu := cmp.Or(mtus[b.Name], first.MTU)
		if l := p.now.Links[b.Name]; l != nil && mtus[b.Name] == 0 {
			mtu = l.MTU
		}
		want := Link{Name: b.Name, Kind: "bond", Alias: prefix + "bond " + b.Name, MAC: first.hardware(), MTU: mtu, Mode: b.Mode, Rate: rate, Up: true}
		if l := p.now.Links[b.Name]; l != nil {
			want.Master, want.Flags, want.Closed = l.Master, l.Flags, l.Closed
		}
		if !p.ensure(want, "Bond "+b.Name) {
			continue
		}
		if l := p.now.Links[b.Name]; l.Rate != rate {
			addrs, routes := l.Addrs, l.Routes
			p.add(SetBond{b.Name, rate, slices.Clone(addrs), slices.Clone(routes)})
		}
		for _, m := range p.now.ports(b.Name) {
			if !slices.Contains(members, m.Name) {
				p.add(SetMaster{m.Name, ""}, SetUp{m.Name, true})
			}
		}
	}
	for _, link := range slices.Sorted(maps.Keys(mtus)) {
		l := p.now.Links[link]
		if l == nil || p.bonds[link] != nil {
			continue
		}
		if m := p.now.Links[l.Master]; m != nil && m.class() == classBond && !slices.Contains(p.bonds[m.Name], link) {
			p.add(SetMaster{link, ""}) // of a bond that goes away
		}
		if l.MTU != mtus[link] {
			p.add(SetMTU{link, mtus[link]})
		}
		if !l.Up {
			p.add(SetUp{link, true})
		}
	}
}

// remake takes a bond apart whose mode is another: that can only be set on one
// without members. The host's addresses wait on its first NIC.
func (p *plan) remake(bond *Link) {
	var heir string
	for _, m := range p.now.ports(bond.Name) {
		p.add(SetMaster{m.Name, ""}, SetUp{m.Name, true})
		if heir == "" || sameMAC(m.hardware(), bond.MAC) {
			heir = m.Name
		}
	}
	if heir != "" {
		p.moveHost(bond.Name, heir)
	}
	p.add(DeleteLink{bond.Name})
}

// fillBonds puts NICs into their bonds. The host's addresses on them are moved
// before, as a NIC loses its routes when it goes down.
func (p *plan) fillBonds() {
	for _, b := range p.spec.Bonds {
		for _, m := range p.bonds[b.Name] {
			if p.now.Links[b.Name] == nil || !p.keep[b.Name] {
				continue
			}
			l := p.now.Links[m]
			if l.Master != b.Name {
				p.moveHost(m, p.home(m))
				if l.Up {
					p.add(SetUp{m, false})
				}
				p.add(SetMaster{m, b.Name})
			}
			p.moveHost(m, p.home(m)) // of an attempt that was cut short
			if !l.Up {
				p.add(SetUp{m, true})
			}
		}
	}
}

// makeSegments makes VLAN devices and tags' bridges, and puts the uplinks in.
func (p *plan) makeSegments() {
	p.nameBridges()
	for _, key := range p.sortedSegments() {
		seg := p.segments[key]
		base := p.now.Links[key.link]
		if base == nil {
			continue
		}
		mtu := min(seg.mtu, base.MTU)
		link := key.link
		if key.vlan != 0 {
			link = p.makeVLAN(key, seg, base, mtu)
		}
		if link != "" && seg.bridged {
			p.makeBridge(key, seg, link, mtu)
		}
	}
}

func (p *plan) makeVLAN(key segmentKey, seg *segment, base *Link, mtu int) string {
	name := p.vlanName(key, seg)
	if old := p.now.Links[name]; old != nil && old.class() == classVLAN && (old.Parent != key.link || old.VLAN != key.vlan) {
		// The tag moved to another NIC. The old device stays, out of the way,
		// until the host's addresses are off it.
		aside := "nx" + name[2:]
		p.add(Rename{name, aside})
		p.homes[aside] = name
	}
	want := Link{Name: name, Kind: "vlan", Alias: fmt.Sprintf("%sVLAN %d on %s", prefix, key.vlan, key.link), MAC: base.MAC, MTU: mtu, Parent: key.link, VLAN: key.vlan, Up: true}
	if l := p.now.Links[name]; l != nil {
		want.Master, want.Flags, want.Closed = l.Master, l.Flags, l.Closed
	}
	if !p.ensure(want, fmt.Sprintf("VLAN %d of NIC tag %s", key.vlan, seg.tags[0])) {
		return ""
	}
	return name
}

func (p *plan) makeBridge(key segmentKey, seg *segment, link string, mtu int) {
	what := fmt.Sprintf("The bridge of NIC tag %s, VLAN %d", seg.tags[0], key.vlan)
	up := p.now.Links[link]
	if m := p.now.Links[up.Master]; m != nil && m.class() != classTag && m.class() != classBond {
		p.problem("%s was not made: %s is in %s, which the agent did not make; take it out there.", what, link, up.Master)
		return
	}
	alias := fmt.Sprintf("%stag %s vlan %d", prefix, seg.tags[0], key.vlan)
	if key.vlan == 0 {
		alias = fmt.Sprintf("%stag %s", prefix, seg.tags[0])
	}
	addrs, routes := up.foreign()
	closed := len(addrs)+len(routes) == 0
	if l := p.now.Links[seg.home]; l != nil && len(l.Addrs) > 0 {
		closed = false
	}
	for _, m := range p.bonds[link] { // what fillBonds will move here
		if l := p.now.Links[m]; l != nil && len(l.Addrs) > 0 {
			closed = false
		}
	}
	if u := p.spec.Underlay; u != nil && p.segment(u.Tag, u.VLAN) == seg {
		closed = false
	}
	if !p.ensure(Link{Name: seg.home, Kind: "bridge", Alias: alias, MAC: up.MAC, MTU: mtu, Closed: closed, Up: true}, what) {
		return
	}
	for _, old := range p.now.ports(seg.home) {
		if old.Name != up.Name && uplink(old, p.now.Links[seg.home]) {
			p.add(SetMaster{old.Name, ""})
			p.moveHost(old.Name, seg.home)
		}
	}
	if up.Master != seg.home {
		p.add(SetMaster{link, seg.home})
	}
	p.moveHost(link, seg.home)
	if up.Flags != openPort {
		p.add(SetFlags{link, openPort})
	}
	for _, t := range seg.tags {
		p.altName(seg.home, BridgeOfTag(t, key.vlan))
	}
}

// altName gives a bridge a further tag's name. A bridge of that name, which goes
// away anyway, is removed first.
func (p *plan) altName(bridge, name string) {
	old := p.now.find(name)
	switch {
	case old == nil:
	case old.Name == bridge:
		return
	case old.class() != classTag || p.keep[old.Name]:
		p.problem("The bridge %s lacks the name %s: %s has it; rename that link.", bridge, name, old.Name)
		return
	default:
		p.releaseBridge(old)
		p.add(DeleteLink{old.Name})
	}
	p.add(AltName{bridge, name, true})
}
