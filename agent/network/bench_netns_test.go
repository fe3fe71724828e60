//go:build netns

package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// bigMap is a VNI's map of n addresses, each of its own MAC, on 100 servers, in a
// /16. Every eighth is IPv6.
func bigMap(n int) api.FabricMap {
	m := api.FabricMap{VNI: 100, Epoch: "e", Version: 1, Full: true}
	for i := range n {
		ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
		if i%8 == 7 {
			ip = fmt.Sprintf("fd00::%x", i)
		}
		m.Entries = append(m.Entries, api.MapEntry{IP: ip, MAC: MAC{2, 0xcc, 0, byte(i >> 16), byte(i >> 8), byte(i)}.String(),
			Underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i%100)}).String(), Version: 1})
	}
	return m
}

// byHand writes the same as files for bridge -batch and ip -batch.
func byHand(t testing.TB, m api.FabricMap) (fdb, neigh string) {
	var f, n strings.Builder
	for _, e := range m.Entries {
		// Two lines, as by hand: one for the device, one for the bridge.
		fmt.Fprintf(&f, "fdb add %s dev vx100 dst %s self static\nfdb add %s dev vx100 master static\n", e.MAC, e.Underlay, e.MAC)
		fmt.Fprintf(&n, "neigh add %s lladdr %s dev vb100 nud permanent\n", e.IP, e.MAC)
	}
	dir := t.TempDir()
	fdb, neigh = filepath.Join(dir, "fdb"), filepath.Join(dir, "neigh")
	for file, text := range map[string]string{fdb: f.String(), neigh: n.String()} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return fdb, neigh
}

// BenchmarkNetNSMap fills a VNI with 10,000 entries from nothing, with the agent
// and with iproute2's batches in turn, five times each; then deltas of one entry.
// Run it with -benchtime 1x.
func BenchmarkNetNSMap(b *testing.B) {
	const entries = 10000
	n := newLab(b).server(b, 1, 1)
	spec := n.labSpec(1, "192.0.2.1/24", []uint32{100})
	m := bigMap(entries)
	fdb, neigh := byHand(b, m)
	empty := func() {
		if err := n.Apply(b.Context(), api.NetworkSpec{}); err != nil {
			b.Fatal(err)
		}
		if err := n.Apply(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
	}
	for range b.N {
		var ours, hand, deltas []time.Duration
		for range 5 {
			empty()
			start := time.Now()
			n.bridge(b, "-batch", fdb)
			n.ip(b, "-batch", neigh)
			hand = append(hand, time.Since(start))
			empty()
			start = time.Now()
			if err := n.ApplyMap(b.Context(), 100, m); err != nil {
				b.Fatal(err)
			}
			ours = append(ours, time.Since(start))
		}
		if got := strings.Count(n.bridge(b, "fdb", "show", "dev", "vx100"), "self static"); got != entries {
			b.Fatalf("%d entries are there", got)
		}
		for i := range 101 {
			e := m.Entries[i]
			e.Version, e.Underlay = uint64(i+2), "192.0.2.77"
			start := time.Now()
			if err := n.ApplyMap(b.Context(), 100, api.FabricMap{VNI: 100, Epoch: "e", Version: e.Version, Entries: []api.MapEntry{e}}); err != nil {
				b.Fatal(err)
			}
			deltas = append(deltas, time.Since(start))
		}
		for _, d := range [][]time.Duration{ours, hand, deltas} {
			slices.Sort(d)
		}
		b.ReportMetric(ours[2].Seconds()*1e3, "ms/10k")
		b.ReportMetric(hand[2].Seconds()*1e3, "ms/10k-by-hand")
		b.ReportMetric(ours[2].Seconds()/hand[2].Seconds(), "ratio")
		b.ReportMetric(deltas[50].Seconds()*1e3, "ms/delta")
		b.ReportMetric(deltas[100].Seconds()*1e3, "ms/delta-worst")
	}
}

// BenchmarkNetNSMemory says what the model of a map takes.
func BenchmarkNetNSMemory(b *testing.B) {
	for _, entries := range []int{10000, 100000} {
		b.Run(fmt.Sprint(entries), func(b *testing.B) {
			fm := bigMap(entries)
			for i := range fm.Entries { // a /8, so that all differ
				fm.Entries[i].IP = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
			}
			var keep []*segmentMap
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for range b.N {
				m := &segmentMap{}
				m.update(fm)
				keep = append(keep, m)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(b.N*entries), "B/entry")
			runtime.KeepAlive(keep)
			runtime.KeepAlive(fm)
		})
	}
}
