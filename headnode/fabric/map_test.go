package fabric

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

func entry(ip, mac, underlay string) api.MapEntry {
	return api.MapEntry{IP: ip, MAC: mac, Underlay: underlay}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func (w *world) put(vni uint32, entries ...api.MapEntry) (v uint64) {
	w.Helper()
	w.do(func(tx store.Tx) (err error) { v, err = Put(tx, vni, entries...); return err })
	return v
}

func (w *world) since(vni uint32, epoch string, since uint64) (m api.FabricMap) {
	w.Helper()
	w.view(func(tx store.Tx) (err error) { m, err = Since(tx, vni, epoch, since); return err })
	return m
}

// text is a map as lines.
func text(m api.FabricMap) []string {
	kind := "delta"
	if m.Full {
		kind = "full"
	}
	out := []string{fmt.Sprintf("%s to %d", kind, m.Version)}
	for _, e := range m.Entries {
		s := fmt.Sprintf("%d %s %s %s", e.Version, e.IP, e.MAC, e.Underlay)
		if e.Deleted {
			s += " deleted"
		}
		out = append(out, s)
	}
	return out
}

func wantMap(t testing.TB, what string, m api.FabricMap, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, text(m)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

const (
	mac1, mac2 = "02:00:00:00:00:01", "02:00:00:00:00:02"
	ul1, ul2   = "172.16.0.1", "172.16.0.2"
)

func TestMap(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	m := w.since(vni, "", 0)
	wantMap(t, "before anything", m, "full to 0")
	wantMap(t, "and again", w.since(vni, m.Epoch, m.Version), "delta to 0")

	if v := w.put(vni, entry("10.0.0.1", "02-00-00-00-00-01", ul1), entry("FD00::1", mac1, ul1), entry("::ffff:10.0.0.2", mac2, ul2)); v != 3 {
		t.Errorf("version %d after three entries", v)
	}
	wantMap(t, "for who knew none", w.since(vni, m.Epoch, 0), "full to 3",
		"1 10.0.0.1 02:00:00:00:00:01 172.16.0.1", "2 fd00::1 02:00:00:00:00:01 172.16.0.1", "3 10.0.0.2 02:00:00:00:00:02 172.16.0.2")
	epoch := w.since(vni, "", 0).Epoch
	if v := w.put(vni, entry("10.0.0.1", mac1, ul1)); v != 3 {
		t.Errorf("version %d after no change", v)
	}
	wantMap(t, "no news", w.since(vni, epoch, 3), "delta to 3")

	for range 2 {
		w.do(func(tx store.Tx) error { _, err := Move(tx, vni, mac1, addr(ul2)); return err })
	}
	wantMap(t, "move", w.since(vni, epoch, 3), "delta to 5",
		"4 10.0.0.1 02:00:00:00:00:01 172.16.0.2", "5 fd00::1 02:00:00:00:00:01 172.16.0.2")
	for range 2 {
		w.do(func(tx store.Tx) error { _, err := Delete(tx, vni, addr("10.0.0.2"), addr("10.9.9.9")); return err })
	}
	w.put(vni, entry("10.0.0.1", mac2, ul1))
	// One entry of each address, however often it changed.
	wantMap(t, "all since 3", w.since(vni, epoch, 3), "delta to 7",
		"5 fd00::1 02:00:00:00:00:01 172.16.0.2", "6 10.0.0.2 02:00:00:00:00:02 172.16.0.2 deleted", "7 10.0.0.1 02:00:00:00:00:02 172.16.0.1")
	wantMap(t, "since 0", w.since(vni, epoch, 0), "delta to 7",
		"5 fd00::1 02:00:00:00:00:01 172.16.0.2", "6 10.0.0.2 02:00:00:00:00:02 172.16.0.2 deleted", "7 10.0.0.1 02:00:00:00:00:02 172.16.0.1")
	full := []string{"full to 7", "5 fd00::1 02:00:00:00:00:01 172.16.0.2", "7 10.0.0.1 02:00:00:00:00:02 172.16.0.1"}
	wantMap(t, "another epoch", w.since(vni, "0123456789abcdef", 3), full...)
	wantMap(t, "from the future", w.since(vni, epoch, 8), full...)

	w.view(func(tx store.Tx) error {
		e, found, err := ByIP(tx, vni, addr("10.0.0.1"))
		if err != nil || !found || e.MAC != mac2 || e.Underlay != ul1 || e.Version != 7 {
			t.Errorf("by IP: %+v, %v, %v", e, found, err)
		}
		if _, found, err = ByIP(tx, vni, addr("10.0.0.2")); found || err != nil {
			t.Errorf("a deleted one is found, %v", err)
		}
		if got, err := ByMAC(tx, vni, mac1); err != nil || len(got) != 1 || got[0].IP != "fd00::1" {
			t.Errorf("by MAC: %+v, %v", got, err)
		}
		for _, mac := range []string{"ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00:09"} {
			if got, err := ByMAC(tx, vni, mac); err != nil || len(got) != 0 {
				t.Errorf("by MAC %s: %+v, %v", mac, got, err)
			}
		}
		_, err = ByMAC(tx, vni, "nonsense")
		wantProblem(t, "no MAC", err, api.CodeInvalid)
		if got, err := Hosts(tx, addr(ul2)); err != nil || len(got) != 1 || got[0] != vni {
			t.Errorf("hosts: %v, %v", got, err)
		}
		return nil
	})
}

func TestBadEntries(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	for name, e := range map[string]api.MapEntry{
		"no address":         entry("", mac1, ul1),
		"multicast":          entry("224.0.0.1", mac1, ul1),
		"broadcast":          entry("255.255.255.255", mac1, ul1),
		"unspecified":        entry("::", mac1, ul1),
		"zone":               entry("fe80::1%eth0", mac1, ul1),
		"no MAC":             entry("10.0.0.1", "", ul1),
		"group MAC":          entry("10.0.0.1", "01:00:5e:00:00:01", ul1),
		"zero MAC":           entry("10.0.0.1", "00:00:00:00:00:00", ul1),
		"long MAC":           entry("10.0.0.1", "02:00:00:00:00:00:00:01", ul1),
		"no underlay":        entry("10.0.0.1", mac1, ""),
		"underlay, loopback": entry("10.0.0.1", mac1, "127.0.0.1"),
	} {
		good := entry("10.0.0.9", mac1, ul1)
		err := w.try(func(tx store.Tx) error { _, err := Put(tx, vni, good, e); return err })
		wantProblem(t, name, err, api.CodeInvalid)
	}
	wantMap(t, "after refusals", w.since(vni, "", 0), "full to 0")
	for _, vni := range []uint32{0, 1 << 24, 12345} {
		err := w.try(func(tx store.Tx) error { _, err := Put(tx, vni, entry("10.0.0.1", mac1, ul1)); return err })
		wantProblem(t, fmt.Sprint("VNI ", vni), err, api.CodeNotFound)
	}
}

func TestRehome(t *testing.T) {
	w := newWorld(t)
	vni, other := w.vlan(alice, 2).VNI, w.vlan(bob, 2).VNI
	var entries []api.MapEntry
	for i := range RehomeLimit + 10 {
		entries = append(entries, entry(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), fmt.Sprintf("02:00:00:00:%02x:%02x", i/250, i%250), ul1))
	}
	w.put(vni, entries...)
	w.put(other, entries[0])
	calls := 0
	for more := true; more; calls++ {
		w.do(func(tx store.Tx) (err error) { more, err = Rehome(tx, vni, addr(ul1), addr(ul2)); return err })
	}
	if calls != 2 {
		t.Errorf("%d calls, want 2", calls)
	}
	w.do(func(tx store.Tx) error { // from an address to itself: no end without a change
		more, err := Rehome(tx, vni, addr(ul2), addr(ul2))
		if more {
			t.Error("more to do when nothing was to be done")
		}
		return err
	})
	for _, e := range w.since(vni, "", 0).Entries {
		if e.Underlay != ul2 {
			t.Fatalf("%+v was left", e)
		}
	}
	w.view(func(tx store.Tx) error {
		got, err := Hosts(tx, addr(ul1))
		if diff := cmp.Diff([]uint32{other}, got); diff != "" || err != nil {
			t.Errorf("hosts, %v (-want +got):\n%s", err, diff)
		}
		return nil
	})
}

// TestForget: deletions are forgotten, the oldest first, and who missed one of those
// gets a snapshot.
func TestForget(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	var entries []api.MapEntry
	var ips []netip.Addr
	for i := range journal.MinGone + 3 {
		e := entry(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), mac1, ul1)
		entries, ips = append(entries, e), append(ips, addr(e.IP))
	}
	w.put(vni, entries...)
	epoch := w.since(vni, "", 0).Epoch
	n := uint64(len(ips))
	w.do(func(tx store.Tx) error { _, err := Delete(tx, vni, ips...); return err })
	if m := w.since(vni, epoch, n+3); m.Full || len(m.Entries) != journal.MinGone {
		t.Errorf("since the last that is forgotten: full %v, %d entries", m.Full, len(m.Entries))
	}
	if m := w.since(vni, epoch, n+2); !m.Full || len(m.Entries) != 0 {
		t.Errorf("since before it: full %v, %d entries", m.Full, len(m.Entries))
	}
	w.check(map[uint32]map[string]api.MapEntry{vni: {}})
}

