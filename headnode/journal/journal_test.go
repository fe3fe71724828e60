package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/headnode/store"
)

var (
	ports = Set{Name: "server/1/ports", Keep: true}
	plain = Set{Name: "vni/00012a"}
)

func want(t testing.TB, what string, d Delta, lines ...string) {
	t.Helper()
	if diff := cmp.Diff(lines, text(d)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestChanges(t *testing.T) {
	w := newWorld(t)
	d := w.changes(plain, Follow{}, 0)
	want(t, "before anything", d, "full to 0")
	if d = w.changes(plain, Follow{}.Take(d), 0); d.News() {
		t.Errorf("an empty set has news: %+v", d)
	}
	if v := w.put(plain, "x", "a", "b", "c"); v != 3 {
		t.Errorf("version %d after three puts", v)
	}
	if v := w.put(plain, "x", "a", "b", "c"); v != 3 {
		t.Errorf("version %d after no change", v)
	}
	d = w.changes(plain, Follow{}, 0)
	want(t, "all", d, "full to 3", `1 a "x"`, `2 b "x"`, `3 c "x"`)
	at3 := Follow{}.Take(d)
	if d := w.changes(plain, at3, 0); d.News() {
		t.Errorf("news without a change: %+v", d)
	}
	for range 2 {
		w.delete(plain, "b", "nothing")
	}
	w.put(plain, "y", "a")
	w.put(plain, "z", "a")
	want(t, "each key once", w.changes(plain, at3, 0), "delta to 6", `4 b "x" gone`, `6 a "z"`)
	want(t, "from the future", w.changes(plain, Follow{Epoch: at3.Epoch, Since: 7}, 0), "full to 6", `3 c "x"`, `6 a "z"`)
	want(t, "another epoch", w.changes(plain, Follow{Epoch: "0123456789abcdef", Since: 3}, 0), "full to 6", `3 c "x"`, `6 a "z"`)
	w.put(plain, "again", "b")
	want(t, "a tombstone gives way", w.changes(plain, at3, 0), "delta to 7", `6 a "z"`, `7 b "again"`)
	w.view(func(tx store.Tx) error {
		if e, found, err := Get(tx, plain.Name, "a"); !found || err != nil || string(e.Value) != `"z"` || e.Version != 6 {
			t.Errorf("get: %+v, %v, %v", e, found, err)
		}
		if _, found, err := Get(tx, plain.Name, "nothing"); found || err != nil {
			t.Errorf("get of nothing: %v, %v", found, err)
		}
		return nil
	})
}

// TestSetsApart: a set whose name begins with another's is another set.
func TestSetsApart(t *testing.T) {
	w := newWorld(t)
	w.put(Set{Name: "server/1"}, "x", "a")
	w.put(Set{Name: "server/1/ports"}, "y", "b")
	want(t, "the shorter", w.changes(Set{Name: "server/1"}, Follow{}, 0), "full to 1", `1 a "x"`)
	want(t, "the longer", w.changes(Set{Name: "server/1/ports"}, Follow{}, 0), "full to 1", `1 b "y"`)
	for _, bad := range []string{"", "Upper", "a:b", "a b", strings.Repeat("a", 201)} {
		err := w.s.Update(w.ctx, func(tx store.Tx) error { _, err := Put(tx, Set{Name: bad}, "k", []byte("1")); return err })
		if err == nil {
			t.Errorf("the set %q is taken", bad)
		}
	}
	for _, bad := range []string{"", strings.Repeat("k", 513)} {
		err := w.s.Update(w.ctx, func(tx store.Tx) error { _, err := Put(tx, plain, bad, []byte("1")); return err })
		if err == nil {
			t.Errorf("a key of %d bytes is taken", len(bad))
		}
	}
}

// TestNoCommonKey: changes of two sets write nothing in common, so that they need
// not wait for each other in a store that locks what is written.
func TestNoCommonKey(t *testing.T) {
	w := newWorld(t)
	w.do(Begin)
	written := func(set string) map[string]bool {
		keys := make(map[string]bool)
		ctx := t.Context()
		feed := w.s.Feed(ctx, "")
		w.put(Set{Name: set}, "x", "a", "b")
		w.delete(Set{Name: set}, "a")
		for _, k := range feed.Take() {
			keys[k] = true
		}
		return keys
	}
	one, two := written("vni/000001"), written("vni/000002")
	if len(one) == 0 {
		t.Fatal("nothing was written")
	}
	for k := range one {
		if two[k] {
			t.Errorf("both write %s", k)
		}
	}
}

// TestForget: an ordinary set forgets its oldest tombstones, and who missed one of
// those gets a snapshot.
func TestForget(t *testing.T) {
	w := newWorld(t)
	var keys []string
	for i := range MinGone + 3 {
		keys = append(keys, fmt.Sprintf("%04d", i))
	}
	n := w.put(plain, "x", keys...)
	epoch := w.changes(plain, Follow{}, 0).Epoch
	w.delete(plain, keys...)
	if d := w.changes(plain, Follow{Epoch: epoch, Since: n + 3}, 0); d.Full || len(d.Entries) != MinGone {
		t.Errorf("since the last that is forgotten: full %v, %d entries", d.Full, len(d.Entries))
	}
	if d := w.changes(plain, Follow{Epoch: epoch, Since: n + 2}, 0); !d.Full || len(d.Entries) != 0 {
		t.Errorf("since before it: full %v, %d entries", d.Full, len(d.Entries))
	}
}

// TestKept: a kept set has its tombstones until they are acknowledged, however many
// there are, and its snapshots carry them.
func TestKept(t *testing.T) {
	w := newWorld(t)
	var keys []string
	for i := range 2*MinGone + 10 {
		keys = append(keys, fmt.Sprintf("%04d", i))
	}
	w.put(ports, "x", keys...)
	w.put(ports, "x", "stays")
	w.delete(ports, keys...)
	w.do(Begin)
	d := w.changes(ports, Follow{}, 0)
	if !d.Full || len(d.Entries) != len(keys)+1 {
		t.Fatalf("a snapshot has %d entries, full %v; want %d", len(d.Entries), d.Full, len(keys)+1)
	}
	gone := func() int {
		s, _, err := State{}, false, error(nil)
		w.view(func(tx store.Tx) error { s, _, err = ReadState(tx, ports.Name); return err })
		return s.Gone
	}
	ack := func(f Follow) {
		t.Helper()
		w.do(func(tx store.Tx) error { return Acknowledge(tx, ports, f) })
	}
	here := Follow{}.Take(d)
	for name, f := range map[string]Follow{
		"nothing":        {},
		"another epoch":  {Epoch: "0123456789abcdef", Since: here.Since},
		"the future":     {Epoch: here.Epoch, Since: here.Since + 1},
		"half of it":     {Epoch: here.Epoch, Since: here.Since - 5, Toward: here.Since},
		"before it went": {Epoch: here.Epoch, Since: uint64(len(keys))},
	} {
		ack(f)
		if gone() != len(keys) {
			t.Fatalf("%s: %d tombstones are left of %d", name, gone(), len(keys))
		}
	}
	ack(Follow{Epoch: here.Epoch, Since: here.Since - 10})
	if gone() != 10 {
		t.Errorf("%d tombstones are left, want the 10 that are not acknowledged", gone())
	}
	ack(here)
	if gone() != 0 {
		t.Errorf("%d tombstones are left", gone())
	}
	want(t, "a newcomer", w.changes(ports, Follow{}, 0), fmt.Sprint("full to ", here.Since), fmt.Sprintf(`%d stays "x"`, len(keys)+1))
	if d := w.changes(ports, here, 0); d.News() {
		t.Errorf("news for who acknowledged: %+v", text(d))
	}
}

// TestEpochs: a start costs followers nothing; a restored backup gives a snapshot to
// those who saw what is lost, also when the version has passed theirs meanwhile.
func TestEpochs(t *testing.T) {
	w := newWorld(t)
	w.do(Begin)
	w.put(plain, "1", "a", "b")
	first := Follow{}.Take(w.changes(plain, Follow{}, 0))
	w.do(Begin)
	if d := w.changes(plain, first, 0); d.News() || d.Epoch != first.Epoch {
		t.Errorf("after a start, before a change: %+v", d)
	}
	w.put(plain, "2", "a")
	d := w.changes(plain, first, 0)
	want(t, "after a start and a change", d, "delta to 3", `3 a "2"`)
	if d.Epoch == first.Epoch {
		t.Error("the epoch is the old one")
	}
	want(t, "a version that the first epoch did not have", w.changes(plain, Follow{Epoch: first.Epoch, Since: 3}, 0), "full to 3", `2 b "1"`, `3 a "2"`)
	want(t, "a part that led to such a version", w.changes(plain, Follow{Epoch: first.Epoch, Since: 1, Toward: 3}, 0), "full to 3", `2 b "1"`, `3 a "2"`)
	for i := range maxPast {
		w.do(Begin)
		w.put(plain, fmt.Sprint("more", i), "a")
	}
	if d := w.changes(plain, first, 0); !d.Full {
		t.Error("an epoch that is forgotten gets a delta")
	}
}

// TestParts: an answer is cut by size, and its parts are the whole.
func TestParts(t *testing.T) {
	w := newWorld(t)
	w.put(plain, strings.Repeat("x", 100), "a", "b", "c", "d", "e")
	d := w.changes(plain, Follow{}, 300)
	if !d.Full || len(d.Entries) != 2 || d.Version != 2 || d.Toward != 5 {
		t.Fatalf("first part: %+v", text(d))
	}
	f := Follow{}.Take(d)
	w.delete(plain, "a")
	d = w.changes(plain, f, 1)
	if d.Full || len(d.Entries) != 1 || d.Entries[0].Key != "c" || d.Toward != 6 {
		t.Fatalf("second part, of one entry that is larger than the limit: %+v", text(d))
	}
	if f = f.Take(d); !f.Full {
		t.Error("in the middle of a snapshot the follower does not say so")
	}
	d = w.changes(plain, f, 0)
	if f = f.Take(d); d.Full || len(d.Entries) != 3 || f.Full || f.Toward != 0 || f.Since != 6 {
		t.Errorf("last part: %+v, follower %+v", text(d), f)
	}
	if d := w.changes(plain, f, 0); d.News() {
		t.Errorf("news after the last part: %v", text(d))
	}
}

// TestPartsPastTheFloor: a snapshot goes on also where its first part ends before
// the floor, and begins anew when a tombstone it needs is forgotten.
func TestPartsPastTheFloor(t *testing.T) {
	w := newWorld(t)
	var keys []string
	for i := range MinGone + 50 {
		keys = append(keys, fmt.Sprintf("%04d", i))
	}
	w.put(plain, "x", "a", "b", "c")
	w.put(plain, "x", keys...)
	w.delete(plain, keys...)
	f := Follow{}.Take(w.changes(plain, Follow{}, 1))
	if f.Since != 1 || !f.Full {
		t.Fatalf("first part: %+v", f)
	}
	d := w.changes(plain, f, 0)
	if d.Full || len(d.Entries) < 2 || d.Entries[0].Key != "b" {
		t.Errorf("second part: full %v, %d entries", d.Full, len(d.Entries))
	}
	w.delete(plain, "a")
	w.put(plain, "y", keys...)
	w.delete(plain, keys...)
	if d := w.changes(plain, f, 0); !d.Full {
		t.Errorf("a was deleted and that was forgotten, and the snapshot goes on: %d entries", len(d.Entries))
	}
}

func TestDrop(t *testing.T) {
	w := newWorld(t)
	w.put(plain, "x", "a")
	if err := w.s.Update(w.ctx, func(tx store.Tx) error { return Drop(tx, plain.Name) }); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("drop of a set with an entry: %v", err)
	}
	w.delete(plain, "a")
	for range 2 {
		w.do(func(tx store.Tx) error { return Drop(tx, plain.Name) })
	}
	w.view(func(tx store.Tx) error {
		for it := range tx.Scan("journal/", "") {
			t.Errorf("%s is left", it.Key)
		}
		return nil
	})
}
