//go:build netns

package network

import (
	"strings"
	"testing"

	"nereid/api"
)

// TestNetNSZoneNIC: a zone's NIC is a pair, whose end for the zone waits on the server by
// a name that everybody knows. A zone takes it in and gives it back under that name, and
// nothing has to be made again; of a zone that was killed the pair is gone, and is made
// anew. Dropping it removes it also from a zone.
func TestNetNSZoneNIC(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	told := make(chan string, 100)
	n.Disturbed = func(mac string) { told <- mac }
	n.watch(t)
	p := labPort(1, 1, 100, "10.0.0.1/24")
	p.Brand = api.BrandLX
	if err := n.Apply(t.Context(), n.labSpec(1, "192.0.2.1/24", []uint32{100})); err != nil {
		t.Fatal(err)
	}
	set := func() { n.setTwice(t, p) }
	set()
	end := n.read(t).Links[ZoneEnd(p.MAC)]
	if end == nil || end.MAC != p.MAC || end.MTU != p.MTU || end.Up || len(end.Addrs) > 0 {
		t.Fatalf("the zone's end is %+v", end)
	}
	if host := n.read(t).Links[PortDevice(p.MAC)]; host == nil || host.Master != BridgeOfVNI(100) {
		t.Fatalf("the server's end is %+v", host)
	}

	if list := run(t, "ip", "netns", "list"); strings.Contains(list, PortNamespace(p.MAC)) {
		t.Error("a namespace stands in for a zone")
	}
	ns := "nereid-test-zone"
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
	takeIn := func() { t.Helper(); n.ip(t, "link", "set", ZoneEnd(p.MAC), "netns", ns, "name", "net0") }
	takeIn()
	set()
	if n.read(t).Links[ZoneEnd(p.MAC)] != nil {
		t.Error("a second end was made while the zone has it")
	}
	run(t, "ip", "-n", ns, "link", "set", "net0", "netns", n.ns, "name", ZoneEnd(p.MAC))
	set()
	takeIn()
	run(t, "ip", "-n", ns, "link", "del", "net0") // what a kill comes to
	for mac := range told {
		if mac == p.MAC && n.read(t).Links[PortDevice(p.MAC)] == nil {
			break
		}
	}
	set()
	if n.read(t).Links[ZoneEnd(p.MAC)] == nil {
		t.Error("the pair was not made anew")
	}
	takeIn()
	for range 2 {
		if err := n.DropPort(t.Context(), p.MAC, p.Instance); err != nil {
			t.Fatal(err)
		}
	}
	if n.read(t).Links[PortDevice(p.MAC)] != nil {
		t.Error("the NIC is still there")
	}
}
