package addresses

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

var t0 = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func ip(s string) netip.Addr { return netip.MustParseAddr("10.0.0." + s) }

func mac(n int) string { return fmt.Sprintf("52:54:00:00:%02x:%02x", n>>8, n&255) }

// world is a store, a network and the offers in memory.
type world struct {
	*testing.T
	s store.Store
	n Network
	o *Offers
}

// newWorld makes a network 10.0.0.0/24 with the given range.
func newWorld(t *testing.T, first, last string) *world {
	b, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	w := &world{t, storetest.Twice(b), Network{
		Own: netip.MustParsePrefix("10.0.0.7/24"), First: ip(first), Last: ip(last), Gateway: ip("1"), Lease: time.Hour,
	}, NewOffers(0)}
	w.n.Registry, w.n.Static = claims{w}, claims{w}
	return w
}

func (w *world) update(fn func(store.Tx) error) error {
	w.Helper()
	err := w.s.Update(w.Context(), fn)
	if cerr := w.s.View(w.Context(), func(tx store.Tx) error { return consistent(tx) }); cerr != nil {
		w.Fatalf("records and indexes disagree: %v", cerr)
	}
	return err
}

func (w *world) commit(m int, addr, server string, now time.Time) error {
	w.Helper()
	return w.update(func(tx store.Tx) error {
		_, err := Commit(tx, w.n, mac(m), ip(addr), server, now)
		return err
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) offer(m int, requested string, now time.Time) (of Offer, err error) {
	w.Helper()
	var r netip.Addr
	if requested != "" {
		r = ip(requested)
	}
	w.s.View(w.Context(), func(tx store.Tx) error { of, err = w.o.Offer(tx, w.n, mac(m), r, now); return nil })
	return of, err
}

// get is DISCOVER and REQUEST.
func (w *world) get(m int, now time.Time) string {
	w.Helper()
	of, err := w.offer(m, "", now)
	if err == nil {
		err = w.update(func(tx store.Tx) error {
			_, err := Commit(tx, w.n, mac(m), of.Address.Addr(), "", now)
			return err
		})
		w.o.Done(mac(m))
	}
	if err != nil {
		return err.Error()
	}
	return strings.TrimPrefix(of.Address.String(), "10.0.0.")
}

func (w *world) wantGet(m int, now time.Time, want string) {
	w.Helper()
	if got := w.get(m, now); got != want+"/24" {
		w.Fatalf("machine %d got %s, want %s", m, got, want)
	}
}

func (w *world) counts(now time.Time) (c Counts) {
	w.Helper()
	w.must(w.s.View(w.Context(), func(tx store.Tx) (err error) { c, err = Usage(tx, w.n, now); return err }))
	return c
}

// consistent checks that the indexes say what the records say.
func consistent(tx store.Tx) error {
	macs, expiries, bad := map[string]string{}, map[string]string{}, map[string]string{}
	for e, err := range store.Each[Lease](tx, ipPrefix) {
		if err != nil {
			return err
		}
		l := e.Value
		if ipKey(l.Address) != e.Key {
			return fmt.Errorf("%s holds %v", e.Key, l.Address)
		}
		if l.MAC != "" {
			if macs[macPrefix+l.MAC] != "" {
				return fmt.Errorf("%s has two addresses", l.MAC)
			}
			macs[macPrefix+l.MAC] = `"` + l.Address.String() + `"`
		}
		c, has, err := store.Lookup[claim](tx, claimKey(l.Address))
		if err != nil {
			return err
		}
		if taken := has && c.Freed == 0 && !c.Other; taken != (l.State != Freed) || taken && (c.MAC != l.MAC || c.Server != l.Server) {
			return fmt.Errorf("lease %+v, and the registry has %+v", l, c)
		}
		if l.State != Reserved {
			expiries[expiryKey(l.Expires, l.Address)] = string(l.State)
		}
		if (l.State == Bad) != (l.DeclinedBy != "") {
			return fmt.Errorf("%v: state %s, declined by %q", l.Address, l.State, l.DeclinedBy)
		}
		if l.State == Bad {
			bad[badKey(l.Address)] = ""
		}
		if (l.State == Leased || l.State == Reserved) != (l.MAC != "") {
			return fmt.Errorf("%v: state %s, MAC %q", l.Address, l.State, l.MAC)
		}
	}
	for prefix, want := range map[string]map[string]string{macPrefix: macs, expiryPrefix: expiries, badPrefix: bad} {
		n := 0
		for it, err := range tx.Scan(prefix, "") {
			if err != nil {
				return err
			}
			if n++; want[it.Key] != string(it.Value) {
				return fmt.Errorf("%s is %q, want %q", it.Key, it.Value, want[it.Key])
			}
		}
		if n != len(want) {
			return fmt.Errorf("%d keys below %s, want %d", n, prefix, len(want))
		}
	}
	return nil
}

func TestSameAddressAlways(t *testing.T) {
	w := newWorld(t, "100", "110")
	w.wantGet(1, t0, "100")
	w.wantGet(2, t0, "101")
	w.wantGet(1, t0.Add(time.Minute), "100")
	w.wantGet(1, t0.Add(100*time.Hour), "100") // expired, and nobody needed it
	of, err := w.offer(1, "105", t0)
	if err != nil || of.Address.Addr() != ip("100") || !of.Known {
		t.Errorf("asked for another: %v %v", of, err)
	}
}

func TestGapFirstThenLongestFree(t *testing.T) {
	w := newWorld(t, "100", "103")
	for i := range 4 {
		w.wantGet(i, t0.Add(time.Duration(i)*time.Minute), fmt.Sprint(100+i))
	}
	later := t0.Add(30 * time.Hour)
	w.must(w.update(func(tx store.Tx) error { return Release(tx, mac(2), ip("102"), t0.Add(5*time.Minute)) }))
	w.wantGet(10, later, "102") // free for the longest: released
	w.wantGet(11, later, "100") // then the order in which they expired
	w.wantGet(3, later, "103")  // came back in time
	w.wantGet(12, later, "101")
	if got := w.get(13, later); !strings.Contains(got, "all 4 addresses") {
		t.Errorf("fifth machine: %s", got)
	}
	if got := w.get(0, later); !strings.Contains(got, "all 4 addresses") { // its address went to 11
		t.Errorf("first machine: %s", got)
	}
}

func TestGapAfterUnansweredOffer(t *testing.T) {
	w := newWorld(t, "100", "110")
	if _, err := w.offer(1, "", t0); err != nil { // offered 100, never asks for it
		t.Fatal(err)
	}
	w.wantGet(2, t0, "101")
	w.wantGet(3, t0, "102")
	w.wantGet(4, t0.Add(2*OfferTTL), "100") // the gap is not lost
	w.wantGet(5, t0.Add(2*OfferTTL), "103")
}

func TestNeverOwn(t *testing.T) {
	w := newWorld(t, "0", "8")
	w.n.Exclude = []netip.Addr{ip("3")}
	for i, want := range []string{"2", "4", "5", "6", "8"} { // not 0 (network), 1 (gateway), 3, 7 (own)
		w.wantGet(i, t0, want)
	}
	if c := w.counts(t0); c != (Counts{Total: 5, Leased: 5}) {
		t.Errorf("counts %+v", c)
	}
	w = newWorld(t, "253", "255")
	w.wantGet(1, t0, "253")
	w.wantGet(2, t0, "254")
	if got := w.get(3, t0); !strings.Contains(got, "all 2 addresses") { // 255 is the broadcast address
		t.Errorf("got %s", got)
	}
}

func TestEndOfAddressSpace(t *testing.T) {
	w := newWorld(t, "1", "1")
	w.n = Network{Registry: w.n.Registry, Static: w.n.Static, Own: netip.MustParsePrefix("255.255.255.1/24"), First: netip.MustParseAddr("255.255.255.254"), Last: netip.MustParseAddr("255.255.255.255"), Lease: time.Hour}
	if got := w.get(1, t0); got != "255.255.255.254/24" {
		t.Errorf("got %s", got)
	}
	if got := w.get(2, t0); !strings.Contains(got, "all 1 addresses") {
		t.Errorf("got %s", got)
	}
}

func TestRequested(t *testing.T) {
	for _, c := range []struct{ name, asks, want string }{
		{"free", "105", "105"}, {"taken", "100", "101"}, {"offered to another", "106", "101"},
		{"outside the range", "50", "101"}, {"head node's", "7", "101"}, {"none", "", "101"},
	} {
		w := newWorld(t, "100", "110")
		w.wantGet(1, t0, "100")
		w.offer(2, "106", t0)
		of, err := w.offer(3, c.asks, t0)
		if err != nil || of.Address.Addr() != ip(c.want) || of.Known || of.Reason == "" {
			t.Errorf("%s: offered %+v, %v; want %s", c.name, of, err, c.want)
		}
		if again, err := w.offer(3, "", t0.Add(time.Second)); err != nil || again.Address != of.Address {
			t.Errorf("%s: then offered %v, %v", c.name, again, err)
		}
	}
}

func TestPeekKeepsNothing(t *testing.T) {
	w := newWorld(t, "100", "110")
	w.must(w.s.View(t.Context(), func(tx store.Tx) error {
		for i := range 3 {
			of, err := w.o.Peek(tx, w.n, mac(i), netip.Addr{}, t0)
			if err != nil || of.Address.Addr() != ip("100") {
				t.Errorf("peek: %v %v", of, err)
			}
		}
		return nil
	}))
	if w.o.age.Len() != 0 {
		t.Error("peek left an offer")
	}
}

func TestCommitRefuses(t *testing.T) {
	w := newWorld(t, "100", "110")
	w.wantGet(1, t0, "100")
	w.wantGet(2, t0, "101")
	var wrong *WrongAddressError
	if err := w.commit(1, "102", "", t0); !errors.As(err, &wrong) || wrong.Has != ip("100") {
		t.Errorf("another than its own: %v", err)
	}
	for _, c := range []struct {
		addr string
		want error
	}{{"101", ErrTaken}, {"50", ErrNotServers}, {"7", ErrNotServers}, {"1", ErrNotServers}, {"255", ErrNotServers}} {
		if err := w.commit(3, c.addr, "", t0); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.addr, err, c.want)
		}
	}
	for _, a := range []string{"192.168.1.1", "::1", "fe80::1"} {
		err := w.update(func(tx store.Tx) error {
			_, err := Commit(tx, w.n, mac(3), netip.MustParseAddr(a), "", t0)
			return err
		})
		if !errors.Is(err, ErrNotOnNetwork) {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, m := range []string{"", "x", "00:00:00:00:fe:80:00:00", "../../etc"} {
		err := w.update(func(tx store.Tx) error {
			_, err := Commit(tx, w.n, m, ip("103"), "", t0)
			return err
		})
		if !errors.Is(err, ErrBadMAC) {
			t.Errorf("MAC %q: %v", m, err)
		}
	}
	w.must(w.commit(3, "101", "", t0.Add(2*time.Hour))) // its holder's lease is over
}

func TestReserved(t *testing.T) {
	w := newWorld(t, "100", "101")
	w.must(w.commit(1, "100", "uuid-1", t0))
	w.wantGet(2, t0, "101")
	late := t0.Add(1000 * time.Hour)
	w.wantGet(3, late, "101") // 2's expired, 1's never does
	of, err := w.offer(1, "", late)
	if err != nil || of.Address.Addr() != ip("100") || !of.Reserved || !strings.Contains(of.Reason, "uuid-1") {
		t.Errorf("offer to a server: %+v, %v", of, err)
	}
	w.must(w.update(func(tx store.Tx) error { return Release(tx, mac(1), ip("100"), late) }))
	if c := w.counts(late); c != (Counts{Total: 2, Reserved: 1, Leased: 1}) {
		t.Errorf("counts %+v", c)
	}
	// The MAC moves to another server and keeps its address.
	w.must(w.update(func(tx store.Tx) error {
		l, err := Reserve(tx, w.n, mac(1), "uuid-2", late)
		if l.Server != "uuid-2" || l.Address != ip("100") {
			t.Errorf("lease %+v", l)
		}
		return err
	}))
	// Its server is forgotten: the address is free after the lease time.
	w.must(w.update(func(tx store.Tx) error { return Unreserve(tx, w.n, mac(1), late) }))
	w.must(w.update(func(tx store.Tx) error { return Unreserve(tx, w.n, mac(77), late) }))
	if got := w.get(4, late); !strings.Contains(got, "all 2 addresses") {
		t.Errorf("too early: %s", got)
	}
	w.wantGet(4, late.Add(w.n.Lease), "100")
}

func TestReserveWithoutLease(t *testing.T) {
	w := newWorld(t, "100", "100")
	reserve := func(m int) (l Lease, err error) {
		err = w.update(func(tx store.Tx) (err error) {
			l, err = Reserve(tx, w.n, mac(m), fmt.Sprint("uuid-", m), t0)
			return err
		})
		return l, err
	}
	if l, err := reserve(1); err != nil || l.Address != ip("100") || l.State != Reserved {
		t.Errorf("%+v, %v", l, err)
	}
	var full *RangeFullError
	if _, err := reserve(2); !errors.Is(err, ErrRangeFull) || !errors.As(err, &full) || full.Counts.Reserved != 1 {
		t.Errorf("full range: %v", err)
	}
}

func TestRangeChanged(t *testing.T) {
	w := newWorld(t, "100", "102")
	w.wantGet(1, t0, "100")
	w.wantGet(2, t0, "101")
	w.must(w.commit(3, "102", "uuid-3", t0))
	w.n.First, w.n.Last = ip("50"), ip("52")
	w.wantGet(1, t0, "50")
	w.wantGet(3, t0, "102") // a reservation stays where it is
	w.wantGet(4, t0, "51")
	w.wantGet(5, t0, "52")
	if got := w.get(6, t0.Add(time.Minute)); !strings.Contains(got, "10.0.0.50-10.0.0.52") {
		t.Errorf("got %s", got)
	}
	w.n.Last = ip("102")
	w.wantGet(6, t0.Add(time.Minute), "53")
}

// TestFlood: offers in memory stay bounded, and a newcomer still gets an address.
func TestFlood(t *testing.T) {
	w := newWorld(t, "100", "199")
	w.o = NewOffers(64)
	for i := range 1000 {
		if _, err := w.offer(1000+i, "", t0.Add(time.Duration(i)*time.Millisecond)); err != nil {
			t.Fatalf("discover %d: %v", i, err)
		}
	}
	if n := w.o.age.Len(); n > 64 || n != len(w.o.byMAC) || n != len(w.o.byIP) {
		t.Errorf("%d offers, %d MACs, %d addresses", n, len(w.o.byMAC), len(w.o.byIP))
	}
	w.o = NewOffers(0)
	for i := range 300 { // more than the range has
		if _, err := w.offer(5000+i, "", t0); err != nil {
			t.Fatalf("discover %d: %v", i, err)
		}
	}
	if got := w.get(1, t0); !strings.HasSuffix(got, "/24") {
		t.Errorf("machine in a flood: %s", got)
	}
}

// TestAllFollowTheRules lets machines do random things.
func TestAllFollowTheRules(t *testing.T) {
	w := newWorld(t, "100", "109")
	r := rand.New(rand.NewPCG(3, 4))
	now := t0
	for step := range 600 {
		now = now.Add(time.Duration(r.IntN(20)) * time.Minute)
		m := r.IntN(16)
		var lease Lease
		w.s.View(t.Context(), func(tx store.Tx) (err error) { lease, err = ByMAC(tx, mac(m)); return err })
		switch r.IntN(8) {
		case 0:
			if lease.Address.IsValid() {
				w.must(w.update(func(tx store.Tx) error { return Release(tx, mac(m), lease.Address, now) }))
			}
		case 1:
			if lease.Address.IsValid() {
				w.must(w.update(func(tx store.Tx) error { _, err := Decline(tx, w.n, mac(m), lease.Address, now); return err }))
			}
		case 2:
			if m < 4 {
				if err := w.update(func(tx store.Tx) error { _, err := Reserve(tx, w.n, mac(m), "u", now); return err }); err != nil && !errors.Is(err, ErrRangeFull) {
					t.Fatal(err)
				}
			}
		case 3:
			w.must(w.update(func(tx store.Tx) error { return Unreserve(tx, w.n, mac(m), now) }))
		default:
			held, bad := map[netip.Addr]string{}, 0
			w.must(w.s.View(t.Context(), func(tx store.Tx) error {
				for e, err := range store.Each[Lease](tx, ipPrefix) {
					if err != nil {
						return err
					}
					if e.Value.Active(now) || e.Value.State == Bad && now.Before(e.Value.Expires) {
						held[e.Value.Address] = e.Value.MAC
					}
					if e.Value.State == Bad && now.Before(e.Value.Expires) {
						bad++
					}
				}
				return nil
			}))
			of, err := w.offer(m, "", now)
			if err != nil {
				if !errors.Is(err, ErrRangeFull) || len(held) < 10 {
					t.Fatalf("step %d: %v with %d addresses held", step, err, len(held))
				}
				continue
			}
			if h, taken := held[of.Address.Addr()]; taken && h != mac(m) && (h != "" || len(held) < 10 || bad == 0) {
				t.Fatalf("step %d: %v offered to %s, held by %q", step, of.Address, mac(m), h)
			}
			w.must(w.commit(m, strings.TrimSuffix(strings.TrimPrefix(of.Address.String(), "10.0.0."), "/24"), "", now))
			w.o.Done(mac(m))
		}
		c := w.counts(now)
		if c.Total != 10 || c.Reserved+c.Leased+c.Expired+c.Bad+c.Free != 10 {
			t.Fatalf("step %d: counts %+v", step, c)
		}
	}
}
