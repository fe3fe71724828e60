package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// ground is a spec without its ports.
func withoutPorts(s api.NetworkSpec) api.NetworkSpec {
	s.Ports = nil
	return s
}

// setAll sets ports side by side.
func (n *Network) setAll(t *testing.T, ports []api.PortSpec) {
	t.Helper()
	var all sync.WaitGroup
	for _, p := range ports {
		all.Go(func() {
			if err := n.SetPort(t.Context(), p); err != nil {
				t.Errorf("SetPort %s: %v", p.MAC, err)
			}
		})
	}
	all.Wait()
}

// Ports that are set are what Apply makes of the same spec, also when the spec without
// them changes under them: and an Apply of all of it finds nothing to do.
func TestSetPortIsApply(t *testing.T) {
	all := specs()
	for from, a := range all {
		for to, b := range all {
			t.Run(from+" to "+to, func(t *testing.T) {
				f := server()
				n := &Network{System: f}
				poked := map[string]bool{}
				n.Disturbed = func(mac string) { poked[mac] = true }
				for _, spec := range []api.NetworkSpec{a, b} {
					for _, gone := range n.wanted() {
						if !slices.ContainsFunc(spec.Ports, func(p api.PortSpec) bool { return p.MAC == gone.MAC }) {
							if err := n.DropPort(t.Context(), gone.MAC, gone.Instance); err != nil {
								t.Fatal(err)
							}
						}
					}
					if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil {
						t.Fatal(err)
					}
					n.setAll(t, spec.Ports)
					if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil { // drift
						t.Fatal(err)
					}
					before := f.String()
					f.take()
					f.mustApply(t, spec)
					if d := cmp.Diff(before, f.String()); d != "" {
						t.Errorf("Apply makes another network:\n%s", d)
					}
				}
				clean := server()
				clean.mustApply(t, b)
				if d := cmp.Diff(same(clean), same(f)); d != "" {
					t.Errorf("differs from a server that Apply made:\n%s", d)
				}
			})
		}
	}
}

// An agent that is killed after any step of setting, changing or dropping a port, and
// started again, comes to the same end.
func TestSetPortKilledAnywhere(t *testing.T) {
	spec := specs()["plain"]
	moved := port(1, onTag("external", 20, "203.0.113.8/24", "203.0.113.1"))
	for name, change := range map[string]func(ctx context.Context, n *Network) error{
		"set":  func(ctx context.Context, n *Network) error { return n.SetPort(ctx, spec.Ports[0]) },
		"vni":  func(ctx context.Context, n *Network) error { return n.SetPort(ctx, spec.Ports[2]) },
		"move": func(ctx context.Context, n *Network) error { return n.SetPort(ctx, moved) },
		"drop": func(ctx context.Context, n *Network) error {
			return n.DropPort(ctx, spec.Ports[1].MAC, spec.Ports[1].Instance)
		},
	} {
		t.Run(name, func(t *testing.T) {
			begin := func(f *fake) {
				f.mustApply(t, withoutPorts(spec))
				n := &Network{System: f}
				if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil {
					t.Fatal(err)
				}
				n.setAll(t, spec.Ports[1:2])
				if name == "move" {
					n.setAll(t, spec.Ports[:1])
				}
			}
			run := func(f *fake) error {
				n := &Network{System: f}
				err := n.Apply(t.Context(), withoutPorts(spec))
				if err == nil {
					err = change(t.Context(), n)
				}
				if err == nil {
					err = n.Apply(t.Context(), withoutPorts(spec))
				}
				return err
			}
			want := server()
			begin(want)
			if err := run(want); err != nil {
				t.Fatal(err)
			}
			k := 1
			for ; ; k++ {
				f := server()
				begin(f)
				f.left = k
				if err := run(f); f.left > 0 {
					if err != nil {
						t.Fatal(err)
					}
					break
				} else if err == nil {
					t.Fatalf("killed after step %d, and no error", k)
				}
				f.left = -1
				if err := run(f); err != nil {
					t.Fatalf("killed after step %d: %v", k, err)
				}
				if d := cmp.Diff(same(want), same(f)); d != "" {
					t.Fatalf("killed after step %d:\n%s", k, d)
				}
			}
			if k == 1 {
				t.Error("killed nowhere")
			}
		})
	}
}

