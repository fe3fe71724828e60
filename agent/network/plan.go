package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"nereid/api"
)

// plan is what has to be done so that the server is as the spec says, and what
// cannot be done. It is made in the order of its fields' methods; each adds steps
// and applies them to now, so that the next one sees what will be there.
type plan struct {
	steps    []Step
	problems []string // sentences: what, why, what next

	spec  api.NetworkSpec
	needs []ground        // of ports that the spec does not have
	now   *State          // as it will be after steps
	keep  map[string]bool // links made here that the spec has
	fault error           // a step did not fit the state, so that the plan is wrong

	bonds    map[string][]string // members' names of each bond that can be made
	tags     map[string]tag      // those that can be provided
	segments map[segmentKey]*segment
	homes    map[string]string // where the host's addresses of a link belong, when elsewhere
}

// tag is a NIC tag and what provides it.
type tag struct {
	link string // NIC or bond
	mtu  int
}

type segmentKey struct {
	link string
	vlan int
}

// segment is a layer-2 segment on a NIC or bond, and all that is made of it.
type segment struct {
	tags    []string // sorted
	mtu     int
	bridged bool   // ports or a router are on it
	bridge  string // the bridge that is there already; it may have to be renamed
	home    string // link that has the host's addresses there
}

// makePlan is pure: state is not changed. Besides what the spec's ports stand on, it
// makes what is needed.
func makePlan(spec api.NetworkSpec, state *State, needs ...ground) *plan {
	p := &plan{
		spec: spec, needs: needs, now: state.clone(), keep: map[string]bool{},
		bonds: map[string][]string{}, tags: map[string]tag{}, segments: map[segmentKey]*segment{}, homes: map[string]string{},
	}
	p.resolveBonds()
	p.resolveTags()
	p.resolveSegments()
	p.makeBonds()
	p.makeSegments()
	p.fillBonds()
	p.underlay()
	p.vnis()
	p.ports()
	p.remove()
	return p
}

// add adds steps.
func (p *plan) add(steps ...Step) {
	for _, s := range steps {
		if err := p.now.do(s); err != nil && p.fault == nil {
			p.fault = fmt.Errorf("plan %q: %w", s, err)
		}
		p.steps = append(p.steps, s)
	}
}

func (p *plan) problem(format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

// ensure makes a link as wanted, or makes the one that is there so. It reports
// whether the link will be there.
func (p *plan) ensure(want Link, what string) bool {
	l := p.now.Links[want.Name]
	switch {
	case l == nil:
		c := want
		c.Up, c.Closed, c.Master, c.Flags, c.AltNames = false, false, "", PortFlags{}, nil
		p.add(CreateLink{c})
		l = p.now.Links[want.Name]
	case l.class() != "" && l.Kind == want.Kind:
	case fresh(p.now, l, want.Kind):
		p.add(SetAlias{l.Name, want.Alias})
	default:
		p.problem("%s was not made: a link named %s is there that the agent did not make; rename or remove it.", what, want.Name)
		return false
	}
	p.keep[want.Name] = true
	p.settle(l, want)
	return true
}

// settle sets what can be changed of a link.
func (p *plan) settle(l *Link, want Link) {
	if l.Alias != want.Alias {
		p.add(SetAlias{l.Name, want.Alias})
	}
	if l.MTU != want.MTU && want.MTU != 0 {
		p.add(SetMTU{l.Name, want.MTU})
	}
	if l.Closed != want.Closed {
		p.add(Close{l.Name, want.Closed})
	}
	if l.Master != want.Master {
		p.add(SetMaster{l.Name, want.Master})
	}
	if want.Master != "" && l.Flags != want.Flags {
		p.add(SetFlags{l.Name, want.Flags})
	}
	if want.Up && !l.Up {
		p.add(SetUp{l.Name, true})
	}
}

// fresh reports whether a link may be one that was just made here, or by the
// kernel when it loaded a module (bond0), and not touched since.
func fresh(s *State, l *Link, kind string) bool {
	return l.Kind == kind && l.Alias == "" && !l.Up && l.Master == "" && len(l.Addrs) == 0 && len(s.ports(l.Name)) == 0
}

// device finds the NIC with a MAC; nil, and why, when there is none.
func (s *State) device(mac string) (*Link, string) {
	var found *Link
	for _, name := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[name]
		if !l.device() || !sameMAC(mac, l.hardware()) {
			continue
		}
		if found != nil {
			return nil, fmt.Sprintf("%s and %s both have it", found.Name, l.Name)
		}
		found = l
	}
	if found == nil {
		return nil, "no NIC of this server has it"
	}
	return found, ""
}

