package events

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

func names(evs []api.Event) string {
	var out []string
	for _, ev := range evs {
		out = append(out, ev.Name)
	}
	return strings.Join(out, " ")
}

// TestRead: a reader gets what is behind its id, and is told once when that is not all
// there is.
func TestRead(t *testing.T) {
	l := New(4, time.Now)
	start := l.Now()
	if p := l.Read(start, Filter{}); p.Missed || p.Events != nil || p.More == nil || p.ID != start {
		t.Errorf("of an empty log: %+v", p)
	}
	var ids []string
	for i := range 6 {
		l.Publish(api.Event{Name: fmt.Sprint(i + 1)})
		ids = append(ids, l.Now())
	}
	for i, want := range []string{"missed", "3 4 5 6", "4 5 6", "5 6", "6", ""} {
		p := l.Read(ids[i], Filter{})
		got := names(p.Events)
		if p.Missed {
			got = "missed"
		}
		if got != want || p.ID != ids[5] {
			t.Errorf("behind event %d: %s to %s, want %s to %s", i+1, got, p.ID, want, ids[5])
		}
		if p.Missed && l.Read(p.ID, Filter{}).Missed {
			t.Error("told twice that it missed events")
		}
	}
	other := New(4, time.Now)
	for _, id := range []string{"", start, other.Now(), l.epoch + "-7", l.epoch + "--1", l.epoch, "x", "-", l.epoch + "-18446744073709551615"} {
		if p := l.Read(id, Filter{}); !p.Missed || p.ID != ids[5] || p.Events != nil {
			t.Errorf("behind %q: %+v, want to be told that events were missed", id, p)
		}
	}
}

// TestMore: More is closed by the next event, also one that the filter does not let
// through; who reads in between waits for nothing.
func TestMore(t *testing.T) {
	l := New(16, time.Now)
	f := Filter{Kinds: []string{"nic"}}
	p := l.Read(l.Now(), f)
	l.Publish(api.Event{Kind: "bond"})
	<-p.More
	next := l.Read(p.ID, f)
	if next.Events != nil || next.ID != l.Now() || next.More == nil {
		t.Errorf("behind an event of another kind: %+v", next)
	}
	l.Publish(api.Event{Kind: "nic"})
	<-next.More
	if p := l.Read(next.ID, f); len(p.Events) != 1 || p.More != nil {
		t.Errorf("behind one that it wants: %+v", p)
	}
}

// TestLongWay: a reader that is far behind gets all in pages, and its filter does not make
// one Read look at all there is.
func TestLongWay(t *testing.T) {
	l := New(3*scanned, time.Now)
	id := l.Now()
	evs := make([]api.Event, 3*scanned)
	evs[3*scanned-1].Kind = "nic"
	l.Publish(evs...)
	pages := 0
	for {
		p := l.Read(id, Filter{Kinds: []string{"nic"}})
		if id = p.ID; p.More != nil || p.Missed {
			t.Fatalf("page %d: %+v", pages, p)
		}
		if pages++; len(p.Events) == 1 {
			break
		}
	}
	if pages != 3 {
		t.Errorf("%d pages, want 3", pages)
	}
}

func TestFilter(t *testing.T) {
	nic := api.Event{Kind: "nic", Owner: "a", Server: "s"}
	set := OfSet("server/s/ports")
	for _, c := range []struct {
		f    Filter
		ev   api.Event
		want bool
	}{
		{Filter{}, nic, true},
		{Filter{}, set, false},
		{Filter{Kinds: []string{"bond", "nic"}}, nic, true},
		{Filter{Kinds: []string{"bond"}}, nic, false},
		{Filter{Kinds: []string{"set"}}, set, true},
		{Filter{Owners: []string{"a"}}, nic, true},
		{Filter{Owners: []string{"b"}}, nic, false},
		{Filter{Owners: []string{"a"}, Servers: []string{"x"}}, nic, false},
		{Filter{Servers: []string{"s"}}, set, false},
		{Filter{Sets: []string{"server/s/ports"}}, set, true},
		{Filter{Sets: []string{"server/s/"}}, set, true},
		{Filter{Sets: []string{"server/"}, Servers: []string{"s"}}, set, true},
		{Filter{Sets: []string{"server/s"}}, set, false},
		{Filter{Sets: []string{"vni/"}}, nic, false},
		{Filter{Sets: []string{"account/a/"}, Owners: []string{"a"}}, OfSet("account/a/rules"), true},
		{Filter{Sets: []string{"vni/00012a"}}, OfSet("vni/00012a"), true},
	} {
		if got := c.f.wants(c.ev); got != c.want {
			t.Errorf("%+v lets %+v through: %v", c.f, c.ev, got)
		}
	}
}

