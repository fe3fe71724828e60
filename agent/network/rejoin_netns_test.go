//go:build netns

package network

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
)

// TestNetNSRejoin: a zone's NIC that the zone destroyed is put back into its bridge
// without a Network, once it is protected, and reaches another; a Network that starts then
// finds it as it is wanted. One that is dropped is not put back.
func TestNetNSRejoin(t *testing.T) {
	lab := newLab(t)
	n := lab.server(t, 1, 1)
	dir := t.TempDir()
	n.Dir = dir
	zones := [2]api.PortSpec{labPort(1, 1, 100, "10.0.0.1/24"), labPort(2, 1, 100, "10.0.0.2/24")}
	ns := [2]string{lab.name + "-z1", lab.name + "-z2"}
	spec := n.labSpec(1, "192.0.2.1/24", []uint32{100})
	if err := n.Apply(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	takeIn := func(i int) {
		t.Helper()
		n.ip(t, "link", "set", ZoneEnd(zones[i].MAC), "netns", ns[i], "name", "net0")
		run(t, "ip", "-n", ns[i], "addr", "add", zones[i].Addresses[0].Address, "dev", "net0")
		run(t, "ip", "-n", ns[i], "link", "set", "net0", "up")
	}
	for i := range zones {
		zones[i].Brand = api.BrandLX
		lab.addNamespace(t, ns[i])
		if err := n.SetPort(t.Context(), zones[i]); err != nil {
			t.Fatal(err)
		}
		takeIn(i)
	}
	ping := func() {
		t.Helper()
		run(t, "ip", "netns", "exec", ns[0], "ping", "-n", "-c", "1", "-W", "5", "10.0.0.2")
	}
	ping()

	device := PortDevice(zones[0].MAC)
	refused := errors.New("no")
	var protected []string
	protect := func(_ context.Context, devices []string) error {
		for _, d := range devices {
			if l := n.read(t).Links[d]; l == nil || l.Master != "" {
				t.Errorf("protected is %s: %v", d, l)
			}
		}
		protected = append(protected, devices...)
		return refused
	}
	rejoin := func() error { return Rejoin(t.Context(), n.kernel, dir, zones[0].MAC, protect) }
	run(t, "ip", "-n", ns[0], "link", "del", "net0")
	if err := rejoin(); err == nil || n.read(t).Links[device].Master != "" {
		t.Errorf("one that is not protected: %v", err)
	}
	for refused = nil; len(protected) < 2; { // the second time nothing is left to do
		if err := rejoin(); err != nil {
			t.Fatal(err)
		}
	}
	if err := rejoin(); err != nil || len(protected) != 2 {
		t.Errorf("protected %q, %v", protected, err)
	}
	takeIn(0)
	ping()

	before := n.read(t)
	n.open(t)
	n.Dir = dir
	if err := n.Apply(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for _, z := range zones {
		if err := n.SetPort(t.Context(), z); err != nil {
			t.Fatal(err)
		}
	}
	if after := n.read(t); after.Links[device] == nil || after.Links[device].String() != before.Links[device].String() {
		t.Errorf("a Network that starts made %v of %v", after.Links[device], before.Links[device])
	}
	ping()
	for _, z := range zones {
		if err := n.DropPort(t.Context(), z.MAC, z.Instance); err != nil {
			t.Fatal(err)
		}
	}
	if err := rejoin(); !errors.Is(err, fs.ErrNotExist) || n.read(t).Links[device] != nil {
		t.Errorf("one that was dropped: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, joinedDir))
	for _, f := range left {
		if err != nil || strings.HasSuffix(f.Name(), ".json") || f.Name() != device+".lock" {
			t.Errorf("left is %v, %v", f, err)
		}
	}
}

// TestNetNSNICKilled: an agent that is killed after any step of making a zone's NIC or of
// dropping it, and a unit that puts NICs back meanwhile, are followed by an agent that has
// it as it is wanted; one that is dropped leaves no link and no file.
func TestNetNSNICKilled(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	p := labPort(1, 1, 100, "10.0.0.1/24")
	p.Brand = api.BrandLX
	spec := n.labSpec(1, "192.0.2.1/24", []uint32{100})
	n.mustApply(t, spec)
	before := n.read(t).String()
	dir := t.TempDir()
	start := func(s System) *Network {
		t.Helper()
		again := &Network{System: s, Dir: dir}
		if err := again.Apply(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		return again
	}
	set := func(n *Network) error { return n.SetPort(t.Context(), p) }
	drop := func(n *Network) error { return n.DropPort(t.Context(), p.MAC, p.Instance) }
	protect := func(context.Context, []string) error { return nil }
	for _, way := range []struct {
		what        string
		first, then func(*Network) error
	}{{"making", drop, set}, {"dropping", set, drop}} {
		for i := 0; ; i++ {
			k := &killer{System: n.kernel, left: 1000}
			mortal := start(k)
			if err := way.first(mortal); err != nil {
				t.Fatal(err)
			}
			k.left = i
			err := way.then(mortal)
			whole := k.left > 0
			if whole && err != nil {
				t.Fatalf("%s: %v", way.what, err)
			}
			if err := Rejoin(t.Context(), n.kernel, dir, p.MAC, protect); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s, killed after step %d: the unit: %v", way.what, i, err)
			}
			again := start(n.kernel)
			for range 2 {
				if err := way.then(again); err != nil {
					t.Errorf("%s, killed after step %d: %v", way.what, i, err)
				}
			}
			_, kept := ReadJoined(dir, p.MAC)
			files, err := os.ReadDir(filepath.Join(dir, joinedDir))
			switch l := n.read(t).Links[PortDevice(p.MAC)]; {
			case err != nil:
				t.Error(err)
			case way.what == "making" && (kept != nil || l == nil || l.Master != BridgeOfVNI(100)):
				t.Errorf("killed after step %d of making: %v, kept %v", i, l, kept)
			case way.what == "dropping" && (l != nil || len(files) > 0 || n.read(t).String() != before):
				t.Errorf("killed after step %d of dropping: left are %v, %v\n%s", i, l, files, n.read(t))
			}
			if whole {
				t.Logf("%s: killed at %d places", way.what, i)
				break
			}
		}
	}
}
