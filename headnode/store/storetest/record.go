package storetest

import (
	"context"
	"iter"
	"slices"
	"strings"
	"testing"

	"nereid/headnode/store"
)

// Recording returns a store that gives done the Trace of each of its transactions
// that returned without error, with the context it was called with.
func Recording(s store.Store, done func(context.Context, Trace)) store.Store {
	return recording{s, done}
}

type recording struct {
	store.Store
	done func(context.Context, Trace)
}

func (s recording) View(ctx context.Context, fn func(store.Tx) error) error {
	return s.record(ctx, s.Store.View, fn)
}

func (s recording) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.record(ctx, s.Store.Update, fn)
}

func (s recording) record(ctx context.Context, run func(context.Context, func(store.Tx) error) error, fn func(store.Tx) error) error {
	var t *Recorder
	err := run(ctx, func(tx store.Tx) error {
		t = Record(tx)
		return fn(t)
	})
	if err == nil {
		s.done(ctx, t.Trace)
	}
	return err
}

// Trace is what a transaction asked of its store.
type Trace struct {
	Trips   int             // requests to read: every Get, GetAll and Scan
	Read    map[string]int  // how often a key was got, there or not
	Written map[string]bool // keys that were put or deleted
	ranges  []keyRange
}

// keyRange is what a Scan has seen: the keys with the prefix, behind after, as far as
// last or, when that is empty, all of them.
type keyRange struct{ prefix, after, last string }

func (r keyRange) has(key string) bool {
	return strings.HasPrefix(key, r.prefix) && key > r.after && (r.last == "" || key <= r.last)
}

// saw says whether the transaction read a key, or that it is not there.
func (t Trace) saw(key string) bool {
	return t.Read[key] > 0 || slices.ContainsFunc(t.ranges, func(r keyRange) bool { return r.has(key) })
}

// Conflicts gives the keys for which a serializable store may make one of two
// transactions run again when both run at a time: both write the key, or one writes
// it and the other reads it.
func (t Trace) Conflicts(o Trace) []string {
	keys := map[string]bool{}
	for _, pair := range [][2]Trace{{t, o}, {o, t}} {
		for key := range pair[0].Written {
			if pair[1].Written[key] || pair[1].saw(key) {
				keys[key] = true
			}
		}
	}
	var out []string
	for key := range keys {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// Recorder is a Tx that keeps a Trace.
type Recorder struct {
	store.Tx
	Trace
}

// Record begins to record what is asked of a Tx from now on.
func Record(tx store.Tx) *Recorder {
	return &Recorder{Tx: tx, Trace: Trace{Read: map[string]int{}, Written: map[string]bool{}}}
}

func (t *Recorder) Get(key string) ([]byte, error) {
	t.Trips++
	t.Read[key]++
	return t.Tx.Get(key)
}

func (t *Recorder) GetAll(keys ...string) ([][]byte, error) {
	t.Trips++
	for _, key := range keys {
		t.Read[key]++
	}
	return t.Tx.GetAll(keys...)
}

func (t *Recorder) Put(key string, value []byte) error {
	t.Written[key] = true
	return t.Tx.Put(key, value)
}

func (t *Recorder) Delete(key string) error {
	t.Written[key] = true
	return t.Tx.Delete(key)
}

func (t *Recorder) Scan(prefix, after string) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		t.Trips++
		r := keyRange{prefix: prefix, after: after}
		defer func() { t.ranges = append(t.ranges, r) }()
		for it, err := range t.Tx.Scan(prefix, after) {
			if r.last = it.Key; !yield(it, err) {
				return
			}
		}
		r.last = ""
	}
}

// Trips says how often a View asks the store for something: what it costs over a
// network.
func Trips(t testing.TB, s store.Store, fn func(store.Tx) error) int {
	t.Helper()
	n := 0
	if err := Recording(s, func(_ context.Context, tr Trace) { n = tr.Trips }).View(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
	return n
}
