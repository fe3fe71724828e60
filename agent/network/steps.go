package network

import (
	"fmt"
	"strings"

	"nereid/api"
)

// Step is one change of the kernel's state, small enough to be done or not done.
// Its text says what it does; equal steps have equal texts.
type Step interface {
	fmt.Stringer
	// on is the link that it changes.
	on() string
}

// The steps.
type (
	// CreateLink makes a link, down, with its alias. A bridge has no STP and no
	// multicast snooping.
	CreateLink struct{ Link Link }
	// DeleteLink removes a link; what is on it is released.
	DeleteLink struct{ Name string }
	// SetAlias sets the ifalias.
	SetAlias struct{ Name, Alias string }
	// SetMTU sets the MTU.
	SetMTU struct {
		Name string
		MTU  int
	}
	// SetMaster puts a link into a bridge or bond, or with "" takes it out. A
	// bond takes only links that are down, and brings them up.
	SetMaster struct{ Name, Master string }
	// SetUp sets a link up or down.
	SetUp struct {
		Name string
		Up   bool
	}
	// SetFlags sets a bridge port's flags.
	SetFlags struct {
		Name  string
		Flags PortFlags
	}
	// Close keeps the host's IP from a link, or with Closed false lets it in.
	Close struct {
		Name   string
		Closed bool
	}
	// AltName adds or removes an alternative name.
	AltName struct {
		Name, Alt string
		Add       bool
	}
	// Rename gives a link another name.
	Rename struct{ Name, To string }
	// SetBond changes a bond's LACP rate, for which it goes down and up; its
	// addresses and routes are put back.
	SetBond struct {
		Name, Rate string
		Addrs      []Addr
		Routes     []Route
	}
	// AddAddr adds an address without duplicate address detection.
	AddAddr struct {
		Name string
		Addr Addr
	}
	// DelAddr removes an address.
	DelAddr struct {
		Name string
		Addr Addr
	}
	// SetRoute adds a route or takes it over from another link.
	SetRoute struct {
		Name  string
		Route Route
	}
	// DelRoute removes a route.
	DelRoute struct {
		Name  string
		Route Route
	}
	// Move takes addresses and routes from one link to another. At no time is an
	// address nowhere.
	Move struct {
		From, To string
		Addrs    []Addr
		Routes   []Route
	}
	// Connect makes an instance's NIC: namespace, veth pair and what is inside.
	// On a NIC that is there it makes the inside right. Of a zone's NIC the pair is
	// all: the zone takes it in. That of a virtual machine is a tap, whose other end is
	// its QEMU's.
	Connect struct {
		Link  Link // the host's end
		Guest Guest
	}
	// Disconnect removes an instance's NIC and its namespace.
	Disconnect struct{ Name, Namespace string }
)

// Guest is the instance's end of a NIC. One with Peer waits on the server under that
// name for the zone that takes it in, and gets its addresses there; Namespace is empty.
type Guest struct {
	Namespace string
	Peer      string `json:",omitempty"`
	Tap       bool   `json:",omitempty"` // a virtual machine's: there is nothing else of it here
	MAC       string
	MTU       int
	Addrs     []Addr
	Routes    []Route
}

func guestOf(p api.PortSpec) (Guest, error) {
	if p.Brand == api.BrandKVM {
		return Guest{Tap: true, MAC: strings.ToLower(p.MAC), MTU: p.MTU}, nil
	}
	if p.Brand == api.BrandLX {
		return Guest{Peer: ZoneEnd(p.MAC), MAC: strings.ToLower(p.MAC), MTU: p.MTU}, nil
	}
	g := Guest{Namespace: PortNamespace(p.MAC), MAC: strings.ToLower(p.MAC), MTU: p.MTU}
	for _, a := range p.Addresses {
		ip, err := parsePrefix(a.Address)
		if err != nil {
			return g, err
		}
		g.Addrs = append(g.Addrs, Addr{Prefix: ip})
		routes, err := parseRoutes(a.Routes)
		if err != nil {
			return g, err
		}
		if p.Primary && a.Gateway != "" {
			gw, err := parseAddr(a.Gateway)
			if err != nil {
				return g, err
			}
			routes = append(routes, Route{Dst: defaultOf(gw), Via: gw})
		}
		g.Routes = append(g.Routes, routes...)
	}
	return g, nil
}

