package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

// mapPart is a part of a map of VNI 7 in which these addresses are at an underlay
// address; those that begin with "-" are nowhere.
func mapPart(version, toward uint64, full bool, under string, ips ...string) api.Delta {
	m := api.FabricMap{VNI: 7, Epoch: "e", Version: version, Full: full}
	for _, ip := range ips {
		ip, gone := strings.CutPrefix(ip, "-")
		m.Entries = append(m.Entries, api.MapEntry{IP: ip, MAC: "02:6e:72:00:00:09", Underlay: under, Version: version, Deleted: gone})
	}
	d := mapDelta(m)
	d.Toward = toward
	return d
}

// entriesOf is a map that is to be applied.
func entriesOf(m api.FabricMap) string {
	var out strings.Builder
	fmt.Fprintf(&out, "version %d, full %v:", m.Version, m.Full)
	for _, e := range m.Entries {
		if e.Deleted {
			e.Underlay = "nowhere"
		}
		fmt.Fprintf(&out, " %s %s", e.IP, e.Underlay)
	}
	return out.String()
}

// What came of a map is applied with its last part, and what waits for the kernel is of
// each address the newest.
func TestMapParts(t *testing.T) {
	m := newMapper(&Agent{Log: slog.New(slog.DiscardHandler)}, newBoard(api.Report{}), func() {})
	m.want([]uint32{7})
	take := func(d api.Delta) {
		t.Helper()
		if !m.take(d) {
			t.Errorf("%+v is said to be no news", d)
		}
	}
	ready := func(want string) {
		t.Helper()
		got := "nothing"
		if c := m.ready[api.MapSet(7)]; c != nil {
			got = entriesOf(c.whole(7))
		}
		if got != want {
			t.Errorf("ready is %s, want %s", got, want)
		}
	}
	asks := func(since, toward uint64, full bool) {
		t.Helper()
		if f := m.follow(10); len(f) != 1 || f[0].Since != since || f[0].Toward != toward || f[0].Full != full {
			t.Errorf("asks for %+v", f)
		}
	}
	asks(0, 0, false)
	take(mapPart(2, 5, true, "a", "10.0.0.1", "10.0.0.2"))
	ready("nothing")
	asks(2, 5, true)
	take(mapPart(4, 5, false, "b", "10.0.0.3", "-10.0.0.1"))
	asks(4, 5, true)
	take(mapPart(5, 0, false, "c", "10.0.0.4"))
	ready("version 5, full true: 10.0.0.2 a 10.0.0.3 b 10.0.0.4 c")
	asks(5, 0, false)
	// A delta that comes before the kernel took the snapshot is a part of it.
	take(mapPart(6, 0, false, "d", "10.0.0.2", "-10.0.0.3"))
	ready("version 6, full true: 10.0.0.4 c 10.0.0.2 d")
	delete(m.ready, api.MapSet(7))
	take(mapPart(7, 0, false, "e", "10.0.0.5"))
	take(mapPart(8, 0, false, "f", "-10.0.0.5", "10.0.0.6"))
	ready("version 8, full false: 10.0.0.5 nowhere 10.0.0.6 f")
	// A snapshot that begins anew replaces the parts of the one before, and what waits.
	take(mapPart(9, 20, true, "g", "10.0.0.7"))
	take(mapPart(10, 0, true, "h", "10.0.0.8"))
	ready("version 10, full true: 10.0.0.8 h")
	// What is not wanted any more is forgotten, with all that waits.
	m.want([]uint32{8})
	ready("nothing")
	if m.take(mapPart(11, 0, false, "i", "10.0.0.9")) {
		t.Error("a map that is not wanted is news")
	}
	m.want([]uint32{7})
	asks(0, 0, false)
}

// A refused map is not asked for again until there is another spec; the rest goes on.
func TestMapRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		h.approved, h.spec, h.refused = true, networkSpec("r1"), map[uint32]bool{7: true}
		r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		time.Sleep(time.Minute)
		h.mu.Lock()
		asked := 0
		for _, s := range h.syncs {
			asked += len(followsMaps(s))
		}
		h.mu.Unlock()
		if asked != 1 {
			t.Errorf("a refused map was asked for %d times in a minute", asked)
		}
		if _, _, enrols, _ := h.counts(); enrols != 1 {
			t.Errorf("enrolled %d times", enrols)
		}
		n.did()
		h.set(func() {
			h.spec, h.refused = networkSpec("r2"), nil
			h.maps = []api.FabricMap{{VNI: 7, Epoch: "e", Version: 3, Full: true}}
		})
		h.until("r2", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r2" })
		time.Sleep(time.Second)
		if got := n.did(); !strings.Contains(got, "map 7 version 3") {
			t.Errorf("with another spec did %q", got)
		}
		r.stop()
	})
}

// While the kernel takes no map, changes of it come as one when it does.
func TestMapsWaitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		h.approved, h.spec = true, networkSpec("r1")
		h.maps = []api.FabricMap{{VNI: 7, Epoch: "e", Version: 1, Full: true}}
		r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		time.Sleep(time.Second)
		n.fail("map", errors.New("device busy"))
		const last = 20
		for v := uint64(2); v <= last; v++ {
			h.set(func() {
				h.maps[0] = api.FabricMap{VNI: 7, Epoch: "e", Version: v, Entries: []api.MapEntry{{IP: fmt.Sprintf("10.0.0.%d", v), MAC: "02:6e:72:00:00:09", Underlay: "10.77.0.12", Version: v}}}
			})
			time.Sleep(200 * time.Millisecond)
		}
		n.did()
		n.fail("map", nil)
		time.Sleep(15 * time.Second)
		if got, want := n.did(), fmt.Sprintf("map 7 version %d", last); got != want {
			t.Errorf("did %q, want %q", got, want)
		}
		n.mu.Lock()
		m := n.maps[7]
		n.mu.Unlock()
		if len(m.Entries) != last-1 || m.Full {
			t.Errorf("applied %s", entriesOf(m))
		}
		r.stop()
	})
}
