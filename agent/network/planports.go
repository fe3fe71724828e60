package network

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"nereid/api"
)

// ground is what a port stands on: a NIC tag and VLAN, or a VNI.
type ground struct {
	tag  string
	vlan int
	vni  uint32
}

func groundOf(port api.PortSpec) ground {
	if port.VNI != 0 {
		return ground{vni: port.VNI}
	}
	return ground{tag: port.Tag, vlan: port.VLAN}
}

// missing says why a port cannot be made without its ground.
func (g ground) missing() string {
	if g.vni != 0 {
		return fmt.Sprintf("VNI %d is not there; see the other problems", g.vni)
	}
	return fmt.Sprintf("NIC tag %s, VLAN %d is not there; let a NIC or bond of this server provide the tag", g.tag, g.vlan)
}

// bridge is a ground's; empty when the plan makes none.
func (p *plan) bridge(g ground) string {
	name := BridgeOfVNI(g.vni)
	if g.vni == 0 {
		seg := p.segment(g.tag, g.vlan)
		if seg == nil {
			return ""
		}
		name = seg.home
	}
	if !p.keep[name] {
		return ""
	}
	return name
}

// grounds are those that are made of the spec.
func (p *plan) grounds() (all []ground) {
	for _, v := range p.spec.VNIs {
		all = append(all, ground{vni: v.VNI})
	}
	for key, seg := range p.segments {
		for _, t := range seg.tags {
			if seg.bridged {
				all = append(all, ground{tag: t, vlan: key.vlan})
			}
		}
	}
	return all
}

// ports makes the instances' NICs of the spec: first all of them, and then what they
// are in, so that they are protected together.
func (p *plan) ports() {
	var made []Link
	for _, port := range p.spec.Ports {
		if want, ok := p.port(port, p.bridge(groundOf(port))); ok {
			made = append(made, want)
		}
	}
	for _, want := range made {
		p.settle(p.now.Links[want.Name], want)
	}
}

// port makes one instance's NIC, which is in no bridge yet; not ok when it cannot be.
// It looks at nothing but the NIC's link.
func (p *plan) port(port api.PortSpec, bridge string) (want Link, ok bool) {
	mac, err := parseMAC(port.MAC)
	if err != nil {
		p.problem("A NIC of instance %s was not made: %v.", port.Instance, err)
		return want, false
	}
	port.MAC = mac
	what := fmt.Sprintf("NIC %s of instance %s", mac, port.Instance)
	if bridge == "" {
		p.problem("%s was not made: %s.", what, groundOf(port).missing())
		return want, false
	}
	flags := openPort
	if port.VNI != 0 {
		flags = fabricPort
		// What it sends from further MACs can only be found by learning.
		flags.Learning, flags.Flood = port.AllowMACSpoofing, port.AllowMACSpoofing
	}
	guest, err := guestOf(port)
	if err != nil {
		p.problem("%s was not made: %v.", what, err)
		return want, false
	}
	kind := kinds[classPort]
	if guest.Tap {
		kind = kindTap
	}
	want = Link{Name: PortDevice(mac), Kind: kind, Alias: portAlias(port.Instance, guest), MTU: port.MTU, Master: bridge, Flags: flags, Closed: true, Up: true}
	l := p.now.Links[want.Name]
	if l != nil && l.class() != classPort && !fresh(p.now, l, kind) {
		p.problem("%s was not made: a link named %s is there that the agent did not make; rename or remove it.", what, want.Name)
		return want, false
	}
	if l == nil || l.Alias != want.Alias {
		p.add(Connect{Link{Name: want.Name, Kind: want.Kind, Alias: want.Alias, MTU: want.MTU}, guest})
	}
	p.keep[want.Name] = true
	return want, true
}

// planPort is the plan of one port, from what is seen of its link; nil: nothing is
// there. It is pure, and costs the same however many ports there are.
func planPort(port api.PortSpec, bridge string, seen *Link) *plan {
	p := &plan{now: &State{Links: map[string]*Link{}}, keep: map[string]bool{}}
	if seen != nil {
		p.now.Links[seen.Name] = seen.clone()
	}
	if bridge != "" {
		p.now.Links[bridge] = &Link{Name: bridge, Kind: "bridge"}
	}
	if want, ok := p.port(port, bridge); ok {
		p.settle(p.now.Links[want.Name], want)
	}
	return p
}

// planDrop is the plan of a port that is to be no more: of an instance's, or with ""
// of any. What was cut short when it was made goes too; what is another instance's or
// was not made here stays.
func planDrop(mac, instance string, seen *Link) []Step {
	if seen != nil {
		_, of := portOf(seen.Alias)
		s := &State{Links: map[string]*Link{seen.Name: seen}}
		ours := seen.class() == classPort && (instance == "" || of == instance)
		if !ours && !fresh(s, seen, kinds[classPort]) && !fresh(s, seen, kindTap) {
			return nil
		}
	}
	return []Step{Disconnect{PortDevice(mac), PortNamespace(mac)}}
}

