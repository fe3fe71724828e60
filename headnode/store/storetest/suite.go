package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nereid/headnode/store"
)

// Open opens the store kept in dir, making it when there is none. Opening a
// directory again after Close gives the same store.
type Open func(ctx context.Context, dir string) (store.Store, error)

// Run runs the suite. Its crash test starts the test binary again as a process of
// its own, which calls Run by the name of t: call it once per test function.
func Run(t *testing.T, open Open) {
	if crashWriter(t, open) {
		return
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"ReadBack", testReadBack}, {"GetAll", testGetAll}, {"Keys", testKeys}, {"Copies", testCopies},
		{"Rollback", testRollback}, {"Panic", testPanic}, {"Goexit", testGoexit},
		{"ReadOnly", testReadOnly}, {"AfterEnd", testAfterEnd},
		{"ScanOrder", testScanOrder}, {"ScanOwnWrites", testScanOwnWrites}, {"ScanWhileWriting", testScanWhileWriting},
		{"Pages", testPages}, {"Snapshot", testSnapshot}, {"Reopen", testReopen}, {"Closed", testClosed},
		{"Counter", testCounter}, {"FailuresStayTheirOwn", testFailures}, {"Transfers", testTransfers},
		{"CancelledBefore", testCancelledBefore}, {"CancelledInside", testCancelledInside}, {"CancelledWaiting", testCancelledWaiting},
		{"WatchTells", testWatchTells}, {"WatchCoalesces", testWatchCoalesces}, {"WatchEnds", testWatchEnds}, {"WatchNotFailed", testWatchNotFailed},
		{"FeedTells", testFeedTells}, {"FeedEnds", testFeedEnds},
		{"Model", testModel}, {"ModelTwice", testModelTwice},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newFixture(t, open)) })
	}
	t.Run("Crash", func(t *testing.T) { testCrash(t, open) })
}

// fixture is an open store and short forms of what tests do with it.
type fixture struct {
	t    *testing.T
	open Open
	dir  string
	store.Store
}

