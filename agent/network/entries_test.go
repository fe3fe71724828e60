package network

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"nereid/api"
)

func entry(ip string, m int, underlay string, version uint64) api.MapEntry {
	return api.MapEntry{IP: ip, MAC: mac(m), Underlay: underlay, Version: version}
}

// mapServer is a server with one VNI and the ports 1 (10.0.0.1) and 2 (10.0.0.2).
func mapServer(t *testing.T) (*fake, *Network) {
	f := server()
	spec := api.NetworkSpec{Tags: []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: mac(3)}}, Underlay: underlaySpec, VNIs: []api.VNISpec{vni(100)},
		Ports: []api.PortSpec{port(1, onVNI(100, "10.0.0.1/24", "fd00::1/64")), port(2, onVNI(100, "10.0.0.2/24"))}}
	return f, f.mustApply(t, spec)
}

func (f *fake) entries() string {
	var b strings.Builder
	for line := range strings.Lines(f.String()) {
		if strings.Contains(line, " is ") || strings.Contains(line, " by ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestApplyMap(t *testing.T) {
	f, n := mapServer(t)
	step := func(fm api.FabricMap, want string) {
		t.Helper()
		for range 2 {
			if err := n.ApplyMap(t.Context(), 100, fm); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, f.entries()); d != "" {
				t.Fatal(d)
			}
		}
	}
	local := "vb100: 02:01:00:00:00:01 by np020100000001\nvb100: 02:01:00:00:00:02 by np020100000002\n"
	step(api.FabricMap{Epoch: "a", Version: 5, Full: true, Entries: []api.MapEntry{
		{IP: "10.0.0.1", MAC: "02:01:00:00:00:01", Underlay: "192.0.2.1", Version: 1},
		entry("10.0.0.8", 8, "192.0.2.8", 2), entry("fd00::8", 8, "192.0.2.8", 3), entry("10.0.0.9", 9, "192.0.2.9", 4),
	}}, "vb100: 02:00:00:00:00:08 by vx100 192.0.2.8\nvb100: 02:00:00:00:00:09 by vx100 192.0.2.9\n"+local+
		"vb100: 10.0.0.1 is 02:01:00:00:00:01\nvb100: 10.0.0.2 is 02:01:00:00:00:02\nvb100: 10.0.0.8 is 02:00:00:00:00:08\nvb100: 10.0.0.9 is 02:00:00:00:00:09\nvb100: fd00::8 is 02:00:00:00:00:08\n")
	// One of two addresses of a MAC goes; a moves to another server; an older
	// version of one is not taken.
	step(api.FabricMap{Epoch: "a", Version: 7, Entries: []api.MapEntry{
		{IP: "10.0.0.8", Version: 6, Deleted: true}, entry("10.0.0.9", 9, "192.0.2.10", 7), entry("fd00::8", 8, "192.0.2.66", 2),
	}}, "vb100: 02:00:00:00:00:08 by vx100 192.0.2.8\nvb100: 02:00:00:00:00:09 by vx100 192.0.2.10\n"+local+
		"vb100: 10.0.0.1 is 02:01:00:00:00:01\nvb100: 10.0.0.2 is 02:01:00:00:00:02\nvb100: 10.0.0.9 is 02:00:00:00:00:09\nvb100: fd00::8 is 02:00:00:00:00:08\n")
	// What was seen already is nothing new; a map of an earlier version neither.
	same := f.entries()
	step(api.FabricMap{Epoch: "a", Version: 6, Full: true}, same)
	step(api.FabricMap{Epoch: "a", Version: 7, Entries: []api.MapEntry{entry("10.0.0.77", 77, "192.0.2.7", 7)}}, same)
	// The MAC of a port here is elsewhere now: the map decides.
	step(api.FabricMap{Epoch: "a", Version: 8, Entries: []api.MapEntry{{IP: "10.0.0.2", MAC: "02:01:00:00:00:02", Underlay: "192.0.2.9", Version: 8}}},
		strings.Replace(same, "02:01:00:00:00:02 by np020100000002", "02:01:00:00:00:02 by vx100 192.0.2.9", 1))
	step(api.FabricMap{Epoch: "a", Version: 9, Entries: []api.MapEntry{{IP: "10.0.0.2", Version: 9, Deleted: true}}}, same)
	// Another epoch: versions began anew.
	step(api.FabricMap{Epoch: "b", Version: 1, Full: true}, local+"vb100: 10.0.0.1 is 02:01:00:00:00:01\nvb100: 10.0.0.2 is 02:01:00:00:00:02\n")
	if got := n.Maps()[100]; got != "b:1" {
		t.Errorf("map %q", got)
	}
}

func TestLookup(t *testing.T) {
	_, n := mapServer(t)
	want := entry("fd00::8", 8, "192.0.2.8", 3)
	if err := n.ApplyMap(t.Context(), 100, api.FabricMap{Epoch: "a", Version: 5, Full: true, Entries: []api.MapEntry{want}}); err != nil {
		t.Fatal(err)
	}
	if got, ok := n.Lookup(100, netip.MustParseAddr("fd00::8")); !ok || got != want {
		t.Errorf("%+v %v", got, ok)
	}
	if _, ok := n.Lookup(100, netip.MustParseAddr("10.0.0.8")); ok {
		t.Error("found what is not there")
	}
}

// TestBadEntries: what cannot be read is said; the rest is used.
func TestBadEntries(t *testing.T) {
	f, n := mapServer(t)
	err := n.ApplyMap(t.Context(), 100, api.FabricMap{Epoch: "a", Version: 5, Full: true, Entries: []api.MapEntry{
		{IP: "10.0.0", MAC: mac(8), Underlay: "192.0.2.8"}, {IP: "10.0.0.5", MAC: "x", Underlay: "192.0.2.8"}, {IP: "10.0.0.5", MAC: mac(8), Underlay: "y"}, entry("10.0.0.9", 9, "192.0.2.9", 4)}})
	if err == nil || err.Error() != "apply map of VNI 100: 3 entries cannot be read" {
		t.Errorf("ApplyMap: %v", err)
	}
	if !strings.Contains(f.entries(), "10.0.0.9 is") {
		t.Error(f.entries())
	}
}

// TestDeltasAreLikeSnapshots: whatever changes come as deltas, the entries are the
// same as after one snapshot.
func TestDeltasAreLikeSnapshots(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	unders := []string{"192.0.2.1", "192.0.2.8", "192.0.2.9"}
	for range 200 {
		f, n := mapServer(t)
		current := map[string]api.MapEntry{}
		fm := api.FabricMap{Epoch: "a", Version: 1, Full: true}
		for v := uint64(1); v < 30; v++ {
			fm.Version = v
			for range rnd.IntN(4) {
				ip := fmt.Sprintf("10.0.0.%d", 1+rnd.IntN(6))
				if rnd.IntN(3) == 0 {
					ip = fmt.Sprintf("fd00::%d", 1+rnd.IntN(3))
				}
				e := entry(ip, 1+rnd.IntN(4), unders[rnd.IntN(3)], v)
				if rnd.IntN(2) == 0 {
					e.MAC = fmt.Sprintf("02:01:00:00:00:%02x", 1+rnd.IntN(3))
				}
				if e.Deleted = !fm.Full && rnd.IntN(3) == 0; e.Deleted {
					delete(current, ip)
				} else {
					current[ip] = e
				}
				fm.Entries = append(fm.Entries, e)
			}
			fm.Entries = lastOf(fm.Entries)
			if err := n.ApplyMap(t.Context(), 100, fm); err != nil {
				t.Fatal(err)
			}
			fm = api.FabricMap{Epoch: "a"}
		}
		g, m := mapServer(t)
		fm = api.FabricMap{Epoch: "a", Version: 30, Full: true}
		for _, e := range current {
			fm.Entries = append(fm.Entries, e)
		}
		if err := m.ApplyMap(t.Context(), 100, fm); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(g.entries(), f.entries()); d != "" {
			t.Fatalf("%v:\n%s", fm, d)
		}
		// Nothing is left to do.
		seg := n.segments[100]
		have, _ := f.Table(t.Context(), seg.bridge, seg.vxlan)
		if changes := seg.differences(have); len(changes) > 0 {
			t.Fatalf("left: %v", changes)
		}
		if d := cmp.Diff(seg.table(), have, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Fatal(d)
		}
	}
}

// lastOf keeps the last entry of each address, as a compacted delta has them.
func lastOf(entries []api.MapEntry) (kept []api.MapEntry) {
	for i, e := range entries {
		last := true
		for _, later := range entries[i+1:] {
			last = last && later.IP != e.IP
		}
		if last {
			kept = append(kept, e)
		}
	}
	return kept
}

// TestChangeFails: what was not done is done by the next call.
func TestChangeFails(t *testing.T) {
	f, n := mapServer(t)
	n.System = &failing{System: f}
	fm := api.FabricMap{Epoch: "a", Version: 5, Full: true, Entries: []api.MapEntry{entry("10.0.0.9", 9, "192.0.2.9", 4)}}
	if err := n.ApplyMap(t.Context(), 100, fm); err == nil {
		t.Fatal("nothing said")
	}
	n.System = f
	if err := n.ApplyMap(t.Context(), 100, api.FabricMap{Epoch: "a", Version: 6}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.entries(), "10.0.0.9 is") {
		t.Error(f.entries())
	}
}

// A report does not wait for a map that is being applied; it tells of the map that is
// in use.
func TestReportDuringApplyMap(t *testing.T) {
	f, n := mapServer(t)
	first := api.FabricMap{Epoch: "a", Version: 5, Full: true, Entries: []api.MapEntry{entry("10.0.0.9", 9, "192.0.2.9", 5)}}
	if err := n.ApplyMap(t.Context(), 100, first); err != nil {
		t.Fatal(err)
	}
	said := make(chan map[uint32]string, 1)
	f.during = func() {
		go func() {
			r, err := n.Report(t.Context())
			if err != nil {
				t.Error(err)
			}
			said <- r.Maps
		}()
		select {
		case m := <-said:
			if m[100] != "a:5" {
				t.Errorf("while version 6 is applied, the report says %v", m)
			}
		case <-time.After(5 * time.Second):
			t.Error("Report waits for ApplyMap")
		}
	}
	if err := n.ApplyMap(t.Context(), 100, api.FabricMap{Epoch: "a", Version: 6, Entries: []api.MapEntry{entry("10.0.0.8", 8, "192.0.2.8", 6)}}); err != nil {
		t.Fatal(err)
	}
	if m := n.Maps(); m[100] != "a:6" {
		t.Errorf("after it: %v", m)
	}
}