// The cost of one port, in questions to the kernel and steps, is the same with 1,000
// others; one that is as it should be costs nothing.
func TestSetPortCost(t *testing.T) {
	cost := func(others int) (steps []string, dumps, asked int) {
		f := server()
		n := watching(t, f)
		spec := api.NetworkSpec{Tags: []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: mac(3)}}, Underlay: underlaySpec, VNIs: []api.VNISpec{vni(1), vni(2)}}
		if err := n.Apply(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		for i := range others {
			p := port(0, onVNI(1, "10.0.0.1/24"))
			p.MAC = fmt.Sprintf("02:01:00:00:%02x:%02x", 1+i/256, i%256)
			n.setAll(t, []api.PortSpec{p})
		}
		f.take()
		f.dumps, f.asked = 0, 0
		p := port(1, onVNI(2, "10.0.0.2/24"))
		n.setAll(t, []api.PortSpec{p})
		n.setAll(t, []api.PortSpec{p})
		steps = f.take()
		if err := n.DropPort(t.Context(), p.MAC, p.Instance); err != nil {
			t.Fatal(err)
		}
		return append(steps, f.take()...), f.dumps, f.asked
	}
	steps, dumps, asked := cost(2)
	if dumps != 0 || asked != 2 { // before the first step, as it may be there, and after the last
		t.Errorf("%d dumps, %d links asked for", dumps, asked)
	}
	many, dumps, asked2 := cost(1000)
	if d := cmp.Diff(steps, many); d != "" || dumps != 0 || asked2 != asked {
		t.Errorf("beside 1,000 ports: %d dumps, %d links asked for:\n%s", dumps, asked2, d)
	}
}

// watching is a network that is watched until the test ends.
func watching(t *testing.T, f *fake) *Network {
	n := &Network{System: f}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- n.Watch(ctx, func() { close(ready) }, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	<-ready
	return n
}

// A port's failure is its own: the others are made, and the next call does what is
// left. One that has nothing to stand on says so, and waits for an Apply.
func TestSetPortFails(t *testing.T) {
	f := server()
	n := &Network{System: f}
	spec := specs()["plain"]
	if err := n.SetPort(t.Context(), spec.Ports[0]); !errors.Is(err, errNotApplied) {
		t.Errorf("before Apply: %v", err)
	}
	if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil {
		t.Fatal(err)
	}
	f.refuse = func(s Step) error {
		if s.on() == PortDevice(spec.Ports[0].MAC) {
			return errors.New("no memory")
		}
		return nil
	}
	if err := n.SetPort(t.Context(), spec.Ports[0]); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Errorf("SetPort: %v", err)
	}
	n.setAll(t, spec.Ports[1:])
	f.refuse = nil
	n.setAll(t, spec.Ports)

	// 20 ports on a NIC tag that nothing provides.
	var lost []api.PortSpec
	for i := range 20 {
		lost = append(lost, port(100+i, onTag("storage", 7, "198.51.100.1/24", "")))
	}
	for round := range 3 {
		f.dumps = 0
		for _, p := range lost {
			err := n.SetPort(t.Context(), p)
			if err == nil || !strings.Contains(err.Error(), "NIC tag storage, VLAN 7 is not there; let a NIC") {
				t.Fatalf("SetPort: %v", err)
			}
		}
		if f.dumps > 2 {
			t.Errorf("round %d: %d dumps for 20 ports with nothing to stand on", round, f.dumps)
		}
	}
	var poked []string
	n.Disturbed = func(mac string) { poked = append(poked, mac) }
	spec.Tags = append(spec.Tags, api.TagSpec{Name: "storage", MTU: 1500, MAC: mac(4)})
	if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil || len(poked) != 20 {
		t.Errorf("with the tag: %v, told of %d ports", err, len(poked))
	}
	n.setAll(t, lost)
	if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil || len(poked) != 20 {
		t.Errorf("when all are there: %v, told of %d ports", err, len(poked))
	}
}

// The order stays: rules first, and then a bridge.
func TestSetPortIsProtected(t *testing.T) {
	f := server()
	n := &Network{System: f}
	refuse := errors.New("no rules")
	n.Protect = func(_ context.Context, devices []string) error {
		for _, d := range devices {
			if l := f.state.Links[d]; l == nil || l.Master != "" {
				t.Errorf("protected is %s: %v", d, l)
			}
		}
		return refuse
	}
	spec := specs()["plain"]
	if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil {
		t.Fatal(err)
	}
	p := spec.Ports[0]
	if err := n.SetPort(t.Context(), p); err == nil || !strings.Contains(err.Error(), "no rules; it is not connected") {
		t.Errorf("SetPort: %v", err)
	}
	if l := f.state.Links[PortDevice(p.MAC)]; l == nil || l.Master != "" || l.Up {
		t.Errorf("without rules it is %v", l)
	}
	refuse = nil
	n.setAll(t, []api.PortSpec{p})
	if l := f.state.Links[PortDevice(p.MAC)]; l.Master == "" || !l.Up {
		t.Errorf("with rules it is %v", l)
	}
}

