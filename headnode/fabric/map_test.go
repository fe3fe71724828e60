package fabric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
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
	for i := range MinGone + 3 {
		e := entry(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), mac1, ul1)
		entries, ips = append(entries, e), append(ips, addr(e.IP))
	}
	w.put(vni, entries...)
	epoch := w.since(vni, "", 0).Epoch
	n := uint64(len(ips))
	w.do(func(tx store.Tx) error { _, err := Delete(tx, vni, ips...); return err })
	if m := w.since(vni, epoch, n+3); m.Full || len(m.Entries) != MinGone {
		t.Errorf("since the last that is forgotten: full %v, %d entries", m.Full, len(m.Entries))
	}
	if m := w.since(vni, epoch, n+2); !m.Full || len(m.Entries) != 0 {
		t.Errorf("since before it: full %v, %d entries", m.Full, len(m.Entries))
	}
	w.check(map[uint32]map[string]api.MapEntry{vni: {}})
}

// TestChanges: many VNIs in one answer, bounded; what did not fit comes next.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	var follows []Follow
	for i := range 4 {
		vni := w.vlan(alice, i+2).VNI
		var entries []api.MapEntry
		for j := range 10 {
			entries = append(entries, entry(fmt.Sprintf("10.0.%d.%d", i, j+1), mac1, ul1))
		}
		w.put(vni, entries...)
		follows = append(follows, Follow{VNI: vni})
	}
	follows = append(follows, Follow{VNI: w.vlan(bob, 2).VNI}) // never had an entry
	round := func(limit int) (sizes []int) {
		w.view(func(tx store.Tx) error {
			ms, err := Changes(tx, follows, limit)
			for _, m := range ms {
				sizes = append(sizes, len(m.Entries))
				for i := range follows {
					if follows[i].VNI == m.VNI {
						follows[i].Epoch, follows[i].Since = m.Epoch, m.Version
					}
				}
			}
			return err
		})
		return sizes
	}
	for i, want := range [][]int{{10, 10}, {10, 10, 0}, nil} {
		if diff := cmp.Diff(want, round(25)); diff != "" {
			t.Errorf("round %d (-want +got):\n%s", i, diff)
		}
	}
	for _, f := range follows[:4] {
		w.do(func(tx store.Tx) error { _, err := Move(tx, f.VNI, mac1, addr(ul2)); return err })
	}
	for i, want := range [][]int{{10}, {10}, {10}, {10}, nil} { // never cut
		if diff := cmp.Diff(want, round(7)); diff != "" {
			t.Errorf("small round %d (-want +got):\n%s", i, diff)
		}
	}
	for i := range follows {
		follows[i].Epoch = ""
	}
	if got := round(3); len(got) != 1 || got[0] != 10 {
		t.Errorf("a snapshot that is greater than the limit: %v", got)
	}
}

// TestEpochs: a start of the head node costs followers nothing; a restored backup
// gives a snapshot to those who saw what is lost, also when the version has passed
// theirs meanwhile.
func TestEpochs(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	begin := func() { w.do(Begin) }
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
	for i := range maxPast {
		begin()
		w.put(vni, entry("10.0.0.1", mac1, []string{ul1, ul2}[i%2]))
	}
	if m := w.since(vni, first, 2); !m.Full {
		t.Error("an epoch that is forgotten gets a delta")
	}
}

// follower takes in maps as an agent does.
type follower struct {
	Follow
	has map[string]api.MapEntry
}

func (f *follower) take(t testing.TB, m api.FabricMap) {
	t.Helper()
	if m.Full {
		f.has = make(map[string]api.MapEntry)
	}
	seen := make(map[string]bool)
	last := uint64(0)
	for _, e := range m.Entries {
		if seen[e.IP] {
			t.Fatalf("%s is twice in one map", e.IP)
		}
		if seen[e.IP] = true; e.Version <= last || e.Version > m.Version || e.Deleted && m.Full {
			t.Fatalf("entry %+v after version %d, in a map to %d", e, last, m.Version)
		}
		last = e.Version
		if e.Deleted {
			delete(f.has, e.IP)
		} else {
			f.has[e.IP] = e
		}
	}
	f.Epoch, f.Since = m.Epoch, m.Version
}

