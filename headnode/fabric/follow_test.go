package fabric

import (
	"bytes"
	"context"
	"encoding/json"
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
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// entrySize is about what an entry takes of an answer, in bytes.
const entrySize = 100

// follower takes in maps as an agent does.
type follower struct {
	vni uint32
	api.Follow
	has map[string]api.MapEntry
}

func (f *follower) take(t testing.TB, d api.Delta) {
	t.Helper()
	if d.Full {
		f.has = make(map[string]api.MapEntry)
	}
	if d.Set != MapSet(f.vni) || d.Full && len(d.Gone) > 0 {
		t.Fatalf("a delta of VNI %d: %+v", f.vni, d)
	}
	seen := make(map[string]bool)
	for _, ip := range d.Gone {
		if seen[ip] {
			t.Fatalf("%s is twice in one map", ip)
		}
		seen[ip] = true
		delete(f.has, ip)
	}
	last := uint64(0)
	for _, value := range d.Put {
		var e api.MapEntry
		if err := json.Unmarshal(value, &e); err != nil {
			t.Fatal(err)
		}
		if seen[e.IP] {
			t.Fatalf("%s is twice in one map", e.IP)
		}
		if seen[e.IP] = true; e.Version <= last || e.Version > d.Version || e.Deleted {
			t.Fatalf("entry %+v after version %d, in a map to %d", e, last, d.Version)
		}
		last = e.Version
		f.has[e.IP] = e
	}
	f.Follow = f.Take(d)
}

// known is what a follower has, as the journal has it.
func (f *follower) known() journal.Follow {
	return journal.Follow{Epoch: f.Epoch, Since: f.Since, Toward: f.Toward, Full: f.Full}
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
			s, _, err := journal.ReadState(tx, MapSet(vni))
			if err != nil {
				return err
			}
			if s.Live != len(entries) || s.Gone > max(journal.MinGone, s.Live) {
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
		for prefix, n := range map[string]int{"journal/entry/": live, macPrefix: live, atPrefix: live, "journal/gone/": gone, "journal/key/": live + gone} {
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
	l.do(journal.Begin)
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
		parts    int
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
			followers[i] = append(followers[i], &follower{vni: vni, has: map[string]api.MapEntry{}})
		}
	}
	ask := func(fs []*follower, limit int, cut bool) (news bool) {
		var ds []api.Delta
		l.view(func(tx store.Tx) error {
			ds = nil
			left := limit * entrySize
			for _, f := range fs {
				if left <= 0 {
					break
				}
				d, size, err := Delta(tx, f.vni, f.known(), left)
				if err != nil {
					return err
				}
				if left -= size; d.Full || d.Toward != 0 || size > 0 || d.Epoch != f.Epoch {
					ds = append(ds, d)
				}
			}
			return nil
		})
		if cut {
			ds = ds[:r.IntN(len(ds)+1)]
		}
		for _, d := range ds {
			for _, f := range fs {
				if MapSet(f.vni) == d.Set {
					if d.Full {
						resets++
					}
					if d.Toward != 0 {
						parts++
					}
					f.take(t, d)
				}
			}
		}
		return len(ds) > 0
	}
	// compare looks at the maps that a follower says it has in full.
	compare := func(i int, fs []*follower) (n int) {
		t.Helper()
		for _, f := range fs {
			l.view(func(tx store.Tx) error {
				epoch, version, err := Version(tx, f.vni)
				if err != nil || epoch != f.Epoch || version != f.Since || f.Toward != 0 {
					return err
				}
				n++
				got := make(map[string]api.MapEntry)
				for ip, e := range f.has {
					got[ip] = entry(e.IP, e.MAC, e.Underlay)
				}
				if !maps.Equal(want[f.vni], got) { // cmp.Diff alone takes most of this test's time
					t.Fatalf("follower %d of VNI %d (-want +got):\n%s", i, f.vni, cmp.Diff(want[f.vni], got))
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
					*f = follower{vni: f.vni, has: map[string]api.MapEntry{}}
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
	if parts == 0 {
		t.Error("no answer was cut into parts")
	}
	t.Logf("%d snapshots were needed, and %d answers were parts", resets, parts)
}
