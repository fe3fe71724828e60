package network

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"nereid/api"
)

// memory is what is known without a question to the kernel: what the last Read of
// everything said, and since then our own changes and what Watch was told. One port
// costs the same with it however many there are.
type memory struct {
	links map[int32]*Link       // by index; what is in it is replaced, not changed
	ports map[string]*portState // that SetPort was asked for, by device
	made  map[ground]string     // each ground's bridge; empty: it was tried, and there is none
	count map[ground]int        // ports on it
	turn  int                   // of Apply: whoever failed before it may try again
}

// portState is one that SetPort was asked for. want, link and sure are guarded by
// Network.mu.
type portState struct {
	name string
	busy chan struct{} // one slot: a port is changed by one at a time
	turn int           // of the Apply that found no ground for it last

	want *api.PortSpec
	link *Link // as seen last; nil: it is not there
	sure bool  // nothing was heard since that contradicts link

	kept   bool    // joined is what is kept for Rejoin; guarded by busy
	joined *Joined // nil: nothing
}

func newMemory() memory {
	return memory{links: map[int32]*Link{}, ports: map[string]*portState{}, made: map[ground]string{}, count: map[ground]int{}}
}

// name is of the link with an index.
func (m *memory) name(index int32) string {
	if l := m.links[index]; l != nil {
		return l.Name
	}
	return ""
}

// needs are the grounds of all ports.
func (m *memory) needs() []ground {
	g := make([]ground, 0, len(m.count))
	for ground := range m.count {
		g = append(g, ground)
	}
	return g
}

// see replaces what is known of a port's link.
func (m *memory) see(p *portState, l *Link) {
	if p.link != nil && (l == nil || l.Index != p.link.Index) {
		delete(m.links, p.link.Index)
	}
	p.link, p.sure = l, true
	if l != nil {
		m.links[l.Index] = l
	}
}

// want replaces what a port is to be; nil: nothing. unused is set when no port stands
// any more where it stood.
func (m *memory) want(p *portState, spec *api.PortSpec) (unused bool) {
	if p.want != nil {
		g := groundOf(*p.want)
		if m.count[g]--; m.count[g] == 0 {
			delete(m.count, g)
			unused = spec == nil || groundOf(*spec) != g
		}
	}
	if p.want = spec; spec != nil {
		m.count[groundOf(*spec)]++
	}
	return unused
}

// all takes over what a Read of everything said, and which bridges a plan has. It
// returns the ports that are not as they should be, or can be made now.
func (m *memory) all(s *State, needs []ground, bridge func(ground) string) (disturbed []string) {
	m.links = make(map[int32]*Link, len(s.Links))
	for _, l := range s.Links {
		m.links[l.Index] = l
	}
	m.tried(needs, func(g ground) string {
		if name := bridge(g); s.Links[name] != nil {
			return name
		}
		return ""
	})
	for _, p := range m.ports {
		p.link, p.sure = s.Links[p.name], true
		if p.want == nil {
			continue
		}
		if b := m.made[groundOf(*p.want)]; b != "" && len(planPort(*p.want, b, p.link).steps) > 0 {
			disturbed = append(disturbed, p.want.MAC)
		}
	}
	return disturbed
}

// tried notes what an Apply came to: which bridges there are, and which not.
func (m *memory) tried(needs []ground, bridge func(ground) string) {
	m.made, m.turn = make(map[ground]string, len(needs)), m.turn+1
	for _, g := range needs {
		m.made[g] = bridge(g)
	}
}

// heard judges what was told of links: whether something else than a port is not as it
// is known, and which ports may not be.
func (m *memory) heard(events map[linkKey]Event, byApply map[string]bool) (others bool, ports []string) {
	for k, e := range events {
		l := m.links[k.dev]
		name := m.name(k.dev)
		switch {
		case e.Removed && l == nil, e.Port != nil && l == nil:
			continue // it is known by what was told of the link itself
		case e.Port != nil && *e.Port == l.Flags:
			continue
		case e.Link != nil:
			now := e.Link.named(m.name)
			if l != nil && alike(l, now) {
				continue
			}

			if l == nil || now.class() != "" {
				name = now.Name
			}
		}
		switch p := m.ports[name]; {
		case p != nil:
			p.sure = false
			if p.want != nil && !slices.Contains(ports, p.want.MAC) {
				ports = append(ports, p.want.MAC)
			}
		case strings.HasPrefix(name, PortPrefix) && !byApply[name]:
			// One that nobody asked for, or that was just dropped, needs nothing.
		default:
			others = true
		}
	}
	return others, ports
}

// alike reports whether two links are the same for a plan and for a report, but for
// what is counted.
func alike(a, b *Link) bool {
	x, y := *a, *b
	for _, l := range []*Link{&x, &y} {
		if !l.device() && l.Kind != "bond" {
			l.Carrier = false
		}
		l.Stats, l.Member, l.Addrs, l.Routes, l.AltNames = Stats{}, Member{}, nil, nil, nil
	}
	return reflect.DeepEqual(x, y) && slices.Equal(slices.Sorted(slices.Values(a.AltNames)), slices.Sorted(slices.Values(b.AltNames)))
}

// lookAt reads what is there of one port's link.
func (n *Network) lookAt(ctx context.Context, p *portState) (*Link, error) {
	s, err := n.System.Read(ctx, p.name)
	if err != nil {
		n.doubt(p)
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known().see(p, s.Links[p.name])
	return p.link, nil
}
