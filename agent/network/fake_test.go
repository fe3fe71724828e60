package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// fake is a System that keeps its state and prints it. What a step does to the
// state is what a plan thinks it does; the netns tests compare that with the kernel.
type fake struct {
	state  *State
	tables map[int32]*Table // by bridge
	done   []string         // texts of steps since the last take
	left   int              // steps until the process is killed; negative: never
	refuse func(Step) error
	events chan Event
	during func() // called by Change

	mu    sync.Mutex
	dumps int // Reads of everything
	asked int // links that were asked for by name
}

var errKilled = errors.New("killed")

// newFake is a server with NICs of these names, whose MACs end in their numbers.
func newFake(nics ...string) *fake {
	f := &fake{state: &State{Links: map[string]*Link{}}, tables: map[int32]*Table{}, left: -1, events: make(chan Event, 100)}
	f.state.Links["lo"] = &Link{Name: "lo", Index: 1, MTU: 65536, Loopback: true, Up: true}
	for i, name := range nics {
		f.state.Links[name] = &Link{Name: name, Index: int32(i + 2), MTU: 1500, MaxMTU: 9000, MAC: mac(i + 1), PermMAC: mac(i + 1), Carrier: true}
	}
	return f
}

func mac(n int) string { return fmt.Sprintf("02:00:00:00:00:%02x", n) }

// admin puts the server's admin address and a default route on a link.
func (f *fake) admin(link string) {
	l := f.state.Links[link]
	l.Up = true
	l.Addrs = append(l.Addrs, Addr{Prefix: netip.MustParsePrefix("10.99.99.5/24")}, Addr{Prefix: netip.MustParsePrefix("fd99::5/64")})
	l.Routes = append(l.Routes, Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: adminGateway, Proto: 3})
}

var (
	adminAddr    = netip.MustParseAddr("10.99.99.5")
	adminGateway = netip.MustParseAddr("10.99.99.1")
)

func (f *fake) Read(ctx context.Context, names ...string) (*State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return nil, errKilled
	}
	if len(names) == 0 {
		f.dumps++
		return f.state.clone(), ctx.Err()
	}
	s := &State{Links: map[string]*Link{}}
	for _, name := range names {
		f.asked++
		if l := f.state.Links[name]; l != nil {
			s.Links[name] = l.clone()
			s.Links[name].Addrs, s.Links[name].Routes = nil, nil
		}
	}
	return s, ctx.Err()
}

func (f *fake) Do(_ context.Context, s Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return errKilled
	}
	if f.refuse != nil {
		if err := f.refuse(s); err != nil {
			return err
		}
	}
	if err := f.state.do(s); err != nil {
		return err
	}
	f.done = append(f.done, s.String())
	if f.left--; f.left < 0 {
		f.left = -1
	}
	return nil
}

func (f *fake) table(bridge int32) *Table {
	if f.tables[bridge] == nil {
		f.tables[bridge] = &Table{map[MAC]Place{}, map[netip.Addr]MAC{}}
	}
	return f.tables[bridge]
}

func (f *fake) Table(_ context.Context, bridge, _ int32) (Table, error) {
	t := f.table(bridge)
	return Table{maps.Clone(t.Forward), maps.Clone(t.Neighbours)}, nil
}

func (f *fake) byIndex(i int32) *Link {
	for _, l := range f.state.Links {
		if l.Index == i {
			return l
		}
	}
	return nil
}

func (f *fake) Change(_ context.Context, changes []Change) error {
	if f.during != nil {
		f.during()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		dev := f.byIndex(c.Dev)
		if dev == nil && c.Delete {
			continue
		}
		if dev == nil {
			return fmt.Errorf("%s: no such link", c)
		}
		if c.IP.IsValid() {
			if t := f.table(c.Dev); c.Delete {
				delete(t.Neighbours, c.IP)
			} else {
				t.Neighbours[c.IP] = c.MAC
			}
			continue
		}
		t := f.table(f.state.Links[dev.Master].Index)
		switch {
		case !c.Delete:
			t.Forward[c.MAC] = Place{c.Dev, c.Underlay}
		case t.Forward[c.MAC].Port == c.Dev:
			delete(t.Forward, c.MAC)
		}
	}
	return nil
}

