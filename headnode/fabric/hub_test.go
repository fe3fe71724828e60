package fabric

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"nereid/api"
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
		a, b, c := w.vlan(alice, 2).VNI, w.vlan(alice, 3).VNI, w.vlan(bob, 2).VNI
		w.put(c, entry("10.0.0.1", mac1, ul1))
		h := NewHub(w.s)
		early := h.Follow(a) // before it runs: woken once, to look for what it missed
		defer w.run(h)()
		<-early.C()
		early.Close()
		early.Close()

		both, only := h.Follow(a, b), h.Follow(b)
		defer both.Close()
		defer only.Close()
		heard := func(f *Follower) []uint32 {
			synctest.Wait()
			select {
			case <-f.C():
				return f.Changed()
			default:
				return nil
			}
		}
		want := func(what string, f *Follower, vnis ...uint32) {
			t.Helper()
			slices.Sort(vnis)
			if got := heard(f); !slices.Equal(got, vnis) {
				t.Errorf("%s: heard of %v, want %v", what, got, vnis)
			}
		}
		want("nothing yet", both)
		w.put(a, entry("10.0.0.1", mac1, ul1))
		want("a changed", both, a)
		want("a changed", only)
		w.put(c, entry("10.0.0.1", mac2, ul1))
		want("c changed, which nobody follows", both)
		for range 3 {
			w.put(a, entry("10.0.0.1", mac2, ul1), entry("10.0.0.2", mac1, ul1))
			w.put(b, entry("10.0.0.1", mac1, ul1), entry("10.0.0.2", mac2, ul2))
			w.put(a, entry("10.0.0.1", mac1, ul1))
			w.put(b, entry("10.0.0.1", mac1, ul2))
		}
		want("both changed, often", both, a, b)
		want("both changed, often", only, b)
		w.put(b, entry("10.0.0.1", mac1, ul2))
		want("put again what is there", both)
		w.do(func(tx store.Tx) error { // in one transaction
			if _, err := Put(tx, a, entry("10.0.0.7", mac1, ul1)); err != nil {
				return err
			}
			_, err := Put(tx, b, entry("10.0.0.7", mac1, ul1))
			return err
		})
		want("both in one transaction", both, a, b)
		w.view(func(tx store.Tx) error {
			n := 0
			for range tx.Scan(changedPrefix, "") {
				n++
			}
			if n != 3 {
				t.Errorf("the list of changed VNIs has %d entries, want one of each of 3", n)
			}
			return nil
		})
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
	vni := w.vlan(alice, 2).VNI
	w.put(vni, entry("10.0.0.1", mac1, ul1))
	h := NewHub(w.s)
	defer w.run(h)()
	m := w.since(vni, "", 0)
	known := Follow{VNI: vni, Epoch: m.Epoch, Since: m.Version}

	f := h.Follow(vni)
	defer f.Close()
	poll := func() (ms []api.FabricMap) {
		w.view(func(tx store.Tx) (err error) { ms, err = Changes(tx, []Follow{known}, 100); return err })
		return ms
	}
	if ms := poll(); len(ms) != 0 {
		t.Fatalf("news without a change: %+v", ms)
	}
	go w.put(vni, entry("10.0.0.1", mac1, ul2))
	for {
		<-f.C()
		if !slices.Contains(f.Changed(), vni) {
			continue
		}
		if ms := poll(); len(ms) == 1 { // the first wake-up is that of the hub's start
			wantMap(t, "after the move", ms[0], "delta to 2", "2 10.0.0.1 02:00:00:00:00:01 172.16.0.2")
			return
		}
	}
}