func (s CreateLink) on() string { return s.Link.Name }
func (s DeleteLink) on() string { return s.Name }
func (s SetAlias) on() string   { return s.Name }
func (s SetMTU) on() string     { return s.Name }
func (s SetMaster) on() string  { return s.Name }
func (s SetUp) on() string      { return s.Name }
func (s SetFlags) on() string   { return s.Name }
func (s Close) on() string      { return s.Name }
func (s AltName) on() string    { return s.Name }
func (s Rename) on() string     { return s.Name }
func (s SetBond) on() string    { return s.Name }
func (s AddAddr) on() string    { return s.Name }
func (s DelAddr) on() string    { return s.Name }
func (s SetRoute) on() string   { return s.Name }
func (s DelRoute) on() string   { return s.Name }
func (s Move) on() string       { return s.From }
func (s Connect) on() string    { return s.Link.Name }
func (s Disconnect) on() string { return s.Name }

func (s CreateLink) String() string {
	t := fmt.Sprintf("create %s %s mtu %d", s.Link.Name, s.Link.describe(), s.Link.MTU)
	if s.Link.MAC != "" {
		t += " address " + s.Link.MAC
	}
	return t
}
func (s DeleteLink) String() string { return "delete " + s.Name }
func (s SetAlias) String() string   { return fmt.Sprintf("set %s alias %q", s.Name, s.Alias) }
func (s SetMTU) String() string     { return fmt.Sprintf("set %s mtu %d", s.Name, s.MTU) }
func (s SetMaster) String() string {
	if s.Master == "" {
		return fmt.Sprintf("set %s nomaster", s.Name)
	}
	return fmt.Sprintf("set %s master %s", s.Name, s.Master)
}
func (s SetUp) String() string    { return fmt.Sprintf("set %s %s", s.Name, either(s.Up, "up", "down")) }
func (s SetFlags) String() string { return fmt.Sprintf("set %s flags %s", s.Name, s.Flags) }
func (s Close) String() string    { return either(s.Closed, "close ", "open ") + s.Name }
func (s AltName) String() string {
	return fmt.Sprintf("set %s %s %s", s.Name, either(s.Add, "also", "not"), s.Alt)
}
func (s Rename) String() string   { return fmt.Sprintf("rename %s to %s", s.Name, s.To) }
func (s SetBond) String() string  { return fmt.Sprintf("set %s lacp_rate %s", s.Name, s.Rate) }
func (s AddAddr) String() string  { return fmt.Sprintf("add %s to %s", s.Addr, s.Name) }
func (s DelAddr) String() string  { return fmt.Sprintf("remove %s from %s", s.Addr, s.Name) }
func (s SetRoute) String() string { return fmt.Sprintf("add route %s by %s", s.Route, s.Name) }
func (s DelRoute) String() string { return fmt.Sprintf("remove route %s by %s", s.Route, s.Name) }
func (s Move) String() string {
	return fmt.Sprintf("move from %s to %s: addresses %v, routes %v", s.From, s.To, s.Addrs, s.Routes)
}
func (s Connect) String() string {
	if s.Guest.Tap {
		return fmt.Sprintf("connect %s, a tap: %s mtu %d", s.Link.Name, s.Guest.MAC, s.Guest.MTU)
	}
	if s.Guest.Peer != "" {
		return fmt.Sprintf("connect %s with %s: %s mtu %d", s.Link.Name, s.Guest.Peer, s.Guest.MAC, s.Guest.MTU)
	}
	return fmt.Sprintf("connect %s to %s: %s mtu %d, addresses %v, routes %v", s.Link.Name, s.Guest.Namespace, s.Guest.MAC, s.Guest.MTU, s.Guest.Addrs, s.Guest.Routes)
}
func (s Disconnect) String() string { return fmt.Sprintf("disconnect %s from %s", s.Name, s.Namespace) }

func either(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}