func (f *fake) Watch(ctx context.Context, ready func(), changed func(Event)) error {
	ready()
	for {
		select {
		case e := <-f.events:
			changed(e)
		case <-ctx.Done():
			return nil
		}
	}
}

// String prints links and entries.
func (f *fake) String() string {
	var b strings.Builder
	b.WriteString(f.state.String())
	var lines []string
	for i, t := range f.tables {
		bridge := f.byIndex(i)
		if bridge == nil {
			continue
		}
		for mac, p := range t.Forward {
			if l := f.byIndex(p.Port); l != nil {
				lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s: %s by %s %s", bridge.Name, mac, l.Name, strings.TrimPrefix(p.Underlay.String(), "invalid IP"))))
			}
		}
		for ip, mac := range t.Neighbours {
			lines = append(lines, fmt.Sprintf("%s: %s is %s", bridge.Name, ip, mac))
		}
	}
	slices.Sort(lines)
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	return b.String()
}

// take returns the steps done since the last call.
func (f *fake) take() []string {
	d := f.done
	f.done = nil
	return d
}

// apply applies a spec twice with a new agent; the second time does nothing.
func (f *fake) apply(t *testing.T, spec api.NetworkSpec) (*Network, Problems) {
	t.Helper()
	n := &Network{System: f}
	err := n.Apply(t.Context(), spec)
	var problems Problems
	if err != nil && !errors.As(err, &problems) {
		t.Fatalf("Apply: %v", err)
	}
	f.take()
	before := f.String()
	var again Problems
	if err := n.Apply(t.Context(), spec); err != nil && !errors.As(err, &again) {
		t.Fatalf("Apply again: %v", err)
	}
	if steps := f.take(); len(steps) > 0 {
		t.Errorf("the second Apply did:\n%s", strings.Join(steps, "\n"))
	}
	if d := cmp.Diff(before, f.String()); d != "" {
		t.Errorf("the second Apply changed:\n%s", d)
	}
	if d := cmp.Diff(problems, again); d != "" {
		t.Errorf("the second Apply says otherwise:\n%s", d)
	}
	return n, problems
}

func (f *fake) mustApply(t *testing.T, spec api.NetworkSpec) *Network {
	t.Helper()
	n, problems := f.apply(t, spec)
	if len(problems) > 0 {
		t.Fatalf("problems:\n%s", strings.Join(problems, "\n"))
	}
	return n
}

// gone names the instances' NICs that are there and not in a spec.
func (s *State) gone(spec api.NetworkSpec) (gone []api.GoneNIC) {
	nics, _ := s.unexpected(spec)
	for _, n := range nics {
		gone = append(gone, api.GoneNIC{ID: "gone " + n.MAC, MAC: n.MAC, Instance: n.Instance})
	}
	return gone
}

func port(n int, set func(*api.PortSpec)) api.PortSpec {
	p := api.PortSpec{MAC: fmt.Sprintf("02:01:00:00:00:%02x", n), Instance: fmt.Sprintf("i%d", n), Owner: "acc", MTU: 1500}
	set(&p)
	return p
}

func onTag(tag string, vlan int, addr, gw string) func(*api.PortSpec) {
	return func(p *api.PortSpec) {
		p.Tag, p.VLAN, p.Primary = tag, vlan, true
		p.Addresses = []api.PortAddress{{Address: addr, Gateway: gw}}
	}
}

func onVNI(vni uint32, addrs ...string) func(*api.PortSpec) {
	return func(p *api.PortSpec) {
		p.VNI, p.MTU = vni, 1400
		for _, a := range addrs {
			p.Addresses = append(p.Addresses, api.PortAddress{Address: a})
		}
	}
}

func vni(n uint32) api.VNISpec { return api.VNISpec{VNI: n, Owner: "acc", MTU: 1400} }

var underlaySpec = &api.UnderlaySpec{Tag: "underlay", MTU: 1500, Address: "192.0.2.1/24", Gateway: "192.0.2.254", Subnets: []string{"192.0.2.0/24", "198.51.100.0/24"}}

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