// TestNoneLost: readers that are slow, that are cut off and that filter, beside eight
// writers that wait for none of them, get each event once and in order, or are told.
func TestNoneLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, kept = 400, 256
		l := New(kept, time.Now)
		start := l.Now()
		done := make(chan struct{})
		var writers, readers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() {
				for i := range each {
					l.Publish(api.Event{Kind: []string{"odd", "even"}[i%2], Owner: fmt.Sprint(w), Name: fmt.Sprint(i)})
					time.Sleep(rand.N(time.Millisecond))
				}
			})
		}
		for r := range 12 {
			readers.Go(func() {
				f := Filter{Kinds: []string{"even"}}
				pause := time.Duration(r) * 4 * time.Millisecond
				last, missed, got := map[string]int{}, 0, 0
				for id := start; ; {
					p := l.Read(id, f)
					id = p.ID
					if p.Missed {
						missed++
						clear(last)
					}
					for _, ev := range p.Events {
						var n int
						_, _ = fmt.Sscan(ev.Name, &n)
						if was, seen := last[ev.Owner]; seen && n != was+2 {
							t.Errorf("reader %d: of writer %s event %d comes after %d", r, ev.Owner, n, was)
						}
						last[ev.Owner] = n
						got++
					}
					if p.More != nil {
						select {
						case <-p.More:
						case <-done:
							if l.Now() == id {
								if missed == 0 && got != 8*each/2 {
									t.Errorf("reader %d got %d events and was told of none missed", r, got)
								}
								if r == 0 && missed > 0 || r == 11 && missed == 0 {
									t.Errorf("reader %d, which pauses for %v, missed events %d times", r, pause, missed)
								}
								return
							}
						}
					}
					time.Sleep(pause)
				}
			})
		}
		writers.Wait()
		close(done)
		readers.Wait()
	})
}

// TestPublishGives: ids and times, in order.
func TestPublishGives(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	l := New(8, func() time.Time { return at })
	id := l.Now()
	l.Publish()
	l.Publish(api.Event{Name: "a"}, api.Event{Name: "b"})
	got := l.Read(id, Filter{}).Events
	want := []api.Event{{ID: l.epoch + "-1", Time: at, Name: "a"}, {ID: l.epoch + "-2", Time: at, Name: "b"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// FuzzRead: ids come from the network.
func FuzzRead(f *testing.F) {
	l := New(4, time.Now)
	for range 6 {
		l.Publish(api.Event{})
		f.Add(l.Now())
	}
	for _, id := range []string{"", "-", "-1", l.epoch + "-", l.epoch + "-+5", l.epoch + "-99999999999999999999", "\x00"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		p := l.Read(id, Filter{})
		if p.ID != l.Now() || p.Missed && p.Events != nil || len(p.Events) > 4 {
			t.Errorf("behind %q: %+v", id, p)
		}
	})
}

// BenchmarkPublish: what an event costs who makes a change, with 100 readers that wait.
func BenchmarkPublish(b *testing.B) {
	l := New(Kept, time.Now)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 100 {
		readers.Go(func() {
			for id := l.Now(); ; {
				p := l.Read(id, Filter{Owners: []string{"x"}})
				if id = p.ID; p.More == nil {
					continue
				}
				select {
				case <-p.More:
				case <-stop:
					return
				}
			}
		})
	}
	for b.Loop() {
		l.Publish(api.Event{Kind: "nic", Owner: "a"})
	}
	close(stop)
	readers.Wait()
}
