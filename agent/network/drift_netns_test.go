//go:build netns

package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// watch runs Watch until the test ends.
func (n *node) watch(t *testing.T) {
	t.Helper()
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
}

// TestNetNSDrift: what is changed by hand is repaired, told by events.
func TestNetNSDrift(t *testing.T) {
	n1, n2, ports := fabric(t, "192.0.2.1", "192.0.2.2")
	n1.watch(t)
	p := ports["192.0.2.1"][0]
	np, far := PortDevice(p.MAC), ports["192.0.2.2"][0]
	snapshot := func() string {
		s := n1.read(t)
		for _, l := range s.Links {
			l.Index = 0
		}
		var entries []string
		for _, vni := range []string{"100", "200"} {
			for _, args := range [][]string{{"bridge", "-n", n1.ns, "fdb", "show", "br", "vb" + vni}, {"ip", "-n", n1.ns, "neigh", "show", "dev", "vb" + vni}} {
				// It fails while the bridge is away, which differs from before as well.
				out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
				if err != nil {
					entries = append(entries, string(out))
				}
				for line := range strings.Lines(string(out)) {
					if strings.Contains(line, "02:aa:") {
						entries = append(entries, line)
					}
				}
			}
		}
		return s.String() + sorted(entries)
	}
	before := snapshot()
	for _, change := range []struct {
		what string
		do   func()
	}{
		{"ip link del np", func() { n1.ip(t, "link", "del", np) }},
		{"ip link set np down", func() { n1.ip(t, "link", "set", np, "down") }},
		{"ip link set np nomaster", func() { n1.ip(t, "link", "set", np, "nomaster") }},
		{"bridge link set flood on", func() { n1.bridge(t, "link", "set", "dev", "vx100", "flood", "on") }},
		{"ip link set vb down", func() { n1.ip(t, "link", "set", "vb100", "down") }},
		{"ip link del vb", func() { n1.ip(t, "link", "del", "vb100") }},
		{"ip link del vx", func() { n1.ip(t, "link", "del", "vx100") }},
		{"ip link set vb mtu", func() { n1.ip(t, "link", "set", "vb100", "mtu", "1300") }},
		{"ip addr del", func() { n1.ip(t, "addr", "del", "192.0.2.1/24", "dev", "eth0") }},
		{"bridge fdb del", func() { n1.bridge(t, "fdb", "del", far.MAC, "dev", "vx100", "dst", "192.0.2.2", "self") }},
		{"bridge fdb del master", func() { n1.bridge(t, "fdb", "del", far.MAC, "dev", "vx100", "master") }},
		{"bridge fdb replace", func() { n1.bridge(t, "fdb", "replace", far.MAC, "dev", "vx100", "dst", "192.0.2.66", "self") }},
		{"bridge fdb add", func() {
			n1.bridge(t, "fdb", "add", "02:aa:aa:aa:aa:aa", "dev", "vx100", "dst", "192.0.2.66", "self", "master", "static")
		}},
		{"bridge fdb del np", func() { n1.bridge(t, "fdb", "del", p.MAC, "dev", np, "master") }},
		{"ip neigh del", func() { n1.ip(t, "neigh", "del", "10.0.0.3", "dev", "vb100") }},
		{"ip neigh replace", func() {
			n1.ip(t, "neigh", "replace", "fd00::3", "lladdr", "02:aa:aa:aa:aa:ab", "dev", "vb100", "nud", "permanent")
		}},
		{"ip neigh change", func() { n1.ip(t, "neigh", "replace", "10.0.0.4", "dev", "vb100", "nud", "stale") }},
	} {
		change.do()
		if snapshot() == before {
			t.Logf("%s: repaired before it was looked at, or it changed nothing", change.what)
		}
		start := time.Now()
		for {
			after := snapshot()
			if after == before {
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s is not repaired:\n%s", change.what, cmp.Diff(before, after))
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("%s: repaired after %s", change.what, time.Since(start).Round(time.Millisecond))
	}
	for _, from := range []api.PortSpec{p, far} {
		for _, to := range []string{"10.0.0.1", "10.0.0.3", "fd00::1", "fd00::3"} {
			if !reaches(t, from.MAC, to) {
				t.Errorf("%s does not reach %s after all repairs", from.MAC, to)
			}
		}
	}
	_ = n2
}

func sorted(lines []string) string {
	var b strings.Builder
	for len(lines) > 0 {
		least := 0
		for i := range lines {
			if lines[i] < lines[least] {
				least = i
			}
		}
		b.WriteString(lines[least])
		lines = append(lines[:least], lines[least+1:]...)
	}
	return b.String()
}

// TestNetNSAdminBridge: a tag's bridge takes the admin NIC in, with addresses and
// routes, while the head node keeps answering; and lets it out again.
func TestNetNSAdminBridge(t *testing.T) {
	l := newLab(t)
	n, head := l.server(t, 1, 2), l.server(t, 9, 1)
	n.adminNIC(t, 1)
	head.adminNIC(t, 9)
	asked := 0
	n.Confirm = func(ctx context.Context) error {
		asked++
		for ctx.Err() == nil {
			if n.sees(t, "10.99.99.9") && n.sees(t, "fd99::9") {
				return nil
			}
		}
		return ctx.Err()
	}
	before := n.read(t).String()
	spec := api.NetworkSpec{Tags: []api.TagSpec{{Name: "admin", MTU: 1500, MAC: n.mac(1, 0)}, {Name: "external", MTU: 1500, MAC: n.mac(1, 0)}}}
	p := labPort(1, 1, 0, "10.99.99.77/24", "fd99::77/64")
	p.Tag, p.MTU = "admin", 1500
	q := labPort(2, 1, 0, "10.99.99.78/24")
	q.Tag, q.MTU = "external", 1500
	spec.Ports = []api.PortSpec{p, q}
	n.mustApply(t, spec)
	if asked != 1 {
		t.Errorf("the head node was asked %d times, want 1", asked)
	}
	s := n.read(t)
	nb := s.find(BridgeOfTag("external", 0))
	if nb == nil || nb.Name != BridgeOfTag("admin", 0) || len(nb.Addrs) != 2 || len(nb.Routes) != 3 || nb.MAC != n.mac(1, 0) || s.Links["eth0"].Addrs != nil {
		t.Errorf("bridge %v", nb)
	}
	for _, ip := range []string{"10.99.99.9", "fd99::9", "10.99.99.1", "10.99.99.78"} {
		if !reaches(t, p.MAC, ip) {
			t.Errorf("the instance does not reach %s", ip)
		}
	}
	if !head.sees(t, "10.99.99.77") || !head.sees(t, "10.99.99.1") {
		t.Error("the other server does not reach the instance or the server")
	}
	n.mustApply(t, api.NetworkSpec{Tags: spec.Tags})
	if d := cmp.Diff(before, n.read(t).String()); d != "" {
		t.Errorf("after the ports are gone:\n%s", d)
	}
}

// TestNetNSGuard: a change that cuts the server off is undone, on real links; a
// new agent that finds it half-way undoes it too.
func TestNetNSGuard(t *testing.T) {
	n := newLab(t).server(t, 1, 2)
	n.adminNIC(t, 1)
	before := n.read(t).String()
	spec := api.NetworkSpec{Tags: []api.TagSpec{{Name: "admin", MTU: 9000, MAC: n.mac(1, 0)}}}
	p := labPort(1, 1, 0, "10.99.99.77/24")
	p.Tag, p.MTU = "admin", 1500
	spec.Ports = []api.PortSpec{p}
	n.Confirm = func(context.Context) error { return errors.New("no route to host") }
	var back *RolledBack
	if err := n.Apply(t.Context(), spec); !errors.As(err, &back) {
		t.Fatalf("Apply: %v", err)
	}
	withoutPort := func() string {
		s := n.read(t)
		delete(s.Links, PortDevice(p.MAC))
		return s.String()
	}
	if d := cmp.Diff(before, withoutPort()); d != "" {
		t.Errorf("not undone:\n%s", d)
	}
	// Killed after each step.
	admin, dir := n.Admin, n.Dir
	for k := 1; ; k++ {
		n.open(t)
		n.Admin, n.Dir, n.Confirm = admin, dir, func(context.Context) error { return nil }
		if err := os.RemoveAll(n.guardPath()); err != nil {
			t.Fatal(err)
		}
		k := &killer{System: n.kernel, left: k}
		n.System = k
		err := n.Apply(t.Context(), spec)
		if k.left > 0 {
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			break
		}
		n.System = n.kernel
		if err := n.Recover(t.Context()); err != nil {
			t.Fatalf("Recover: %v", err)
		}
		n.mustApply(t, spec)
		n.mustApply(t, api.NetworkSpec{Tags: []api.TagSpec{{Name: "admin", MTU: 1500, MAC: n.mac(1, 0)}}})
		if d := cmp.Diff(before, n.read(t).String()); d != "" {
			t.Errorf("not as before:\n%s", d)
		}
	}
}

// TestNetNSKilled: an agent killed after any step of making a VNI and a port, and
// an instance's inside, is followed by one that makes the rest.
func TestNetNSKilled(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	p := labPort(1, 1, 100, "10.0.0.1/24", "fd00::1/64")
	p.Primary = true
	p.Addresses[0].Gateway, p.Addresses[0].Routes = "10.0.0.254", map[string]string{"172.16.0.0/12": "10.0.0.253"}
	spec := n.labSpec(1, "192.0.2.1/24", []uint32{100}, p)
	n.mustApply(t, spec)
	want := n.read(t).String()
	inner := mustInside(t, p.MAC, "ip", "-4", "route") + mustInside(t, p.MAC, "ip", "-o", "-4", "addr", "show", "dev", "eth0")
	if !strings.Contains(inner, "default via 10.0.0.254") || !strings.Contains(inner, "172.16.0.0/12 via 10.0.0.253") {
		t.Fatalf("inside: %s", inner)
	}
	for i := 1; ; i++ {
		n.mustApply(t, api.NetworkSpec{})
		k := &killer{System: n.kernel, left: i}
		err := (&Network{System: k}).Apply(t.Context(), spec)
		if k.left > 0 {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("killed at %d places", i-1)
			break
		}
		n.mustApply(t, spec)
		if d := cmp.Diff(want, n.read(t).String()); d != "" {
			t.Errorf("killed after step %d:\n%s", i, d)
		}
	}
	// Another address, and no routes: the NIC stays, its inside changes.
	index := n.read(t).Links[PortDevice(p.MAC)].Index
	p.Addresses = []api.PortAddress{{Address: "10.0.0.9/24"}}
	n.mustApply(t, n.labSpec(1, "192.0.2.1/24", []uint32{100}, p))
	got := mustInside(t, p.MAC, "ip", "-4", "-br", "addr", "show", "dev", "eth0") + mustInside(t, p.MAC, "ip", "-4", "route")
	if !strings.Contains(got, "10.0.0.9/24") || strings.Contains(got, "10.0.0.1/") || strings.Contains(got, "via") || n.read(t).Links[PortDevice(p.MAC)].Index != index {
		t.Errorf("inside: %s", got)
	}
}

// TestNetNSForeign: what others made is left alone; a MAC that is not there is a
// problem, and the rest is done.
func TestNetNSForeign(t *testing.T) {
	n := newLab(t).server(t, 1, 3)
	n.ip(t, "link", "add", "br0", "type", "bridge")
	n.ip(t, "link", "add", "vx77", "type", "vxlan", "id", "77", "dstport", "4789", "local", "192.0.2.1")
	n.ip(t, "link", "set", "vx77", "up")
	n.ip(t, "link", "add", "vr1", "type", "veth", "peer", "name", "vr2")
	n.ip(t, "link", "set", "vr1", "alias", "nereid: router of acc")
	n.ip(t, "addr", "add", "172.20.0.1/16", "dev", "br0")
	n.ip(t, "route", "add", "blackhole", "198.18.0.0/16")
	before := n.ip(t, "-br", "link") + n.ip(t, "route", "show", "table", "all")
	spec := n.labSpec(1, "192.0.2.1/24", []uint32{100, 77}, labPort(1, 1, 100, "10.0.0.1/24"))
	spec.Tags = append(spec.Tags, api.TagSpec{Name: "external", MTU: 1500, MAC: "02:00:00:00:00:77"})
	for range 2 {
		err := n.Apply(t.Context(), spec)
		var problems Problems
		if !errors.As(err, &problems) || len(problems) != 2 || !strings.Contains(problems[0], "02:00:00:00:00:77") || !strings.Contains(problems[1], "vx77") {
			t.Fatalf("Apply: %q", []string(problems))
		}
	}
	n.ip(t, "link", "set", "vr1", "master", "vb100") // a router's leg
	if out := mustInside(t, spec.Ports[0].MAC, "ip", "-br", "addr"); !strings.Contains(out, "10.0.0.1/24") {
		t.Errorf("the port is not there: %s", out)
	}
	n.mustApply(t, api.NetworkSpec{})
	n.ip(t, "link", "set", "eth0", "down")
	if d := cmp.Diff(before, n.ip(t, "-br", "link")+n.ip(t, "route", "show", "table", "all")); d != "" {
		t.Errorf("changed:\n%s", d)
	}
}

// TestNetNSReport: what the kernel says of NICs.
func TestNetNSReport(t *testing.T) {
	n := newLab(t).server(t, 1, 2)
	n.mustApply(t, n.labSpec(1, "192.0.2.1/24", []uint32{100}))
	if err := n.ApplyMap(t.Context(), 100, api.FabricMap{VNI: 100, Epoch: "x", Version: 7, Full: true}); err != nil {
		t.Fatal(err)
	}
	if err := n.ApplyMap(t.Context(), 101, api.FabricMap{}); !errors.Is(err, ErrUnknownVNI) {
		t.Errorf("map of another VNI: %v", err)
	}
	r, err := n.Report(t.Context())
	if err != nil || !r.Applied || r.Maps[100] != "x:7" || len(r.Links) != 1 {
		t.Fatalf("report %+v, %v", r, err)
	}
	l := r.Links[0]
	if l.Name != "eth0" || l.MAC != n.mac(1, 0) || !l.Up || l.MTU != 1500 || fmt.Sprint(l.NICTags) != "[underlay]" {
		t.Errorf("link %+v", l)
	}
}

// TestNetNSAnyToAny goes from each of the unit tests' specs to each other, as far
// as this kernel has what they need; the vm tier does it with all.
func TestNetNSAnyToAny(t *testing.T) {
	n := newLab(t).server(t, 1, 4)
	for i := range 4 {
		n.ip(t, "link", "set", fmt.Sprintf("eth%d", i), "address", mac(i+1))
	}
	n.adminNIC(t, 5)
	all := specs()
	names := []string{"empty", "tags", "plain", "shared"}
	for _, from := range names {
		for _, to := range names {
			for _, name := range []string{from, to} {
				spec := all[name]
				spec.Ports = slices.DeleteFunc(slices.Clone(spec.Ports), func(p api.PortSpec) bool { return p.VLAN != 0 })
				n.mustApply(t, spec)
			}
			s := n.read(t)
			if len(adminPath(s, n.Admin)) == 0 || !strings.Contains(s.String(), "fd99::5/64") || !strings.Contains(s.String(), "route 0.0.0.0/0 via 10.99.99.254") {
				t.Fatalf("from %s to %s the admin address or its routes were lost:\n%s", from, to, s)
			}
		}
	}
}