// device reports whether a link may be a NIC: anything but what is made of
// other links, and what was made here. (In the lab NICs are veths.)
func (l *Link) device() bool {
	switch l.Kind {
	case "bridge", "bond", "vlan", "vxlan", "macvlan", "ipvlan", "macvtap", "vrf", "ipvtap":
		return false
	}
	return !l.Loopback && l.MAC != "" && l.class() == ""
}

// hardware is the MAC a NIC is known by: a bond gives its members its own.
func (l *Link) hardware() string {
	if l.PermMAC != "" {
		return l.PermMAC
	}
	return l.MAC
}

// foreign are the addresses and routes of a link that were not made here: the
// host's, which must not be lost.
func (l *Link) foreign() (addrs []Addr, routes []Route) {
	for _, a := range l.Addrs {
		if !a.Ours {
			addrs = append(addrs, a)
		}
	}
	for _, r := range l.Routes {
		if r.Proto != Protocol {
			routes = append(routes, r)
		}
	}
	return addrs, routes
}

// moveHost takes the host's addresses from a link to where they belong.
func (p *plan) moveHost(from, to string) {
	if from == to || p.now.Links[from] == nil || p.now.Links[to] == nil {
		return
	}
	if addrs, routes := p.now.Links[from].foreign(); len(addrs)+len(routes) > 0 {
		if p.now.Links[to].Closed {
			p.add(Close{to, false})
		}
		if !p.now.Links[to].Up {
			p.add(SetUp{to, true})
		}
		p.add(Move{from, to, addrs, routes})
	}
}

// home is where the host's addresses of a NIC or bond belong.
func (p *plan) home(link string) string {
	for range len(p.homes) {
		next, ok := p.homes[link]
		if !ok {
			break
		}
		link = next
	}
	return link
}

