package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/headnode/store"
)

// patience bounds waits for what must come; it is never waited out in a test
// that passes.
const patience = 30 * time.Second

func goexit() { runtime.Goexit() }

func testSnapshot(t *testing.T, f *fixture) {
	f.put("a", "1", "b", "1")
	inside, wrote := make(chan struct{}), make(chan struct{})
	go func() {
		<-inside
		f.Update(t.Context(), func(tx store.Tx) error { return putAll(tx, "a", "2", "b", "2", "c", "2") })
		close(wrote)
	}()
	f.View(t.Context(), func(tx store.Tx) error {
		before := list(tx, "", "")
		close(inside)
		<-wrote // an Update neither waits for a View nor shows in it
		if after := list(tx, "", ""); before != after {
			t.Errorf("view changed from %q to %q", before, after)
		}
		return nil
	})
	f.want("a=2 b=2 c=2")
}

func testReopen(t *testing.T, f *fixture) {
	f.put("a", "1", "b", "1")
	f.reopen()
	f.want("a=1 b=1")
	f.update(func(tx store.Tx) error { return tx.Delete("a") })
	f.reopen()
	f.reopen()
	f.want("b=1")
}

func testClosed(t *testing.T, f *fixture) {
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, f.View(t.Context(), func(store.Tx) error { return nil }), store.ErrClosed)
	wantErr(t, f.Update(t.Context(), func(store.Tx) error { return nil }), store.ErrClosed)
}

func add(tx store.Tx, key string, by int) error {
	n, _, err := store.Lookup[int](tx, key)
	if err != nil {
		return err
	}
	return store.Put(tx, key, n+by)
}

func testCounter(t *testing.T, f *fixture) {
	const writers, each = 32, 25
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := f.Update(t.Context(), func(tx store.Tx) error { return add(tx, "n", 1) }); err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	f.want("n=" + strconv.Itoa(writers*each))
}

func testFailures(t *testing.T, f *fixture) {
	const writers, each = 24, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				mine := fmt.Errorf("writer %d, update %d", w, i)
				switch w % 3 {
				case 0:
					if err := f.Update(t.Context(), func(tx store.Tx) error { return add(tx, "n", 1) }); err != nil {
						t.Errorf("update: %v", err)
					}
				case 1:
					err := f.Update(t.Context(), func(tx store.Tx) error { return errors.Join(add(tx, "n", 1000), mine) })
					if !errors.Is(err, mine) {
						t.Errorf("error is %v, want %v", err, mine)
					}
				case 2:
					func() {
						defer func() {
							if p := recover(); p != mine {
								t.Errorf("recovered %v, want %v", p, mine)
							}
						}()
						f.Update(t.Context(), func(tx store.Tx) error { add(tx, "n", 1000); panic(mine) })
					}()
				}
			}
		})
	}
	wg.Wait()
	f.want("n=" + strconv.Itoa(writers/3*each))
}

func testTransfers(t *testing.T, f *fixture) {
	const accounts = 5
	for i := range accounts {
		f.put(fmt.Sprintf("acc/%d", i), "100")
	}
	ctx, stop := context.WithCancel(t.Context())
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				sum := 0
				f.View(t.Context(), func(tx store.Tx) error {
					for e, err := range store.Each[int](tx, "acc/") {
						if err != nil {
							return err
						}
						sum += e.Value
					}
					if sum != accounts*100 {
						t.Errorf("sum is %d, want %d", sum, accounts*100)
						stop()
					}
					return nil
				})
			}
		})
	}
	for w := range 8 {
		r := rand.New(rand.NewPCG(1, uint64(w)))
		writers.Go(func() {
			for range 30 {
				a, b, n := r.IntN(accounts), r.IntN(accounts), r.IntN(50)
				f.Update(t.Context(), func(tx store.Tx) error {
					if err := add(tx, fmt.Sprintf("acc/%d", a), -n); err != nil {
						return err
					}
					if n%5 == 0 {
						return errors.New("changed my mind")
					}
					return add(tx, fmt.Sprintf("acc/%d", b), n)
				})
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
}

func testCancelledBefore(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ran := func(store.Tx) error { t.Error("function ran"); return nil }
	wantErr(t, f.View(ctx, ran), context.Canceled)
	wantErr(t, f.Update(ctx, ran), context.Canceled)
}

func testCancelledInside(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	err := f.Update(ctx, func(tx store.Tx) error { cancel(); return tx.Put("a", nil) })
	wantErr(t, err, context.Canceled)
	f.want("")
	for i := range 200 {
		f.put(fmt.Sprintf("k%d", i), "1")
	}
	ctx, cancel = context.WithCancel(t.Context())
	err = f.View(ctx, func(tx store.Tx) error {
		cancel()
		for _, err := range tx.Scan("", "") {
			if err != nil {
				return err
			}
		}
		return nil
	})
	wantErr(t, err, context.Canceled)
}

// testCancelledWaiting gives up Updates that wait behind a slow one, and wants
// those before and after them on disk.
func testCancelledWaiting(t *testing.T, f *fixture) {
	for round := range 20 {
		inside, goOn := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			var once sync.Once
			err := f.Update(t.Context(), func(tx store.Tx) error {
				once.Do(func() { close(inside); <-goOn })
				return tx.Put(fmt.Sprintf("slow%d", round), nil)
			})
			if err != nil {
				t.Errorf("slow update: %v", err)
			}
		})
		<-inside
		ctx, cancel := context.WithCancel(t.Context())
		for range 3 {
			wg.Go(func() {
				// It may have got its turn before the cancel; then it succeeds.
				err := f.Update(ctx, func(tx store.Tx) error { return nil })
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("waiting update: %v", err)
				}
			})
		}
		if round%2 == 0 {
			runtime.Gosched()
			cancel()
			close(goOn)
		} else {
			close(goOn)
			cancel()
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("an update hangs after others gave up waiting")
		}
	}
	if got := len(strings.Fields(f.list("slow", ""))); got != 20 {
		t.Errorf("%d slow updates are there, want 20", got)
	}
}