// portAlias says what a NIC is of, and with a digest how its inside was made: it
// is written last, so that nothing inside has to be looked at again.
func portAlias(instance string, g Guest) string {
	b, err := json.Marshal(g)
	if err != nil { // there is nothing in a Guest that cannot be marshalled
		b = fmt.Append(nil, g)
	}
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%sNIC %s of %.64s (%s)", prefix, g.MAC, instance, hex.EncodeToString(sum[:4]))
}

// remove takes away what was made here and is not in the spec. A NIC is removed only
// when the spec says that it is gone.
func (p *plan) remove() {
	p.keepStrays()
	for _, c := range []class{classPort, classVXLAN, classBridge, classTag, classVLAN, classBond} {
		for _, name := range slices.Sorted(maps.Keys(p.now.Links)) {
			l := p.now.Links[name]
			if l == nil || l.class() != c || p.keep[name] {
				continue
			}
			switch c {
			case classPort:
				p.add(Disconnect{name, "nic-" + strings.TrimPrefix(name, PortPrefix)})
				continue
			case classTag:
				p.releaseBridge(l)
			case classBond:
				p.releaseBond(l)
			case classVLAN:
				p.moveHost(name, p.home(name))
			}
			p.add(DeleteLink{name})
		}
	}
}

// portOf reads what portAlias wrote.
func portOf(alias string) (mac, instance string) {
	rest, _ := strings.CutPrefix(alias, prefix+string(classPort)+" ")
	mac, rest, _ = strings.Cut(rest, " of ")
	instance, _, _ = strings.Cut(rest, " (")
	return mac, instance
}

// isGone reports whether a spec says that a NIC is gone.
func isGone(gone []api.GoneNIC, mac, instance string) bool {
	return slices.ContainsFunc(gone, func(g api.GoneNIC) bool {
		return sameMAC(g.MAC, mac) && (g.Instance == "" || g.Instance == instance)
	})
}

// keepStrays keeps NICs that the spec names neither among its ports nor among those
// that are gone, and the links that they are connected by.
func (p *plan) keepStrays() {
	var keep func(l *Link)
	keep = func(l *Link) {
		if l == nil || p.keep[l.Name] {
			return
		}
		p.keep[l.Name] = true
		keep(p.now.Links[l.Parent])
		keep(p.now.Links[l.Master])
		switch l.class() {
		case classTag, classBridge, classBond:
			for _, port := range p.now.ports(l.Name) {
				if port.class() != classPort {
					keep(port)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.now.Links)) {
		if l := p.now.Links[name]; l.class() == classPort && !p.keep[name] {
			if mac, instance := portOf(l.Alias); !isGone(p.spec.Gone, mac, instance) {
				keep(l)
			}
		}
	}
}

// releaseBridge takes the uplink out of a tag's bridge that goes away. The host's
// addresses go before, to where they belong then.
func (p *plan) releaseBridge(bridge *Link) {
	heir := ""
	for _, port := range p.now.ports(bridge.Name) {
		if uplink(port, bridge) { // others the kernel lets go of
			heir = port.Name
		}
	}
	if heir == "" {
		heir = p.member(bridge)
	}
	if heir == "" {
		return
	}
	p.moveHost(bridge.Name, p.home(heir))
	if p.now.Links[heir].Master == bridge.Name {
		p.add(SetMaster{heir, ""})
	}
}

// uplink reports whether a port of a tag's bridge is the NIC, bond or VLAN device
// that connects it: it gave the bridge its MAC.
func uplink(port, bridge *Link) bool {
	switch port.class() {
	case classPort:
		return false
	case classVLAN, classBond:
		return true
	}
	return port.Kind == "" || port.device() && sameMAC(port.MAC, bridge.MAC)
}

// releaseBond takes the members out of a bond that goes away; the host's
// addresses go to the NIC that gave it its MAC, or else to the first.
func (p *plan) releaseBond(bond *Link) {
	heir := p.member(bond) // which a tag may have taken out already
	for _, m := range p.now.ports(bond.Name) {
		p.add(SetMaster{m.Name, ""}, SetUp{m.Name, true})
		if heir == "" {
			heir = m.Name
		}
	}
	if heir != "" {
		p.moveHost(bond.Name, p.home(heir))
	}
}

// member finds the NIC that gave a bond or bridge its MAC, when it is out of it
// already.
func (p *plan) member(l *Link) string {
	if l, _ := p.now.device(l.MAC); l != nil {
		return l.Name
	}
	return ""
}
