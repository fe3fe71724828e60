package journal

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"nereid/headnode/store"
)

// run starts a hub; stop ends it and waits.
func (w *world) run(h *Hub) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return func() {
		w.Helper()
		cancel()
		if err := <-done; err != nil {
			w.Errorf("hub: %v", err)
		}
	}
}

func TestHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b, c := Set{Name: "a"}, Set{Name: "a/b"}, Set{Name: "c"}
		w.put(c, "x", "k")
		h := NewHub(w.s)
		early := h.Follow(a.Name) // before it runs: woken once, to look for what it missed
		defer w.run(h)()
		<-early.C()
		early.Close()
		early.Close()

		both, only := h.Follow(a.Name, b.Name), h.Follow(b.Name)
		defer both.Close()
		defer only.Close()
		heard := func(f *Follower) []string {
			synctest.Wait()
			select {
			case <-f.C():
				return f.Changed()
			default:
				return nil
			}
		}
		want := func(what string, f *Follower, sets ...Set) {
			t.Helper()
			var names []string
			for _, s := range sets {
				names = append(names, s.Name)
			}
			if got := heard(f); !slices.Equal(got, names) {
				t.Errorf("%s: heard of %v, want %v", what, got, names)
			}
		}
		want("nothing yet", both)
		w.put(a, "x", "k")
		want("a changed", both, a)
		want("a changed", only)
		w.put(c, "y", "k")
		want("c changed, which nobody follows", both)
		for _, v := range []string{"1", "2", "3"} {
			w.put(a, v, "k", "l")
			w.put(b, v, "k", "l")
			w.delete(a, "k")
		}
		want("both changed, often", both, a, b)
		want("both changed, often", only, b)
		w.put(b, "3", "k")
		want("put again what is there", both)
		w.do(func(tx store.Tx) error { // in one transaction
			if _, err := Put(tx, a, "k", []byte("7")); err != nil {
				return err
			}
			_, err := Put(tx, b, "k", []byte("7"))
			return err
		})
		want("both in one transaction", both, a, b)
		both.Close()
		only.Close()
		if len(h.followers) != 0 {
			t.Errorf("followers are left: %v", h.followers)
		}
	})
}

// TestHubEnds: with its context a hub ends well, with the store it does not.
func TestHubEnds(t *testing.T) {
	w := newWorld(t)
	w.run(NewHub(w.s))()
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := NewHub(w.s).Run(t.Context()); err == nil {
		t.Error("a hub on a closed store ends without an error")
	}
}

// TestPoll is a long poll as the head node makes it: follow, read, wait, read.
func TestPoll(t *testing.T) {
	w := newWorld(t)
	w.put(plain, "x", "a")
	h := NewHub(w.s)
	defer w.run(h)()
	known := Follow{}.Take(w.changes(plain, Follow{}, 0))
	f := h.Follow(plain.Name)
	defer f.Close()
	if d := w.changes(plain, known, 0); d.News() {
		t.Fatalf("news without a change: %+v", d)
	}
	go w.put(plain, "y", "a")
	for {
		<-f.C()
		if !slices.Contains(f.Changed(), plain.Name) {
			continue
		}
		if d := w.changes(plain, known, 0); d.News() { // the first wake-up is that of the hub's start
			want(t, "after the change", d, "delta to 2", `2 a "y"`)
			return
		}
	}
}