func told(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case _, ok := <-c:
		if !ok {
			t.Fatal("watch ended")
		}
	case <-time.After(patience):
		t.Fatal("watch says nothing")
	}
}

func silent(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case _, ok := <-c:
		t.Fatalf("watch told of a change it should not (open: %v)", ok)
	default:
	}
}

func testWatchTells(t *testing.T, f *fixture) {
	a, ab, b, all := f.Watch(t.Context(), "a/"), f.Watch(t.Context(), "a/b"), f.Watch(t.Context(), "b/"), f.Watch(t.Context(), "")
	a2 := f.Watch(t.Context(), "a/")
	f.put("a/c", "1")
	told(t, a)
	told(t, a2)
	told(t, all)
	f.update(func(tx store.Tx) error { return tx.Delete("a/b") })
	told(t, ab)
	told(t, a)
	f.put("a", "1")
	told(t, all)
	silent(t, b)
	silent(t, ab)
}

func testWatchCoalesces(t *testing.T, f *fixture) {
	c := f.Watch(t.Context(), "a")
	for i := range 10 {
		f.put("a", strconv.Itoa(i))
	}
	told(t, c)
	f.put("b", "1") // told before this returned, had there been more
	silent(t, c)
}

func testWatchEnds(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	c, other := f.Watch(ctx, "a"), f.Watch(t.Context(), "a")
	cancel()
	ended(t, c)
	ended(t, f.Watch(ctx, "a"))
	f.put("a", "1")
	told(t, other)
	f.Close()
	ended(t, other)
	ended(t, f.Watch(t.Context(), "a"))
}

func ended(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case _, ok := <-c:
		if ok {
			t.Fatal("watch tells of a change instead of ending")
		}
	case <-time.After(patience):
		t.Fatal("watch does not end")
	}
}

func testWatchNotFailed(t *testing.T, f *fixture) {
	c := f.Watch(t.Context(), "")
	f.Update(t.Context(), func(tx store.Tx) error { return errors.Join(tx.Put("a", nil), errors.New("no")) })
	f.Update(t.Context(), func(tx store.Tx) error { return nil })
	f.View(t.Context(), func(tx store.Tx) error { return nil })
	silent(t, c)
}

// testFeedTells: a feed has each key that changed since it was taken, once.
func testFeedTells(t *testing.T, f *fixture) {
	feed := f.Feed(t.Context(), "a/")
	take := func(want ...string) {
		t.Helper()
		if got := feed.Take(); !slices.Equal(got, want) {
			t.Errorf("the feed has %q, want %q", got, want)
		}
	}
	take()
	f.put("a/1", "1")
	f.put("b/1", "1")
	f.put("a/1", "2")
	f.update(func(tx store.Tx) error { return errors.Join(tx.Delete("a/0"), tx.Put("a/2", nil)) })
	told(t, feed.C)
	take("a/0", "a/1", "a/2")
	silent(t, feed.C)
	f.Update(t.Context(), func(tx store.Tx) error { return errors.Join(tx.Put("a/3", nil), errors.New("no")) })
	silent(t, feed.C)
	take()
	f.put("a/1", "2") // the same value again
	told(t, feed.C)
	take("a/1")
}

func testFeedEnds(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	feed, other := f.Feed(ctx, "a"), f.Feed(t.Context(), "a")
	cancel()
	ended(t, feed.C)
	f.Close()
	ended(t, other.C)
	ended(t, f.Feed(t.Context(), "a").C)
}

func testModel(t *testing.T, f *fixture)      { model(t, f, f.Store) }
func testModelTwice(t *testing.T, f *fixture) { model(t, f, Twice(f.Store)) }

// model does random things to the store and to a map, and compares.
func model(t *testing.T, f *fixture, s store.Store) {
	r := rand.New(rand.NewPCG(7, 7))
	want := map[string]string{}
	for i := range 150 {
		type op struct {
			key, value string
			del        bool
		}
		var ops []op
		for range 1 + r.IntN(5) {
			ops = append(ops, op{fmt.Sprintf("k%02d", r.IntN(40)), strconv.Itoa(i), r.IntN(3) == 0})
		}
		fail := r.IntN(4) == 0
		err := s.Update(t.Context(), func(tx store.Tx) error {
			for _, o := range ops {
				err := tx.Put(o.key, []byte(o.value))
				if o.del {
					err = tx.Delete(o.key)
				}
				if err != nil {
					return err
				}
			}
			if fail {
				return errors.New("no")
			}
			return nil
		})
		if (err != nil) != fail {
			t.Fatalf("step %d: error %v, want one: %v", i, err, fail)
		}
		if !fail {
			for _, o := range ops {
				if want[o.key] = o.value; o.del {
					delete(want, o.key)
				}
			}
		}
		var kv []string
		for k, v := range want {
			kv = append(kv, k+"="+v)
		}
		sort.Strings(kv)
		if got := f.list("", ""); got != strings.Join(kv, " ") {
			t.Fatalf("step %d: store holds\n%s\nwant\n%s", i, got, strings.Join(kv, " "))
		}
	}
}
