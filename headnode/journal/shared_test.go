package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"nereid/headnode/store"
)

// Followers that lack the same get one answer, which is made once although all ask at
// the same time; one that lacks something else, or asks after a change, gets its own.
func TestSharedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.do(Begin)
		set := Set{Name: "vni/000001"}
		w.put(set, "a", "1", "2")
		s := NewShared[string]()
		made := 0
		block := make(chan struct{})
		get := func(f Follow, wait bool) (out string) {
			err := w.s.View(w.ctx, func(tx store.Tx) error {
				v, size, news, err := s.Get(w.ctx, tx, set.Name, f, func() (string, int, error) {
					made++
					if wait {
						<-block
					}
					d, err := Changes(tx, set, f, 0)
					v := strings.Join(text(d), "\n")
					return v, len(v), err
				})
				if news != (v != "") || size != len(v) {
					t.Errorf("%d bytes said of %q; news: %v", size, v, news)
				}
				out = v
				return err
			})
			if err != nil {
				t.Error(err)
			}
			return out
		}
		const many = 20
		answers := make(chan string)
		for range many {
			go func() { answers <- get(Follow{}, true) }()
		}
		synctest.Wait()
		close(block)
		for range many {
			if got := <-answers; got != "full to 2\n1 1 \"a\"\n2 2 \"a\"" {
				t.Errorf("answer %q", got)
			}
		}
		if made != 1 {
			t.Errorf("it was made %d times", made)
		}
		known := Follow{}.Take(w.changes(set, Follow{}, 0))
		if got := get(known, false); got != "" || made != 1 {
			t.Errorf("one who lacks nothing: %q, made %d times", got, made)
		}
		w.put(set, "b", "2")
		for _, c := range []struct {
			f    Follow
			want string
		}{{known, "delta to 3\n3 2 \"b\""}, {Follow{}, "full to 3\n1 1 \"a\"\n3 2 \"b\""}} {
			before := made
			for range 2 {
				if got := get(c.f, false); got != c.want {
					t.Errorf("from %+v: %q, want %q", c.f, got, c.want)
				}
			}
			if made != before+1 {
				t.Errorf("from %+v: made %d times", c.f, made-before)
			}
		}
		w.delete(set, "1")
		if got := get(known, false); got != "delta to 4\n3 2 \"b\"\n4 1 \"a\" gone" {
			t.Errorf("after a deletion: %q", got)
		}
	})
}

// Whose request ends while it waits for another's answer stops waiting; and when the
// other one's fails, or panics, those who waited make their own.
func TestSharedFails(t *testing.T) {
	for _, how := range []string{"error", "panic"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				set := Set{Name: "a"}
				w.put(set, "x", "k")
				s := NewShared[string]()
				block, wrong := make(chan struct{}), errors.New("wrong")
				get := func(ctx context.Context, fn func() (string, int, error)) (out string, err error) {
					defer func() {
						if p := recover(); p != nil {
							err = fmt.Errorf("panic: %v", p)
						}
					}()
					err = w.s.View(ctx, func(tx store.Tx) (err error) {
						out, _, _, err = s.Get(ctx, tx, set.Name, Follow{}, fn)
						return err
					})
					return out, err
				}
				right := func() (string, int, error) { return "right", 5, nil }
				first := make(chan error)
				go func() {
					_, err := get(w.ctx, func() (string, int, error) {
						<-block
						if how == "panic" {
							panic("here")
						}
						return "", 0, wrong
					})
					first <- err
				}()
				synctest.Wait()
				ended, end := context.WithCancel(w.ctx)
				gone, second := make(chan error), make(chan string)
				go func() { _, err := get(ended, right); gone <- err }()
				go func() { out, _ := get(w.ctx, right); second <- out }()
				synctest.Wait()
				end()
				if err := <-gone; !errors.Is(err, context.Canceled) {
					t.Errorf("a request that ended: %v", err)
				}
				close(block)
				if err := <-first; err == nil {
					t.Error("no error")
				}
				if got := <-second; got != "right" {
					t.Errorf("one who waited: %q", got)
				}
				if got, err := get(w.ctx, right); got != "right" || err != nil {
					t.Errorf("one who came later: %q, %v", got, err)
				}
			})
		})
	}
}

// However many answers are made, what is kept stays within its bounds.
func TestSharedBounded(t *testing.T) {
	w := newWorld(t)
	set := Set{Name: "a"}
	w.put(set, "x", "k")
	s := NewShared[int]()
	fill := func(n, size int) (kept, bytes int) {
		w.view(func(tx store.Tx) error {
			for i := range n {
				f := Follow{Epoch: "other", Since: uint64(i + 1)}
				if v, _, _, err := s.Get(w.ctx, tx, set.Name, f, func() (int, int, error) { return i, size, nil }); v != i || err != nil {
					t.Fatalf("%d: %d, %v", i, v, err)
				}
			}
			return nil
		})
		for i := range s.parts {
			p := &s.parts[i]
			if len(p.made) != len(p.order) {
				t.Errorf("part %d has %d answers and %d in order", i, len(p.made), len(p.order))
			}
			kept += len(p.order)
			bytes += p.bytes
		}
		return kept, bytes
	}
	if kept, _ := fill(2*sharedParts*sharedAnswers, 10); kept != sharedParts*sharedAnswers {
		t.Errorf("%d small answers are kept", kept)
	}
	if kept, bytes := fill(20*sharedParts, sharedBytes/2); bytes > sharedParts*sharedBytes || kept == 0 {
		t.Errorf("%d large answers are kept, %d bytes", kept, bytes)
	}
	before, _ := fill(0, 0)
	w.put(set, "y", "k")
	if kept, _ := fill(5, sharedBytes+1); kept != before {
		t.Errorf("answers that are too large are kept: %d, and %d before", kept, before)
	}
}
