package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var hostNameRE = regexp.MustCompile(`^vr[0-9a-f]{12}$`)

// place is what was read of one namespace.
type place struct {
	note    string // after mark in lo's alias; empty: the server's own
	links   map[string]netlink.Link
	byIndex map[int]netlink.Link
	addrs   map[int][]netip.Prefix
}

// pairOf is what an interface's alias says that it is an end of.
func pairOf(l netlink.Link) (veth, bool) {
	text, ours := strings.CutPrefix(l.Attrs().Alias, mark)
	if !ours || l.Type() != "veth" {
		return veth{}, false
	}
	return parseVeth(text)
}

// reader collects the state.
type reader struct {
	*kernel
	*state
	places map[string]place
}

// Read implements world. It asks only about what is its own, one by one, so that
// the size of the VNIs' maps does not matter.
func (k *kernel) Read(ctx context.Context) (*state, error) {
	r := &reader{k, &state{Items: map[key]item{}, Bridges: map[string]int{}, Names: map[string]string{}, Foreign: map[string]string{}}, map[string]place{}}
	spaces, err := k.spaces()
	if err != nil {
		return nil, err
	}
	for _, at := range spaces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := r.readPlace(at); err != nil {
			return nil, fmt.Errorf("namespace %s: %w", at, err)
		}
	}
	if err := r.readPlace(""); err != nil {
		return nil, err
	}
	for at := range r.places {
		if err := r.readPairs(at); err != nil {
			return nil, fmt.Errorf("namespace %s: %w", at, err)
		}
		if err := r.readRoutes(at); err != nil {
			return nil, fmt.Errorf("namespace %s: %w", at, err)
		}
	}
	return r.state, nil
}