func newFixture(t *testing.T, open Open) *fixture {
	f := &fixture{t: t, open: open, dir: t.TempDir()}
	f.reopen()
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

func (f *fixture) reopen() {
	f.t.Helper()
	if f.Store != nil {
		if err := f.Close(); err != nil {
			f.t.Fatalf("close: %v", err)
		}
	}
	s, err := f.open(f.t.Context(), f.dir)
	if err != nil {
		f.t.Fatalf("open: %v", err)
	}
	f.Store = s
}

func (f *fixture) update(fn func(store.Tx) error) {
	f.t.Helper()
	if err := f.Update(f.t.Context(), fn); err != nil {
		f.t.Fatalf("update: %v", err)
	}
}

func (f *fixture) put(kv ...string) {
	f.t.Helper()
	f.update(func(tx store.Tx) error { return putAll(tx, kv...) })
}

func putAll(tx store.Tx, kv ...string) error {
	for i := 0; i < len(kv); i += 2 {
		if err := tx.Put(kv[i], []byte(kv[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// list prints the keys below prefix behind after as "k=v k=v".
func list(tx store.Tx, prefix, after string) string {
	var out []string
	for it, err := range tx.Scan(prefix, after) {
		if err != nil {
			return "error: " + err.Error()
		}
		out = append(out, it.Key+"="+string(it.Value))
	}
	return strings.Join(out, " ")
}

func (f *fixture) list(prefix, after string) (s string) {
	f.t.Helper()
	if err := f.View(f.t.Context(), func(tx store.Tx) error { s = list(tx, prefix, after); return nil }); err != nil {
		f.t.Fatalf("view: %v", err)
	}
	return s
}

func (f *fixture) want(want string) {
	f.t.Helper()
	if got := f.list("", ""); got != want {
		f.t.Fatalf("store holds %q, want %q", got, want)
	}
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error is %v, want %v", got, want)
	}
}

func testReadBack(t *testing.T, f *fixture) {
	f.put("a", "1", "b", "", "c", "3")
	f.want("a=1 b= c=3")
	f.update(func(tx store.Tx) error {
		return errors.Join(tx.Put("a", []byte("2")), tx.Delete("c"), tx.Delete("never"))
	})
	f.want("a=2 b=")
	err := f.View(t.Context(), func(tx store.Tx) error {
		v, err := tx.Get("b")
		if err != nil || v == nil || len(v) != 0 {
			t.Errorf("empty value reads as %v, %v", v, err)
		}
		_, err = tx.Get("c")
		return err
	})
	wantErr(t, err, store.ErrNotFound)
}

// testGetAll: values come in the order of the keys, with this Update's own writes.
func testGetAll(t *testing.T, f *fixture) {
	f.put("a", "1", "b", "", "c", "3", "d", "4")
	want := func(tx store.Tx, keys []string, want string) {
		t.Helper()
		values, err := tx.GetAll(keys...)
		var got []string
		for _, v := range values {
			s := "nil"
			if v != nil {
				s = strconv.Quote(string(v))
				clear(v) // a copy
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%v: got %v, %v; want %s", keys, got, err, want)
		}
	}
	for range 2 {
		if err := f.View(t.Context(), func(tx store.Tx) error {
			want(tx, nil, "")
			want(tx, []string{"c", "never", "a", "b", "c"}, `"3" nil "1" "" "3"`)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	f.update(func(tx store.Tx) error {
		if err := errors.Join(putAll(tx, "a", "2", "e", "5"), tx.Delete("d")); err != nil {
			return err
		}
		want(tx, []string{"e", "d", "c", "a"}, `"5" nil "3" "2"`)
		return nil
	})
	many := make([]string, 5000)
	for i := range many {
		many[i] = fmt.Sprintf("many/%04d", i)
	}
	f.update(func(tx store.Tx) error {
		for _, k := range many {
			if err := store.Put(tx, k, k); err != nil {
				return err
			}
		}
		return nil
	})
	err := f.View(t.Context(), func(tx store.Tx) error {
		got, err := store.GetAll[string](tx, many...)
		if !slices.Equal(got, many) {
			t.Errorf("%d keys: the values are others", len(many))
		}
		_, missing := store.GetAll[string](tx, "many/0000", "never")
		wantErr(t, missing, store.ErrNotFound)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testKeys(t *testing.T, f *fixture) {
	long := strings.Repeat("k", store.MaxKey)
	odd := "\x00\xff/ü \n"
	f.put(long, "long", odd, "odd")
	if got := f.list(odd, ""); got != odd+"=odd" {
		t.Errorf("odd key: %q", got)
	}
	if got := f.list(long, ""); got != long+"=long" {
		t.Errorf("long key is lost")
	}
	for _, k := range []string{"", long + "k"} {
		if err := f.Update(t.Context(), func(tx store.Tx) error { return tx.Put(k, nil) }); err == nil {
			t.Errorf("key of %d bytes was taken", len(k))
		}
	}
	if err := f.Update(t.Context(), func(tx store.Tx) error { return tx.Put("big", make([]byte, store.MaxValue+1)) }); err == nil {
		t.Error("value above MaxValue was taken")
	}
}

func testCopies(t *testing.T, f *fixture) {
	v := []byte("value")
	f.update(func(tx store.Tx) error {
		if err := tx.Put("k", v); err != nil {
			return err
		}
		v[0] = 'X' // must not reach the store
		got, err := tx.Get("k")
		if err == nil {
			got[1] = 'X'
		}
		return err
	})
	var kept []byte
	for range 2 {
		if err := f.View(t.Context(), func(tx store.Tx) (err error) { kept, err = tx.Get("k"); return err }); err != nil {
			t.Fatal(err)
		}
		if string(kept) != "value" {
			t.Fatalf("value is %q", kept)
		}
		kept[2] = 'X' // its own, also after the transaction
	}
}

func testRollback(t *testing.T, f *fixture) {
	f.put("a", "1")
	mine := errors.New("mine")
	err := f.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(putAll(tx, "a", "2", "b", "2"), tx.Delete("a"), mine)
	})
	wantErr(t, err, mine)
	f.want("a=1")
}

func testPanic(t *testing.T, f *fixture) {
	f.put("a", "1")
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v, want the function's own panic", p)
			}
		}()
		f.Update(t.Context(), func(tx store.Tx) error {
			if err := tx.Put("a", []byte("2")); err != nil {
				return err
			}
			panic("mine")
		})
	}()
	f.want("a=1")
	f.put("b", "1")
	f.want("a=1 b=1")
}

func testGoexit(t *testing.T, f *fixture) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Update(t.Context(), func(tx store.Tx) error {
			tx.Put("a", []byte("2"))
			goexit()
			return nil
		})
	}()
	<-done
	f.put("b", "1")
	f.want("b=1")
}

func testReadOnly(t *testing.T, f *fixture) {
	wantErr(t, f.View(t.Context(), func(tx store.Tx) error { return tx.Put("a", nil) }), store.ErrReadOnly)
	wantErr(t, f.View(t.Context(), func(tx store.Tx) error { return tx.Delete("a") }), store.ErrReadOnly)
}

func testAfterEnd(t *testing.T, f *fixture) {
	var kept store.Tx
	keep := func(tx store.Tx) error { kept = tx; return nil }
	for name, run := range map[string]func() error{
		"view":   func() error { return f.View(t.Context(), keep) },
		"update": func() error { return f.Update(t.Context(), keep) },
		"failed update": func() error {
			f.Update(t.Context(), func(tx store.Tx) error { kept = tx; return errors.New("no") })
			return nil
		},
	} {
		if err := run(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err := kept.Get("a")
		wantErr(t, err, store.ErrTxDone)
		_, err = kept.GetAll("a")
		wantErr(t, err, store.ErrTxDone)
		if err := kept.Put("a", nil); err == nil {
			t.Errorf("%s: Put after the end was taken", name)
		}
		for _, err := range kept.Scan("", "") {
			wantErr(t, err, store.ErrTxDone)
		}
	}
}

func testScanOrder(t *testing.T, f *fixture) {
	f.put("b/2", "4", "b", "2", "b/1", "3", "a", "1", "b0", "6", "b/\xff", "5", "c", "7")
	for _, c := range []struct{ prefix, after, want string }{
		{"", "", "a=1 b=2 b/1=3 b/2=4 b/\xff=5 b0=6 c=7"},
		{"b/", "", "b/1=3 b/2=4 b/\xff=5"},
		{"b/", "b/1", "b/2=4 b/\xff=5"},
		{"b/", "b/11", "b/2=4 b/\xff=5"},
		{"b/", "a", "b/1=3 b/2=4 b/\xff=5"},
		{"b/", "c", ""},
		{"b", "b", "b/1=3 b/2=4 b/\xff=5 b0=6"},
		{"x", "", ""},
	} {
		if got := f.list(c.prefix, c.after); got != c.want {
			t.Errorf("scan %q after %q: %q, want %q", c.prefix, c.after, got, c.want)
		}
	}
	n := 0
	f.View(t.Context(), func(tx store.Tx) error {
		for range tx.Scan("", "") {
			if n++; n == 2 {
				break
			}
		}
		return nil
	})
	if n != 2 {
		t.Errorf("break after 2 ranged over %d", n)
	}
}

func testScanOwnWrites(t *testing.T, f *fixture) {
	f.put("a", "1", "c", "1", "e", "1", "g", "1")
	f.update(func(tx store.Tx) error {
		err := errors.Join(putAll(tx, "b", "2", "c", "2", "h", "2"), tx.Delete("e"), tx.Delete("nothing"))
		if got, want := list(tx, "", ""), "a=1 b=2 c=2 g=1 h=2"; got != want {
			t.Errorf("inside: %q, want %q", got, want)
		}
		if got, want := list(tx, "", "b"), "c=2 g=1 h=2"; got != want {
			t.Errorf("inside, after b: %q, want %q", got, want)
		}
		return err
	})
	f.want("a=1 b=2 c=2 g=1 h=2")
}

func testScanWhileWriting(t *testing.T, f *fixture) {
	var kv []string
	for i := range 300 {
		kv = append(kv, fmt.Sprintf("k%03d", i), "1")
	}
	f.put(kv...)
	var seen []string
	f.update(func(tx store.Tx) error {
		seen = nil
		for it, err := range tx.Scan("k", "") {
			if err != nil {
				return err
			}
			seen = append(seen, it.Key)
			if err := errors.Join(tx.Delete(it.Key), tx.Put(it.Key+"x", nil), tx.Put("k999", nil)); err != nil {
				return err
			}
		}
		return nil
	})
	if len(seen) != 300 || !slices.IsSorted(seen) || seen[299] != "k299" {
		t.Errorf("saw %d keys, want the 300 that were there when the range began", len(seen))
	}
	if got := len(strings.Fields(f.list("k", ""))); got != 301 {
		t.Errorf("%d keys afterwards, want 301", got)
	}
}

func testPages(t *testing.T, f *fixture) {
	type thing struct{ N int }
	f.update(func(tx store.Tx) error {
		for i := range 7 {
			if err := store.Put(tx, fmt.Sprintf("thing/%d", i), thing{i}); err != nil {
				return err
			}
		}
		return tx.Put("thinh", []byte("not JSON"))
	})
	f.View(t.Context(), func(tx store.Tx) error {
		var got []string
		for after := ""; ; {
			items, next, err := store.Scan[thing](tx, "thing/", after, 3)
			got = append(got, fmt.Sprintf("%v %s %v", items, next, err))
			if after = next; next == "" {
				break
			}
		}
		if want := "[{0} {1} {2}] 2 <nil>|[{3} {4} {5}] 5 <nil>|[{6}]  <nil>"; strings.Join(got, "|") != want {
			t.Errorf("pages %q, want %q", strings.Join(got, "|"), want)
		}
		if items, next, err := store.Scan[thing](tx, "thing/", "", 7); len(items) != 7 || next != "" || err != nil {
			t.Errorf("page that holds all: %v %q %v", items, next, err)
		}
		if _, _, err := store.Scan[thing](tx, "thin", "", 0); err == nil {
			t.Error("a value that is not JSON was read")
		}
		if _, found, err := store.Lookup[thing](tx, "thing/9"); found || err != nil {
			t.Errorf("lookup of nothing: %v %v", found, err)
		}
		n := 0
		for e, err := range store.Each[thing](tx, "thing/") {
			if err != nil || e.Value.N != n {
				t.Errorf("each %d: %v %v", n, e, err)
			}
			n++
		}
		return nil
	})
}
