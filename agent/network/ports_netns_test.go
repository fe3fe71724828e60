//go:build netns

package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// fabricPorts are ports on VNIs, so many on each.
func fabricPorts(vnis []uint32, each int) (ports []api.PortSpec) {
	for v, vni := range vnis {
		for i := range each {
			p := labPort(0, 1, vni, netip.AddrFrom4([4]byte{10, byte(v), byte(i >> 8), byte(i)}).String()+"/16")
			p.MAC = fmt.Sprintf("02:aa:00:%02x:%02x:%02x", v, i>>8, i&0xff)
			ports = append(ports, p)
		}
	}
	return ports
}

// TestNetNSSetPort: ports that are set and dropped side by side, on two VNIs and a
// VLAN's bridge, are what Apply makes of the same spec, which finds nothing to do; what
// is done by hand to one is told, and set again.
func TestNetNSSetPort(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	disturbed := make(chan string, 100)
	n.Disturbed = func(mac string) { disturbed <- mac }
	n.watch(t)
	ports := fabricPorts([]uint32{100, 101}, 20)
	tagged := labPort(9, 1, 0, "203.0.113.9/24")
	tagged.Tag, tagged.MTU = "underlay", 1500
	ports = append(ports, tagged)
	spec := n.labSpec(1, "192.0.2.1/24", []uint32{100})
	if err := n.Apply(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	empty := n.read(t).String()
	n.setAll(t, ports)
	if !reaches(t, ports[0].MAC, "10.0.0.19") {
		t.Error("the first does not reach the last")
	}
	applied := &Network{System: n.kernel}
	whole := n.labSpec(1, "192.0.2.1/24", []uint32{100, 101}, ports...)
	set := n.read(t)
	if p := makePlan(whole, set); len(p.steps) > 0 {
		t.Errorf("Apply has work:\n%v", p.steps)
	}
	if err := applied.Apply(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(set.String(), n.read(t).String()); d != "" {
		t.Errorf("Apply changed:\n%s", d)
	}

	// By hand.
	first := PortDevice(ports[0].MAC)
	for _, change := range [][]string{
		{"link", "del", first}, {"link", "set", first, "down"}, {"link", "set", first, "nomaster"}, {"link", "set", first, "mtu", "1300"},
	} {
		for len(disturbed) > 0 {
			<-disturbed
		}
		n.ip(t, change...)
		for mac := range disturbed {
			n.setAll(t, ports[slices.IndexFunc(ports, func(p api.PortSpec) bool { return p.MAC == mac }):][:1])
			if mac == ports[0].MAC && n.read(t).String() == set.String() {
				break
			}
		}
	}
	if !reaches(t, ports[0].MAC, "10.0.0.19") {
		t.Error("the first does not reach the last after all repairs")
	}

	// Half of them go; and then the rest, with what they stood on.
	drop := func(ports []api.PortSpec) {
		var all sync.WaitGroup
		for _, p := range ports {
			all.Go(func() {
				if err := n.DropPort(t.Context(), p.MAC, p.Instance); err != nil {
					t.Errorf("DropPort: %v", err)
				}
			})
		}
		all.Wait()
	}
	drop(ports[:10])
	if err := n.Apply(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	whole.Ports = ports[10:]
	if p := makePlan(whole, n.read(t)); len(p.steps) > 0 {
		t.Errorf("Apply has work:\n%v", p.steps)
	}
	drop(ports[10:])
	eventually(t, "bridges that nobody needs are gone", func() bool { return n.read(t).String() == empty })
	for _, p := range ports {
		if out, err := inside(t, p.MAC, "true"); err == nil {
			t.Errorf("the network namespace of %s is left: %s", p.MAC, out)
		}
	}
}

// TestNetNSSetPortKilled: an agent killed after any step of setting or dropping a port
// is followed by one that does the rest.
func TestNetNSSetPortKilled(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	spec := n.labSpec(1, "192.0.2.1/24", []uint32{100})
	p := fabricPorts([]uint32{100}, 1)[0]
	start := func(s System) *Network {
		w := &Network{System: s}
		if err := w.Apply(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := start(n.kernel)
	without := n.read(t).String()
	w.setAll(t, []api.PortSpec{p})
	with := n.read(t).String()
	for _, set := range []bool{true, false} {
		want := with
		do := func(w *Network) error { return w.SetPort(t.Context(), p) }
		undo := func(w *Network) error { return w.DropPort(t.Context(), p.MAC, p.Instance) }
		if !set {
			want, do, undo = without, undo, do
		}
		for i := 1; ; i++ {
			if err := undo(start(n.kernel)); err != nil {
				t.Fatal(err)
			}
			k := &killer{System: n.kernel, left: -1}
			w := start(k)
			k.left = i
			err := do(w)
			if k.left > 0 {
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("killed at %d places", i-1)
				break
			}
			if err := do(start(n.kernel)); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, n.read(t).String()); d != "" {
				t.Errorf("set %v, killed after step %d:\n%s", set, i, d)
			}
		}
	}
}

// BenchmarkNetNSSetPort sets and drops one port beside 2 and 2,000 others, with a watch,
// once on 100 VNIs and once on 2, whose bridges are as good as full; and sets one again
// that is as it should be. Run it with -benchtime 1x.
func BenchmarkNetNSSetPort(b *testing.B) {
	for _, vnis := range []int{100, 2} {
		b.Run(fmt.Sprintf("on-%d-VNIs", vnis), func(b *testing.B) {
			for range b.N {
				benchSetPort(b, vnis)
			}
		})
	}
}

func benchSetPort(b *testing.B, on int) {
	const rounds = 51
	took := map[string]map[int]time.Duration{"set": {}, "drop": {}, "same": {}}
	n := newLab(b).server(b, 1, 1)
	n.Log = nil
	ready := make(chan struct{})
	go func() {
		if err := n.Watch(b.Context(), func() { close(ready) }, nil); err != nil {
			b.Error(err)
		}
	}()
	<-ready
	var vnis []uint32
	for i := range on {
		vnis = append(vnis, uint32(100+i))
	}
	if err := n.Apply(b.Context(), n.labSpec(1, "192.0.2.1/24", vnis)); err != nil {
		b.Fatal(err)
	}
	all := fabricPorts(vnis, 2000/on+1)
	one, all := all[0], all[1:]
	slices.SortStableFunc(all, func(a, b api.PortSpec) int { return strings.Compare(a.MAC[12:], b.MAC[12:]) })
	there := 0
	for _, others := range []int{2, 2000} {
		for _, p := range all[there:others] {
			if err := n.SetPort(b.Context(), p); err != nil {
				b.Fatal(err)
			}
		}
		there = others
		durations := map[string][]time.Duration{}
		measure := func(what string, f func() error) {
			start := time.Now()
			if err := f(); err != nil {
				b.Fatal(err)
			}
			durations[what] = append(durations[what], time.Since(start))
		}
		for range rounds {
			measure("set", func() error { return n.SetPort(b.Context(), one) })
			measure("same", func() error { return n.SetPort(b.Context(), one) })
			measure("drop", func() error { return n.DropPort(b.Context(), one.MAC, one.Instance) })
		}
		for what, d := range durations {
			slices.Sort(d)
			took[what][others] = d[rounds/2]
			b.ReportMetric(float64(d[rounds/2].Microseconds()), fmt.Sprintf("µs/%s-beside-%d", what, others))
		}
	}
	for what, t := range took {
		b.ReportMetric(t[2000].Seconds()/t[2].Seconds(), "ratio/"+what)
	}
}