// TestDelta: an answer is cut by its size, also a snapshot, and the parts are the whole.
func TestDelta(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	var entries []api.MapEntry
	for i := range 10 {
		entries = append(entries, entry(fmt.Sprintf("10.0.0.%d", i+1), mac1, ul1))
	}
	w.put(vni, entries...)
	f := &follower{vni: vni}
	rounds := func(limit int) (sizes []int) {
		for more := true; more; {
			var d api.Delta
			w.view(func(tx store.Tx) (err error) { d, _, err = Delta(tx, vni, f.known(), limit); return err })
			sizes = append(sizes, len(d.Put)+len(d.Gone))
			f.take(t, d)
			more = f.Toward != 0
		}
		return sizes
	}
	for _, c := range []struct {
		limit int
		want  []int
	}{{7 * entrySize, []int{7, 3}}, {7 * entrySize, []int{0}}} {
		if diff := cmp.Diff(c.want, rounds(c.limit)); diff != "" {
			t.Errorf("a snapshot (-want +got):\n%s", diff)
		}
	}
	w.do(func(tx store.Tx) error { _, err := Move(tx, vni, mac1, addr(ul2)); return err })
	w.do(func(tx store.Tx) error { _, err := Delete(tx, vni, addr("10.0.0.1")); return err })
	if diff := cmp.Diff([]int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, rounds(1)); diff != "" {
		t.Errorf("a delta of single entries (-want +got):\n%s", diff)
	}
	if len(f.has) != 9 || f.has["10.0.0.2"].Underlay != ul2 {
		t.Errorf("after all parts: %v", f.has)
	}
	f = &follower{vni: w.vlan(bob, 2).VNI}
	w.view(func(tx store.Tx) error {
		d, size, err := Delta(tx, f.vni, f.known(), 100)
		if !d.Full || size != 0 || d.Epoch != journal.NoEpoch {
			t.Errorf("a map that never had an entry: %+v, %d bytes", d, size)
		}
		return err
	})
}

