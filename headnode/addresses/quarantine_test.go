package addresses

import (
	"errors"
	"strings"
	"testing"
	"time"

	"nereid/headnode/store"
)

func (w *world) decline(m int, addr string, now time.Time) (until time.Time) {
	w.Helper()
	w.must(w.update(func(tx store.Tx) (err error) {
		until, err = Decline(tx, w.n, mac(m), ip(addr), now)
		return err
	}))
	return until
}

func TestDecline(t *testing.T) {
	w := newWorld(t, "100", "101")
	w.must(w.commit(1, "100", "uuid-1", t0))
	if err := w.update(func(tx store.Tx) error { _, err := Decline(tx, w.n, mac(2), ip("100"), t0); return err }); !errors.Is(err, ErrNotHolder) {
		t.Errorf("another machine's decline: %v", err)
	}
	if until := w.decline(1, "100", t0); until != t0.Add(Quarantine) {
		t.Errorf("in quarantine until %v", until)
	}
	if err := w.commit(2, "100", "", t0.Add(time.Minute)); !errors.Is(err, ErrTaken) {
		t.Errorf("bad address was committed: %v", err)
	}
	w.wantGet(1, t0, "101")
	if c := w.counts(t0); c != (Counts{Total: 2, Leased: 1, Bad: 1}) || c.Used() != 2 {
		t.Errorf("counts %+v", c)
	}
	w.wantGet(2, t0.Add(time.Minute), "100") // nothing else is left
	if got := w.get(3, t0.Add(time.Minute)); !strings.Contains(got, "all 2 addresses") {
		t.Errorf("third machine: %s", got)
	}
}

// TestQuarantineGrows: an address that one machine after another declines stays out
// for longer each time, until somebody goes on using it.
func TestQuarantineGrows(t *testing.T) {
	w := newWorld(t, "100", "100")
	now := t0
	for i, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
		w.wantGet(i, now, "100")
		until := w.decline(i, "100", now)
		if until != now.Add(want*time.Minute) {
			t.Errorf("decline %d: until %v, want %v", i+1, until.Sub(now), want*time.Minute)
		}
		now = until
	}
	w.wantGet(20, now, "100")
	w.must(w.commit(20, "100", "", now.Add(Quarantine+time.Second)))
	if until := w.decline(20, "100", now.Add(time.Hour)); until != now.Add(time.Hour+Quarantine) {
		t.Errorf("after somebody used it: until %v", until)
	}
}

// TestDeclineLoop: a client that declines whatever it gets, with one MAC or with
// invented ones, leaves the range to the others.
func TestDeclineLoop(t *testing.T) {
	for _, c := range []struct {
		name string
		mac  func(i int) int
		bad  int
	}{
		{"one MAC", func(int) int { return 1000 }, 2},
		{"invented MACs", func(i int) int { return 1000 + i }, 3}, // an eighth of 24
	} {
		w := newWorld(t, "100", "123")
		w.must(w.commit(1, "100", "uuid-1", t0))
		for i := range 100 {
			got := w.get(c.mac(i), t0)
			if !strings.HasSuffix(got, "/24") {
				t.Fatalf("%s: step %d: %s", c.name, i, got)
			}
			w.decline(c.mac(i), strings.TrimSuffix(strings.TrimPrefix(got, "10.0.0."), "/24"), t0)
		}
		if n := w.counts(t0); n.Bad != c.bad || n.Reserved != 1 || n.Leased != 0 {
			t.Errorf("%s: %+v, want %d bad", c.name, n, c.bad)
		}
		w.must(w.s.View(t.Context(), func(tx store.Tx) error {
			bad, err := Quarantined(tx, t0)
			for _, l := range bad {
				if l.DeclinedBy == "" || !l.Expires.After(t0) {
					t.Errorf("%s: nobody is named: %+v", c.name, l)
				}
			}
			if later, err := Quarantined(tx, t0.Add(Quarantine)); len(later) != 0 || err != nil {
				t.Errorf("%s: after the quarantine: %+v %v", c.name, later, err)
			}
			if len(bad) != c.bad {
				t.Errorf("%s: listed %+v", c.name, bad)
			}
			return err
		}))
		for i := range 20 { // honest machines all get one
			if got := w.get(2000+i, t0); !strings.HasSuffix(got, "/24") {
				t.Errorf("%s: newcomer %d: %s", c.name, i, got)
			}
		}
	}
}