// check compares maps and indexes with what they should be.
func (w *world) check(want map[uint32]map[string]api.MapEntry) {
	w.Helper()
	w.view(func(tx store.Tx) error {
		live, gone := 0, 0
		places := make(map[string]int)
		for vni, entries := range want {
			m, err := Snapshot(tx, vni)
			if err != nil {
				return err
			}
			got := make(map[string]api.MapEntry)
			for _, e := range m.Entries {
				got[e.IP] = entry(e.IP, e.MAC, e.Underlay)
			}
			if diff := cmp.Diff(entries, got); diff != "" {
				w.Fatalf("snapshot of %d (-want +got):\n%s", vni, diff)
			}
			s, _, err := readState(tx, vni)
			if err != nil {
				return err
			}
			if s.Live != len(entries) || s.Gone > s.maxGone() {
				w.Fatalf("state %+v with %d entries", s, len(entries))
			}
			live, gone = live+s.Live, gone+s.Gone
			for _, e := range entries {
				places[e.Underlay+"/"+fmt.Sprint(vni)]++
				if got, found, err := ByIP(tx, vni, addr(e.IP)); err != nil || !found || got.MAC != e.MAC || got.Underlay != e.Underlay {
					w.Fatalf("by IP: %+v, %v, %v; want %+v", got, found, err, e)
				}
			}
		}
		hosted := 0
		for _, u := range []string{ul1, ul2} {
			vnis, err := Hosts(tx, addr(u))
			if err != nil {
				return err
			}
			for _, vni := range vnis {
				if places[u+"/"+fmt.Sprint(vni)] == 0 {
					w.Fatalf("%s is said to host %d", u, vni)
				}
			}
			hosted += len(vnis)
		}
		if hosted != len(places) {
			w.Fatalf("%d places, want %d", hosted, len(places))
		}
		for prefix, n := range map[string]int{entryPrefix: live, macPrefix: live, atPrefix: live, gonePrefix: gone, ipPrefix: live + gone} {
			got := 0
			for _, err := range tx.Scan(prefix, "") {
				if err != nil {
					return err
				}
				got++
			}
			if got != n {
				w.Fatalf("%d keys below %s, want %d", got, prefix, n)
			}
		}
		return nil
	})
}

// lab is a world whose head node can be started anew, also from a backup.
type lab struct {
	*world
	bolt *store.Bolt
	dir  string
	n    int
}

// open starts anew: with a backup, or with what is there.
func (l *lab) open(backup []byte) {
	l.Helper()
	if l.bolt != nil {
		if err := l.bolt.Close(); err != nil {
			l.Fatal(err)
		}
	}
	path := filepath.Join(l.dir, fmt.Sprint("db", l.n))
	if backup != nil {
		l.n++
		path = filepath.Join(l.dir, fmt.Sprint("db", l.n))
		if err := os.WriteFile(path, backup, 0o600); err != nil {
			l.Fatal(err)
		}
	}
	s, err := store.OpenBolt(l.ctx, path, store.BoltOptions{})
	if err != nil {
		l.Fatal(err)
	}
	l.bolt, l.s = s, s
	l.do(Begin)
}

// TestFollowersConverge: whatever happens, in the store and on the way, a follower
// that goes on asking has what the snapshot has. With many addresses deletions are
// forgotten; with few, versions of before and after a restore meet.
func TestFollowersConverge(t *testing.T) {
	for _, c := range []struct {
		addresses, bulk int
		seed            uint64
	}{
		{3000, 1500, 1},
		{40, 6, 2}, {40, 6, 3}, {40, 6, uint64(time.Now().UnixNano())},
	} {
		t.Run(fmt.Sprintf("%d addresses, seed %d", c.addresses, c.seed), func(t *testing.T) {
			converge(t, rand.New(rand.NewPCG(c.seed, 0)), c.addresses, c.bulk)
		})
	}
}

