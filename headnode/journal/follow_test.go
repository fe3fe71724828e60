package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/headnode/store"
)

// follower copies a set as an agent does: what an answer brings takes effect with
// its last part. Of a kept set only a tombstone removes.
type follower struct {
	Follow
	keep  bool
	has   map[string]string
	parts map[string]string // what has, with the parts that came so far
}

func newFollower(keep bool) *follower { return &follower{keep: keep, has: map[string]string{}} }

func (f *follower) take(t testing.TB, d Delta) {
	t.Helper()
	switch {
	case d.Full && f.keep:
		f.parts = maps.Clone(f.has)
	case d.Full:
		f.parts = make(map[string]string)
	case f.parts == nil:
		f.parts = maps.Clone(f.has)
	}
	last := uint64(0)
	for _, e := range d.Entries {
		if e.Version <= last || e.Version > d.Version || e.Gone && d.Full && !f.keep {
			t.Fatalf("entry %+v after version %d, in a delta to %d", e, last, d.Version)
		}
		if last = e.Version; e.Gone {
			delete(f.parts, e.Key)
		} else {
			f.parts[e.Key] = string(e.Value)
		}
	}
	if f.Follow = f.Follow.Take(d); f.Toward == 0 {
		f.has, f.parts = f.parts, nil
	}
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
// that goes on asking has what the set has. With many keys tombstones are
// forgotten; with few, versions of before and after a restore meet.
func TestFollowersConverge(t *testing.T) {
	for _, c := range []struct {
		keys, bulk int
		seed       uint64
	}{
		{3000, 1500, 1},
		{40, 6, 2}, {40, 6, 3}, {40, 6, 4}, {40, 6, uint64(time.Now().UnixNano())},
	} {
		t.Run(fmt.Sprintf("%d keys, seed %d", c.keys, c.seed), func(t *testing.T) {
			converge(t, rand.New(rand.NewPCG(c.seed, 0)), c.keys, c.bulk)
		})
	}
}

func converge(t *testing.T, r *rand.Rand, keys, bulk int) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &lab{world: &world{t, nil, ctx}, dir: t.TempDir()}
	l.open(nil)
	defer func() { l.bolt.Close() }()
	sets := []Set{plain, ports}
	want := []map[string]string{{}, {}}
	var (
		backup            []byte
		backedUp          []map[string]string
		restored          bool
		snapshots, inPart int
	)
	clone := func(m []map[string]string) (out []map[string]string) {
		for _, x := range m {
			out = append(out, maps.Clone(x))
		}
		return out
	}
	// Many follow the ordinary set; the kept one has the server that it is of.
	followers := []*follower{newFollower(true)}
	for range 6 {
		followers = append(followers, newFollower(false))
	}
	asleep := make([]int, len(followers))
	setOf := func(f *follower) int {
		if f.keep {
			return 1
		}
		return 0
	}
	ask := func(f *follower, limit int, lost bool) bool {
		set := sets[setOf(f)]
		if f.keep && r.IntN(2) == 0 {
			l.do(func(tx store.Tx) error { return Acknowledge(tx, set, f.Follow) })
		}
		d := l.changes(set, f.Follow, limit)
		if !d.News() || lost {
			return d.News()
		}
		if d.Full {
			snapshots++
		}
		if f.take(t, d); f.Toward != 0 {
			inPart++
		}
		return true
	}
	compare := func(i int, f *follower) {
		t.Helper()
		var s State
		l.view(func(tx store.Tx) (err error) { s, _, err = ReadState(tx, sets[setOf(f)].Name); return err })
		if s.Epoch != f.Epoch || s.Version != f.Since || f.Toward != 0 {
			return // it does not say that it has everything
		}
		w := want[setOf(f)]
		if maps.Equal(w, f.has) {
			return
		}
		if f.keep && restored {
			// What a restored head node does not know is unexpected, and stays.
			for k, v := range w {
				if f.has[k] != v {
					t.Fatalf("follower %d: %s is %s, want %s", i, k, f.has[k], v)
				}
			}
			return
		}
		t.Fatalf("follower %d (-want +got):\n%s", i, cmp.Diff(w, f.has))
	}
	random := func(n int) (out []string) {
		for range n {
			out = append(out, fmt.Sprintf("k%04d", r.IntN(keys)))
		}
		return out
	}
	for range 400 {
		which := r.IntN(2)
		set, w := sets[which], want[which]
		switch k := r.IntN(20); {
		case k < 9:
			v, ks := fmt.Sprint(r.IntN(1000)), random(1+r.IntN(bulk/4+1))
			l.put(set, v, ks...)
			for _, key := range ks {
				w[key] = `"` + v + `"`
			}
		case k < 15:
			ks := random(1 + r.IntN(bulk))
			l.delete(set, ks...)
			for _, key := range ks {
				delete(w, key)
			}
		case k < 16: // an Update that fails leaves nothing
			err := l.s.Update(ctx, func(tx store.Tx) error {
				_, err := Put(tx, set, random(1)[0], []byte("1"))
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
			want, restored = clone(backedUp), true
		}
		for i, f := range followers {
			if asleep[i]--; asleep[i] > 0 { // servers that are away, or cut off
				continue
			}
			if i > 1 && r.IntN(8) == 0 {
				asleep[i] = r.IntN(50)
			}
			if !f.keep && r.IntN(40) == 0 { // a new agent, or one that lost its state
				*f = *newFollower(false)
			}
			ask(f, 1+r.IntN(bulk*20), r.IntN(3) == 0)
			compare(i, f)
		}
	}
	for i, f := range followers {
		for ask(f, 2000, false) {
		}
		if f.Toward != 0 {
			t.Errorf("follower %d is in the middle of an answer, and nothing is left to ask for", i)
		}
		compare(i, f)
	}
	t.Logf("%d snapshots were needed; %d answers were parts", snapshots, inPart)
	if inPart == 0 || snapshots == 0 {
		t.Error("no answer was cut, or none was a snapshot: this test shows nothing")
	}
}