// underlay puts the underlay's address and routes where they belong, and takes
// away those made here that belong nowhere.
func (p *plan) underlay() {
	wantAddr := map[string]netip.Prefix{}
	wantRoutes := map[string][]Route{}
	if u := p.spec.Underlay; u != nil {
		if home, addr, routes, ok := p.resolveUnderlay(u); ok {
			wantAddr[home], wantRoutes[home] = addr, routes
		}
	}
	for home, addr := range wantAddr {
		l := p.now.Links[home]
		if l.Closed {
			p.add(Close{home, false})
		}
		if !slices.ContainsFunc(l.Addrs, func(a Addr) bool { return a.Prefix == addr }) {
			p.add(AddAddr{home, Addr{Prefix: addr, Ours: true}})
		}
		for _, r := range wantRoutes[home] {
			if !slices.ContainsFunc(l.Routes, func(have Route) bool { return have.Dst == r.Dst && have.Via == r.Via }) {
				p.add(SetRoute{home, r})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.now.Links)) {
		l := p.now.Links[name]
		for _, r := range slices.Clone(l.Routes) {
			if r.Proto == Protocol && !slices.Contains(wantRoutes[name], r) {
				p.add(DelRoute{name, r})
			}
		}
		for _, a := range slices.Clone(l.Addrs) {
			if a.Ours && wantAddr[name] != a.Prefix {
				p.add(DelAddr{name, a})
			}
		}
	}
}

func (p *plan) resolveUnderlay(u *api.UnderlaySpec) (home string, addr netip.Prefix, routes []Route, ok bool) {
	addr, err := parsePrefix(u.Address)
	if err != nil {
		p.problem("The underlay was not made: %v; name another address.", err)
		return "", addr, nil, false
	}
	seg := p.segment(u.Tag, u.VLAN)
	if seg == nil || p.now.Links[seg.home] == nil {
		p.problem("The underlay has no address: NIC tag %s, VLAN %d is not there; see the other problems.", u.Tag, u.VLAN)
		return "", addr, nil, false
	}
	if u.Gateway != "" {
		gw, err := parseAddr(u.Gateway)
		if err != nil {
			p.problem("The underlay has no routes to other racks: %v.", err)
			return seg.home, addr, nil, true
		}
		for _, s := range u.Subnets {
			dst, err := parsePrefix(s)
			if err != nil || dst.Addr().Is4() != gw.Is4() || addr.Masked().Contains(dst.Addr()) {
				continue
			}
			routes = append(routes, Route{Dst: dst.Masked(), Via: gw, Proto: Protocol})
		}
	}
	return seg.home, addr, routes, true
}

// overhead is what VXLAN adds to a packet: outer Ethernet, IP, UDP and VXLAN
// headers (RFC 7348, section 5).
func overhead(local netip.Addr) int {
	if local.Is4() {
		return 50
	}
	return 70
}

// bridgeMAC is a locally administered MAC. A bridge without one of its own takes
// that of a port, and forgets its neighbours whenever that changes.
func bridgeMAC(vni uint32) string {
	return MAC{0x02, 'n', 'e', byte(vni >> 16), byte(vni >> 8), byte(vni)}.String()
}

// vnis makes the VNIs' bridges and VXLAN devices.
func (p *plan) vnis() {
	if len(p.spec.VNIs) == 0 {
		return
	}
	if p.spec.Underlay == nil {
		p.problem("No VNI was made: the spec has no underlay; give the server an underlay address.")
		return
	}
	local, err := parsePrefix(p.spec.Underlay.Address)
	if err != nil {
		return // said by underlay
	}
	for _, v := range p.spec.VNIs {
		if v.VNI == 0 || v.VNI >= 1<<24 {
			p.problem("VNI %d was not made: a VNI is a number of 24 bits above 0.", v.VNI)
			continue
		}
		if most := p.spec.Underlay.MTU - overhead(local.Addr()); most > 0 && v.MTU > most {
			p.problem("VNI %d has MTU %d, and the underlay's MTU of %d leaves %d: large packets are lost; make the network's MTU smaller or the underlay's larger.", v.VNI, v.MTU, p.spec.Underlay.MTU, most)
		}
		what := fmt.Sprintf("VNI %d", v.VNI)
		if !p.ensure(Link{Name: BridgeOfVNI(v.VNI), Kind: "bridge", Alias: fmt.Sprintf("%sVNI %d of %s", prefix, v.VNI, v.Owner), MAC: bridgeMAC(v.VNI), MTU: v.MTU, Closed: true, Up: true}, what) {
			continue
		}
		name := VXLANDevice(v.VNI)
		if l := p.now.Links[name]; l != nil && l.class() == classVXLAN && (l.VNI != v.VNI || l.Local != local.Addr() || !l.Plain) {
			p.add(DeleteLink{name}) // none of these can be changed
		}
		p.ensure(Link{Name: name, Kind: "vxlan", Alias: fmt.Sprintf("%sVXLAN %d", prefix, v.VNI), MTU: v.MTU, VNI: v.VNI, Local: local.Addr(),
			Master: BridgeOfVNI(v.VNI), Flags: vxlanPort, Closed: true, Up: true}, what)
	}
}
