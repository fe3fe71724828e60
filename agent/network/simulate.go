package network

import (
	"errors"
	"fmt"
	"slices"
)

// do changes a state as the kernel would. A plan uses it to know what will be
// there; the netns tests compare it with the kernel.
func (s *State) do(step Step) error {
	if c, ok := step.(CreateLink); ok {
		return s.create(c.Link)
	}
	if c, ok := step.(Connect); ok && s.Links[c.Link.Name] == nil {
		return s.create(c.Link)
	}
	l := s.Links[step.on()]
	if _, ok := step.(Disconnect); ok && l == nil {
		return nil // of its namespace something may be left
	}
	if l == nil {
		return fmt.Errorf("no link %s", step.on())
	}
	switch t := step.(type) {
	case Connect:
		l.Alias = t.Link.Alias
	case DeleteLink:
		s.delete(l.Name)
	case Disconnect:
		s.delete(l.Name)
	case SetAlias:
		l.Alias = t.Alias
	case SetMTU:
		return s.setMTU(l, t.MTU)
	case SetMaster:
		return s.setMaster(l, t.Master)
	case SetUp:
		s.setUp(l, t.Up)
	case SetFlags:
		if l.Master == "" {
			return fmt.Errorf("%s is not a port", l.Name)
		}
		l.Flags = t.Flags
	case Close:
		l.Closed = t.Closed
		if t.Closed {
			l.Addrs = slices.DeleteFunc(l.Addrs, func(a Addr) bool { return a.Prefix.Addr().Is6() })
		}
	case AltName:
		l.AltNames = slices.DeleteFunc(l.AltNames, func(a string) bool { return a == t.Alt })
		if t.Add {
			if s.find(t.Alt) != nil {
				return fmt.Errorf("the name %s is taken", t.Alt)
			}
			l.AltNames = append(l.AltNames, t.Alt)
		}
	case Rename:
		return s.rename(l, t.To)
	case SetBond:
		l.Rate = t.Rate
	case AddAddr:
		l.Addrs = append(l.Addrs, t.Addr)
	case DelAddr:
		l.Addrs = slices.DeleteFunc(l.Addrs, func(a Addr) bool { return a.Prefix == t.Addr.Prefix })
	case SetRoute:
		s.setRoute(l, t.Route)
	case DelRoute:
		l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r == t.Route })
	case Move:
		return s.move(l, t)
	default:
		return fmt.Errorf("step %T is not known", step)
	}
	return nil
}

func (s *State) create(l Link) error {
	if s.find(l.Name) != nil {
		return fmt.Errorf("a link %s is there already", l.Name)
	}
	if l.Kind == "vlan" {
		parent := s.Links[l.Parent]
		if parent == nil {
			return fmt.Errorf("no link %s", l.Parent)
		}
		for _, o := range s.Links {
			if o.Kind == "vlan" && o.Parent == l.Parent && o.VLAN == l.VLAN {
				return fmt.Errorf("%s has a VLAN %d already", l.Parent, l.VLAN)
			}
		}
		if l.MTU > parent.MTU {
			return fmt.Errorf("MTU %d is more than %s has", l.MTU, l.Parent)
		}
	}
	c := l.clone()
	c.Plain = c.Kind == "vxlan"
	for _, o := range s.Links {
		c.Index = max(c.Index, o.Index)
	}
	c.Index++
	s.Links[c.Name] = c
	return nil
}

func (s *State) delete(name string) {
	for _, port := range s.ports(name) {
		port.Flags = PortFlags{}
		if s.Links[name].Kind == "bond" {
			s.setUp(port, false)
		}
		port.Master = ""
	}
	for _, l := range s.Links {
		if l.Parent == name && l.Kind == "vlan" {
			s.delete(l.Name)
		}
	}
	delete(s.Links, name)
}

func (s *State) setMTU(l *Link, mtu int) error {
	if l.MaxMTU > 0 && mtu > l.MaxMTU {
		return fmt.Errorf("%s: MTU %d is more than %d", l.Name, mtu, l.MaxMTU)
	}
	if p := s.Links[l.Parent]; l.Kind == "vlan" && p != nil && mtu > p.MTU {
		return fmt.Errorf("%s: MTU %d is more than %s has", l.Name, mtu, p.Name)
	}
	l.MTU = mtu
	for _, o := range s.Links {
		if l.Kind == "bond" && o.Master == l.Name || o.Kind == "vlan" && o.Parent == l.Name && o.MTU > mtu {
			if err := s.setMTU(o, mtu); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *State) setMaster(l *Link, master string) error {
	if old := s.Links[l.Master]; old != nil && old.Kind == "bond" {
		s.setUp(l, false)
	}
	l.Master, l.Flags = "", PortFlags{}
	if master == "" {
		return nil
	}
	m := s.Links[master]
	switch {
	case m == nil:
		return fmt.Errorf("no link %s", master)
	case m.Kind == "bond" && l.Kind == "bond":
		return errors.New("a bond cannot be a member of a bond")
	case m.Kind == "bond":
		if l.Up {
			return fmt.Errorf("%s is up", l.Name)
		}
		l.MTU = m.MTU
		l.Up = true
	case m.Kind == "bridge":
		l.Flags = openPort
	default:
		return fmt.Errorf("%s takes no ports", master)
	}
	l.Master = master
	return nil
}

// setUp: a link that goes down loses its routes and IPv6 addresses.
func (s *State) setUp(l *Link, up bool) {
	l.Up = up
	if !up {
		l.Routes = nil
		l.Addrs = slices.DeleteFunc(l.Addrs, func(a Addr) bool { return a.Prefix.Addr().Is6() })
	}
}

func (s *State) rename(l *Link, to string) error {
	if s.find(to) != nil {
		return fmt.Errorf("the name %s is taken", to)
	}
	old := l.Name
	delete(s.Links, old)
	l.Name = to
	s.Links[to] = l
	for _, o := range s.Links {
		if o.Master == old {
			o.Master = to
		}
		if o.Parent == old {
			o.Parent = to
		}
	}
	return nil
}

// setRoute replaces the route to the same destination with the same metric, on
// whatever link it is.
func (s *State) setRoute(l *Link, r Route) {
	for _, o := range s.Links {
		o.Routes = slices.DeleteFunc(o.Routes, func(have Route) bool { return have.Dst == r.Dst && have.Metric == r.Metric })
	}
	l.Routes = append(l.Routes, r)
}

func (s *State) move(from *Link, m Move) error {
	to := s.Links[m.To]
	if to == nil {
		return fmt.Errorf("no link %s", m.To)
	}
	if !to.Up || to.Closed {
		return fmt.Errorf("%s is not for the host", m.To)
	}
	for _, a := range m.Addrs {
		from.Addrs = slices.DeleteFunc(from.Addrs, func(have Addr) bool { return have.Prefix == a.Prefix })
		to.Addrs = slices.DeleteFunc(to.Addrs, func(have Addr) bool { return have.Prefix == a.Prefix })
		to.Addrs = append(to.Addrs, a)
	}
	for _, r := range m.Routes {
		s.setRoute(to, r)
	}
	return nil
}