// DropPort removes what is of the instance, and nothing else.
func TestDropPort(t *testing.T) {
	f := server()
	spec := specs()["plain"]
	f.mustApply(t, spec)
	n := &Network{System: f}
	if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil {
		t.Fatal(err)
	}
	n.setAll(t, spec.Ports[2:])
	before := f.String()
	p := spec.Ports[2]
	foreign := "02:01:00:00:00:77"
	f.state.Links[PortDevice(foreign)] = &Link{Name: PortDevice(foreign), Kind: "veth", Up: true, Index: 99}
	for _, gone := range [][2]string{{p.MAC, "of long ago"}, {foreign, ""}, {foreign, "i7"}} {
		if err := n.DropPort(t.Context(), gone[0], gone[1]); err != nil {
			t.Fatal(err)
		}
	}
	delete(f.state.Links, PortDevice(foreign))
	if d := cmp.Diff(before, f.String()); d != "" {
		t.Errorf("changed:\n%s", d)
	}
	f.refuse = func(s Step) error { return errors.New("busy") }
	if err := n.DropPort(t.Context(), p.MAC, p.Instance); err == nil {
		t.Error("no error")
	}
	f.refuse = nil
	for range 2 { // the second time nothing is there
		if err := n.DropPort(t.Context(), strings.ToUpper(p.MAC), p.Instance); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.String(); strings.Contains(got, PortDevice(p.MAC)) || strings.Contains(got, p.MAC) {
		t.Errorf("left:\n%s", got)
	}
	if len(n.seen.ports) != 0 {
		t.Errorf("remembered: %v", slices.Collect(maps.Keys(n.seen.ports)))
	}
}

// What others change of a port is told to whoever sets it; what it changes itself is
// not, nor is all else looked at.
func TestPortDisturbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := server()
		var mu sync.Mutex
		var poked []string
		n := watching(t, f)
		n.Disturbed = func(mac string) {
			mu.Lock()
			defer mu.Unlock()
			poked = append(poked, mac)
		}
		told := func() []string {
			time.Sleep(time.Second)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			p := poked
			poked = nil
			return p
		}
		spec := specs()["plain"]
		if err := n.Apply(t.Context(), withoutPorts(spec)); err != nil {
			t.Fatal(err)
		}
		p := spec.Ports[2]
		n.setAll(t, []api.PortSpec{p})
		f.dumps = 0
		l := f.state.Links[PortDevice(p.MAC)]
		event := func(change func(*dumped)) Event {
			d := &dumped{Link: *l.clone(), master: f.state.Links[l.Master].Index}
			d.Link.Master = ""
			change(d)
			return Event{Kind: EventLink, Dev: l.Index, Link: d}
		}
		flags := l.Flags
		f.events <- event(func(*dumped) {})
		f.events <- event(func(d *dumped) { d.Stats.RxBytes = 7; d.Carrier = true })
		f.events <- Event{Kind: EventLink, Dev: l.Index, Port: &flags}
		f.events <- Event{Kind: EventLink, Dev: 4711, Removed: true, Gone: true}
		if got := told(); got != nil || f.dumps != 0 {
			t.Errorf("of what it did itself it told %q, with %d dumps", got, f.dumps)
		}
		for name, e := range map[string]Event{
			"down":    event(func(d *dumped) { d.Up = false }),
			"out":     event(func(d *dumped) { d.master = 0 }),
			"alias":   event(func(d *dumped) { d.Alias = "mine" }),
			"flags":   {Kind: EventLink, Dev: l.Index, Port: &PortFlags{Flood: true}},
			"removed": {Kind: EventLink, Dev: l.Index, Removed: true, Gone: true},
		} {
			f.events <- e
			if got := told(); !slices.Equal(got, []string{p.MAC}) || f.dumps != 0 {
				t.Errorf("%s: told %q, with %d dumps", name, got, f.dumps)
			}
			f.asked = 0
			n.setAll(t, []api.PortSpec{p})
			if f.asked != 1 {
				t.Errorf("%s: looked %d times", name, f.asked)
			}
		}
		// One that is really gone.
		delete(f.state.Links, l.Name)
		f.events <- Event{Kind: EventLink, Dev: l.Index, Removed: true, Gone: true}
		if got := told(); !slices.Equal(got, []string{p.MAC}) {
			t.Errorf("told %q", got)
		}
		n.setAll(t, []api.PortSpec{p})
		if l := f.state.Links[l.Name]; l == nil || l.Master != "vb100" || !l.Up {
			t.Errorf("made again: %v", l)
		}
		// The last one of a segment goes, and the bridge with it.
		n.setAll(t, spec.Ports[:1])
		bridge := BridgeOfTag("external", 10)
		if f.state.Links[bridge] == nil {
			t.Fatal("there is no bridge")
		}
		if err := n.DropPort(t.Context(), spec.Ports[0].MAC, spec.Ports[0].Instance); err != nil {
			t.Fatal(err)
		}
		told()
		if f.state.Links[bridge] != nil {
			t.Error("the bridge is left")
		}
	})
}