// TestEpochs: a start of the head node costs followers nothing; a restored backup
// gives a snapshot to those who saw what is lost, also when the version has passed
// theirs meanwhile.
func TestEpochs(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	begin := func() { w.do(journal.Begin) }
	begin()
	w.put(vni, entry("10.0.0.1", mac1, ul1), entry("10.0.0.2", mac2, ul1)) // 2
	first := w.since(vni, "", 0).Epoch
	begin()
	if m := w.since(vni, first, 2); m.Full || m.Epoch != first {
		t.Errorf("after a start, before a change: %+v", m)
	}
	w.put(vni, entry("10.0.0.1", mac1, ul2)) // 3
	m := w.since(vni, first, 2)
	wantMap(t, "after a start and a change", m, "delta to 3", "3 10.0.0.1 02:00:00:00:00:01 172.16.0.2")
	if m.Epoch == first {
		t.Error("the epoch is the old one")
	}
	wantMap(t, "of the first epoch, a version it did not have", w.since(vni, first, 3), "full to 3",
		"2 10.0.0.2 02:00:00:00:00:02 172.16.0.1", "3 10.0.0.1 02:00:00:00:00:01 172.16.0.2")
	for i := range 8 {
		begin()
		w.put(vni, entry("10.0.0.1", mac1, []string{ul1, ul2}[i%2]))
	}
	if m := w.since(vni, first, 2); !m.Full {
		t.Error("an epoch that is forgotten gets a delta")
	}
}