// spaces are the names of the namespaces whose names begin as ours do.
func (k *kernel) spaces() ([]string, error) {
	files, err := os.ReadDir(k.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "nr-") && isSpace(filepath.Join(k.dir, f.Name())) {
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// readPlace reads the interfaces of a namespace, if it is ours or the server's.
func (r *reader) readPlace(at string) error {
	h, err := r.at(at)
	if err != nil {
		return err
	}
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	p := place{links: map[string]netlink.Link{}, byIndex: map[int]netlink.Link{}, addrs: map[int][]netip.Prefix{}}
	for _, l := range links {
		p.links[l.Attrs().Name], p.byIndex[l.Attrs().Index] = l, l
		if at == "" && l.Type() == "bridge" {
			r.Bridges[l.Attrs().Name] = l.Attrs().MTU
			for _, name := range append(l.Attrs().AltNames, l.Attrs().Name) {
				r.Names[name] = l.Attrs().Name
			}
		}
	}
	if at != "" {
		lo := p.links["lo"]
		if lo == nil || !strings.HasPrefix(lo.Attrs().Alias, mark) {
			r.Foreign[at] = "a network namespace"
			return nil
		}
		if err := r.readSpace(at, &p, lo); err != nil {
			return err
		}
		addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			p.addrs[a.LinkIndex] = append(p.addrs[a.LinkIndex], prefixOf(a.IPNet))
		}
	}
	r.places[at] = p
	return nil
}

// readSpace reads what a namespace has as a whole.
func (r *reader) readSpace(at string, p *place, lo netlink.Link) error {
	p.note, _, _ = strings.Cut(strings.TrimPrefix(lo.Attrs().Alias, mark), rulesMark)
	r.put(item{key{Kind: kindSpace, At: at}, p.note, at})
	if lo.Attrs().RawFlags&unix.IFF_UP != 0 {
		r.put(item{key{Kind: kindUp, At: at, Link: "lo"}, true, at})
	}
	paths := sysctls()
	if p.uplink() {
		paths["net/ipv4/conf/all/accept_local"], paths["net/ipv4/conf/default/accept_local"] = "", ""
	}
	return inside(r.path(at), func() error {
		for path := range paths {
			if b, err := os.ReadFile(filepath.Join("/proc/sys", path)); err == nil {
				r.put(item{key{Kind: kindSysctl, At: at, Link: path}, strings.TrimSpace(string(b)), at})
			}
		}
		generation, err := rulesGeneration()
		if err != nil {
			return err
		}
		if sum := currentRules(lo.Attrs().Alias, generation); sum != "" {
			r.put(item{key{Kind: kindRules, At: at}, sum, at})
		}
		return nil
	})
}

func (p place) uplink() bool { return strings.HasPrefix(p.note, "uplink ") }

// readPairs reads our interfaces of a place, and what belongs to each.
func (r *reader) readPairs(at string) error {
	p := r.places[at]
	var ports map[int]portFlags
	if at == "" {
		if err := inside(r.path(at), func() (err error) { ports, err = bridgePorts(); return err }); err != nil {
			return err
		}
	}
	for name, l := range p.links {
		v, ours := pairOf(l)
		if !ours {
			if at == "" && hostNameRE.MatchString(name) {
				r.Foreign[name] = "a " + l.Type()
			}
			continue
		}
		a := l.Attrs()
		put := func(k key, value any) {
			k.At, k.Link = at, name
			r.put(item{k, value, v.Space})
		}
		if at != v.Space { // the outer end
			if !r.whole(l, v) {
				v.Note = "broken"
			}
			put(key{Kind: kindVeth}, v)
		}
		put(key{Kind: kindMTU}, a.MTU)
		if a.RawFlags&unix.IFF_UP != 0 {
			put(key{Kind: kindUp}, true)
		}
		for _, prefix := range p.addrs[a.Index] {
			put(key{Kind: kindAddr, Addr: prefix}, true)
		}
		var err error
		if at != "" {
			err = inside(r.path(at), func() error {
				for _, peer := range []netip.Addr{uplinkEnd.Addr(), routerEnd.Addr()} {
					mac, err := neighbour(a.Index, peer)
					if err != nil {
						return err
					}
					if mac != "" {
						put(key{Kind: kindNeigh, Addr: host(peer)}, mac)
					}
				}
				return nil
			})
		} else if b := p.byIndex[a.MasterIndex]; b != nil {
			put(key{Kind: kindPort}, port{b.Attrs().Name, ports[a.Index]})
			err = r.readBridge(b, a.Index, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whole reports whether the other end of a pair is where and how its alias says.
func (r *reader) whole(outer netlink.Link, v veth) bool {
	inner := r.places[v.Space].links[v.Inner]
	if inner == nil {
		return false
	}
	i, o := inner.Attrs(), outer.Attrs()
	return i.ParentIndex == o.Index && o.ParentIndex == i.Index && i.Alias == o.Alias && i.HardwareAddr.String() == v.MAC &&
		(v.Outer == "" || v.Outer == o.HardwareAddr.String())
}

// readBridge reads what a leg has on its bridge: the forwarding entry of its MAC,
// and neighbour entries of the addresses at its inner end. These are made after
// the addresses and removed before them, so that there are no others.
func (r *reader) readBridge(bridge netlink.Link, index int, v veth) error {
	inner := r.places[v.Space].links[v.Inner]
	return inside(r.path(""), func() error {
		at, err := staticEntry(index, v.MAC)
		if err != nil {
			return err
		}
		name := r.places[""].byIndex[index].Attrs().Name
		if at == index {
			r.put(item{key{Kind: kindFDB, Link: name, MAC: v.MAC}, true, v.Space})
		}
		if inner == nil {
			return nil
		}
		for _, p := range r.places[v.Space].addrs[inner.Attrs().Index] {
			mac, err := neighbour(bridge.Attrs().Index, p.Addr())
			if err != nil {
				return err
			}
			if mac == v.MAC {
				r.put(item{key{Kind: kindNeigh, Link: bridge.Attrs().Name, Addr: host(p.Addr())}, mac, v.Space})
			}
		}
		return nil
	})
}

// readRoutes reads our routes and rules of a namespace.
func (r *reader) readRoutes(at string) error {
	if at == "" {
		return nil
	}
	h, err := r.at(at)
	if err != nil {
		return err
	}
	p := r.places[at]
	slots := map[int]string{} // whose they are
	for _, l := range p.links {
		if v, ok := pairOf(l); ok && at != v.Space {
			if g, ok := parseGrant(v.Note); ok {
				slots[g.slot] = v.Space
			}
		}
	}
	policies := 0
	for _, six := range []bool{false, true} {
		f := familyNumber(family(six))
		routes, err := h.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return err
		}
		for _, rt := range routes {
			l := p.byIndex[rt.LinkIndex]
			if l == nil {
				continue
			}
			of := at
			if v, ok := pairOf(l); ok {
				of = v.Space
			}
			dst := anywhere(six)
			if rt.Dst != nil {
				dst = prefixOf(rt.Dst)
			}
			r.put(item{key{Kind: kindRoute, At: at, Addr: dst, N: rt.Table}, hop{viaOf(rt), l.Attrs().Name}, of})
		}
		if !p.uplink() {
			continue
		}
		rules, err := h.RuleList(f)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			switch {
			case rule.Priority <= 0 && rule.Table == unix.RT_TABLE_LOCAL:
				policies -= 4
			case rule.Protocol != protocol:
			case rule.Priority == prefLocal || rule.Priority == prefMain:
				policies++
			case rule.Priority > prefSlots:
				slot := rule.Priority - prefSlots
				r.put(item{key{Kind: kindRule, At: at, N: slot, Six: six}, rule.Table, slots[slot]})
			}
		}
	}
	if policies == 4 {
		r.put(item{key{Kind: kindPolicy, At: at}, true, at})
	}
	return nil
}