func converge(t *testing.T, r *rand.Rand, addresses, bulk int) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &lab{world: &world{t, nil, ctx}, dir: t.TempDir()}
	l.open(nil)
	defer func() { l.bolt.Close() }()
	vnis := []uint32{l.vlan(alice, 2).VNI, l.vlan(bob, 2).VNI}
	want := map[uint32]map[string]api.MapEntry{vnis[0]: {}, vnis[1]: {}}
	var (
		backup   []byte
		backedUp map[uint32]map[string]api.MapEntry
		resets   int
	)
	clone := func(m map[uint32]map[string]api.MapEntry) map[uint32]map[string]api.MapEntry {
		out := make(map[uint32]map[string]api.MapEntry)
		for k, v := range m {
			out[k] = maps.Clone(v)
		}
		return out
	}
	followers := make([][]*follower, 6)
	asleep := make([]int, len(followers))
	for i := range followers {
		for _, vni := range vnis {
			followers[i] = append(followers[i], &follower{Follow: Follow{VNI: vni}, has: map[string]api.MapEntry{}})
		}
	}
	ask := func(fs []*follower, limit int, cut bool) (news bool) {
		var follows []Follow
		for _, f := range fs {
			follows = append(follows, f.Follow)
		}
		var ms []api.FabricMap
		l.view(func(tx store.Tx) (err error) { ms, err = Changes(tx, follows, limit); return err })
		if cut {
			ms = ms[:r.IntN(len(ms)+1)]
		}
		for _, m := range ms {
			for _, f := range fs {
				if f.VNI == m.VNI {
					if m.Full {
						resets++
					}
					f.take(t, m)
				}
			}
		}
		return len(ms) > 0
	}
	// compare looks at the maps that a follower says it has in full.
	compare := func(i int, fs []*follower) (n int) {
		t.Helper()
		for _, f := range fs {
			l.view(func(tx store.Tx) error {
				epoch, version, err := Version(tx, f.VNI)
				if err != nil || epoch != f.Epoch || version != f.Since {
					return err
				}
				n++
				got := make(map[string]api.MapEntry)
				for ip, e := range f.has {
					got[ip] = entry(e.IP, e.MAC, e.Underlay)
				}
				if !maps.Equal(want[f.VNI], got) { // cmp.Diff alone takes most of this test's time
					t.Fatalf("follower %d of VNI %d (-want +got):\n%s", i, f.VNI, cmp.Diff(want[f.VNI], got))
				}
				return nil
			})
		}
		return n
	}
	underlays := []string{ul1, ul2}
	random := func(n int) (es []api.MapEntry) {
		for range n {
			i := r.IntN(addresses)
			ip := fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)
			if i%5 == 0 {
				ip = fmt.Sprintf("fd00::%x", i+1)
			}
			es = append(es, entry(ip, fmt.Sprintf("02:00:00:00:%02x:%02x", i%3, i%200), underlays[r.IntN(2)]))
		}
		return es
	}
	for range 200 {
		vni := vnis[r.IntN(2)]
		w := want[vni]
		switch k := r.IntN(20); {
		case k < 7:
			es := random(1 + r.IntN(bulk/4+1))
			l.put(vni, es...)
			for _, e := range es {
				w[e.IP] = e
			}
		case k < 12:
			var ips []netip.Addr
			for _, e := range random(1 + r.IntN(bulk)) {
				ips = append(ips, addr(e.IP))
				delete(w, e.IP)
			}
			l.do(func(tx store.Tx) error { _, err := Delete(tx, vni, ips...); return err })
		case k < 14:
			e := random(1)[0]
			l.do(func(tx store.Tx) error { _, err := Move(tx, vni, e.MAC, addr(e.Underlay)); return err })
			for ip, old := range w {
				if old.MAC == e.MAC {
					w[ip] = entry(ip, e.MAC, e.Underlay)
				}
			}
		case k < 15:
			for more := true; more; {
				l.do(func(tx store.Tx) (err error) { more, err = Rehome(tx, vni, addr(ul1), addr(ul2)); return err })
			}
			for ip, old := range w {
				w[ip] = entry(ip, old.MAC, ul2)
			}
		case k < 16: // an Update that fails leaves nothing
			err := l.try(func(tx store.Tx) error {
				_, err := Put(tx, vni, random(50)...)
				return errors.Join(err, errors.New("undo"))
			})
			if err == nil {
				t.Fatal("it was to fail")
			}
		case k < 17:
			l.open(nil)
		case k < 18 || backup == nil:
			var buf bytes.Buffer
			if _, err := l.bolt.Backup(ctx, &buf); err != nil {
				t.Fatal(err)
			}
			backup, backedUp = buf.Bytes(), clone(want)
		default:
			l.open(backup)
			want = clone(backedUp)
		}
		for i, fs := range followers {
			if asleep[i]--; asleep[i] > 0 { // servers that are away, or cut off
				continue
			}
			if i > 0 && r.IntN(8) == 0 {
				asleep[i] = r.IntN(50)
			}
			if r.IntN(40) == 0 { // a new agent, or one that lost its state
				for _, f := range fs {
					*f = follower{Follow: Follow{VNI: f.VNI}, has: map[string]api.MapEntry{}}
				}
			}
			ask(fs, 1+r.IntN(bulk), r.IntN(3) == 0)
			compare(i, fs)
		}
	}
	l.check(want)
	for i, fs := range followers {
		for ask(fs, 100, false) {
		}
		if n := compare(i, fs); n != len(fs) {
			t.Errorf("follower %d knows %d maps in full, and nothing is left to ask for", i, n)
		}
	}
	t.Logf("%d snapshots were needed", resets)
}
