package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// failing is a System that changes no entries.
type failing struct{ System }

func (*failing) Change(context.Context, []Change) error { return errors.New("no memory") }

// TestWatch: a burst of events is looked at once; what is as it should be is left
// alone; what is not is repaired; a failed repair is tried again, ever less often.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, n := mapServer(t)
		fm := api.FabricMap{Epoch: "a", Version: 5, Full: true, Entries: []api.MapEntry{entry("10.0.0.9", 9, "192.0.2.9", 4)}}
		if err := n.ApplyMap(t.Context(), 100, fm); err != nil {
			t.Fatal(err)
		}
		var broken atomic.Bool
		f.refuse = func(Step) error {
			if broken.Load() {
				return errors.New("no memory")
			}
			return nil
		}
		looks := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Watch(ctx, nil, func() { looks++ }) }()
		seg := n.segments[100]
		vx, vb := seg.vxlan, seg.bridge
		m9 := MAC{2, 0, 0, 0, 0, 9}

		// As our own changes are told.
		f.events <- Event{Kind: EventForward, Dev: vx, MAC: m9, Self: true, Static: true, IP: netip.MustParseAddr("192.0.2.9")}
		f.events <- Event{Kind: EventForward, Dev: vx, MAC: m9, Static: true}
		f.events <- Event{Kind: EventNeighbour, Dev: vb, MAC: m9, IP: netip.MustParseAddr("10.0.0.9")}
		f.events <- Event{Kind: EventNeighbour, Dev: vb, MAC: MAC{1}, IP: netip.MustParseAddr("10.0.0.254")}
		f.events <- Event{Kind: EventForward, Dev: 99, MAC: m9, Gone: true}
		time.Sleep(time.Second)
		if synctest.Wait(); looks != 0 {
			t.Errorf("%d repairs of nothing", looks)
		}
		// By hand.
		before := f.entries()
		for _, e := range []Event{
			{Kind: EventForward, Dev: vx, MAC: m9, Self: true, Gone: true},
			{Kind: EventForward, Dev: vx, MAC: m9, Gone: true},
			{Kind: EventForward, Dev: vx, MAC: m9, Self: true, Static: true, IP: netip.MustParseAddr("192.0.2.66")},
			{Kind: EventNeighbour, Dev: vb, MAC: m9, IP: netip.MustParseAddr("10.0.0.9"), Gone: true},
			{Kind: EventNeighbour, Dev: vb, MAC: MAC{1}, IP: netip.MustParseAddr("10.0.0.9")},
			{Kind: EventLost},
		} {
			delete(f.table(vb).Forward, m9)
			clear(f.table(vb).Neighbours)
			f.events <- e
			time.Sleep(time.Second)
			synctest.Wait()
			if d := cmp.Diff(before, f.entries()); d != "" || looks != 1 {
				t.Errorf("%+v: %d repairs:\n%s", e, looks, d)
			}
			looks = 0
		}
		// A burst.
		delete(f.state.Links, "vx100")
		for range 50 {
			f.events <- Event{Kind: EventLink, Dev: vx, Gone: true}
		}
		time.Sleep(time.Second)
		if synctest.Wait(); looks != 1 || f.state.Links["vx100"] == nil {
			t.Errorf("%d repairs", looks)
		}
		// A repair that does not work.
		looks = 0
		delete(f.state.Links, "vx100")
		broken.Store(true)
		f.events <- Event{Kind: EventLink, Gone: true}
		time.Sleep(10 * time.Minute)
		if synctest.Wait(); looks < 15 || looks > 22 {
			t.Errorf("%d repairs in 10 minutes", looks)
		}
		broken.Store(false)
		time.Sleep(retryLimit)
		if synctest.Wait(); f.state.Links["vx100"] == nil {
			t.Error("not repaired")
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
}

// TestQueueIsBounded: with too many entries to look at, all are read.
func TestQueueIsBounded(t *testing.T) {
	q := newQueue()
	for i := range maxPending {
		q.put(Event{Kind: EventForward, MAC: MAC{0, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}})
	}
	q.put(Event{Kind: EventForward, MAC: MAC{0, 0, 0, 0, 0, 1}, Gone: true}) // known: the last counts
	p := q.take()
	if p.lost || len(p.entries) != maxPending {
		t.Errorf("%d entries, lost %v", len(p.entries), p.lost)
	}
	for i := range maxPending + 1 {
		q.put(Event{Kind: EventNeighbour, IP: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
	}
	if p := q.take(); !p.lost {
		t.Error("not said that events were lost")
	}
	if p := q.take(); p.lost || len(p.entries) > 0 {
		t.Error("taken twice")
	}
}

func TestReport(t *testing.T) {
	f := server()
	n := f.mustApply(t, specs()["lacp"])
	n.Sys = t.TempDir()
	for name, speed := range map[string]string{"eth0": "25000\n", "eth1": "-1\n", "bond0": "50000\n"} {
		dir := filepath.Join(n.Sys, "class", "net", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "speed"), []byte(speed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f.state.Links["bond0"].Carrier = true
	f.state.Links["eth0"].Member = Member{Actor: 0x3d, Partner: 0x3d}
	f.state.Links["eth1"].Member = Member{Actor: 0x45}
	f.state.Links["eth1"].Stats = Stats{1, 2, 3, 4, 5, 6}
	f.state.Links["eth3"].Carrier = false
	r, err := n.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []api.LinkReport{
		{Name: "bond0", MAC: mac(1), NICTags: []string{"admin", "external", "underlay"}, Up: true, SpeedMbps: 50000, MTU: 9000, LACP: "collecting"},
		{Name: "eth0", MAC: mac(1), Bond: "bond0", Up: true, SpeedMbps: 25000, MTU: 9000, LACP: "collecting"},
		{Name: "eth1", MAC: mac(2), Bond: "bond0", Up: true, MTU: 9000, LACP: "waiting", RxBytes: 1, TxBytes: 2, RxErrors: 3, TxErrors: 4, RxDropped: 5, TxDropped: 6},
		{Name: "eth2", MAC: mac(3), Up: true, MTU: 1500},
		{Name: "eth3", MAC: mac(4), MTU: 1500},
	}
	if d := cmp.Diff(want, r.Links); d != "" || !r.Applied {
		t.Errorf("applied %v:\n%s", r.Applied, d)
	}
}
