package agent

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nereid/agent/firewall"
	"nereid/agent/router"
	"nereid/api"
)

// lock is what the owners of the network hold while they work. Unlike a sync.Mutex
// it lets the bubble's time pass for those who wait.
type lock chan struct{}

func (l lock) hold(d time.Duration) func() {
	l <- struct{}{}
	time.Sleep(d)
	return func() { <-l }
}

// slowWire is a wire of which one part takes slow for its work, and says nothing
// until that is done.
type slowWire struct {
	*wire
	part  string
	slow  time.Duration
	locks map[string]lock
}

func newSlowWire(part string, slow time.Duration) slowWire {
	w := slowWire{wire: newWire(), part: part, slow: slow, locks: map[string]lock{}}
	for _, p := range []string{"links", "map", "routers", "firewall"} {
		w.locks[p] = make(lock, 1)
	}
	return w
}

func (w slowWire) work(part string) {
	var d time.Duration
	if part == w.part {
		d = w.slow
	}
	w.locks[part].hold(d)()
}

func (w slowWire) ask(part string) { w.locks[part].hold(0)() }

func (w slowWire) net() Net {
	return Net{Links: slowLinks{w, wireLinks{w.wire}}, Ports: wirePorts{w.wire}, Routers: slowRouters{w, wireRouters{w.wire}},
		Filter: slowFilter{w, wireFilter{w.wire}}}
}

type slowLinks struct {
	slowWire
	wireLinks
}

func (s slowLinks) Apply(ctx context.Context, spec api.NetworkSpec) error {
	s.work("links")
	return s.wireLinks.Apply(ctx, spec)
}
func (s slowLinks) ApplyMap(ctx context.Context, vni uint32, m api.FabricMap) error {
	s.work("map")
	return s.wireLinks.ApplyMap(ctx, vni, m)
}
func (s slowLinks) Report(ctx context.Context) (api.NetworkReport, error) {
	s.ask("map")
	return s.wireLinks.Report(ctx)
}

type slowRouters struct {
	slowWire
	wireRouters
}

func (s slowRouters) Apply(ctx context.Context, r []api.RouterSpec, e router.Env) error {
	s.work("routers")
	return s.wireRouters.Apply(ctx, r, e)
}
func (s slowRouters) Drops(ctx context.Context) (map[string]uint64, error) {
	s.ask("routers")
	return s.wireRouters.Drops(ctx)
}

type slowFilter struct {
	slowWire
	wireFilter
}

func (s slowFilter) Apply(ctx context.Context, p []firewall.Port, f api.FirewallSpec, o firewall.Options) ([]firewall.Failure, error) {
	s.work("firewall")
	return s.wireFilter.Apply(ctx, p, f, o)
}
func (s slowFilter) Counters(ctx context.Context) (map[string]uint64, error) {
	s.ask("firewall")
	return s.wireFilter.Counters(ctx)
}

// slowHardware is a disk that takes slow for each read, from some time on.
type slowHardware struct {
	hardware
	slow *lateDisk
}

type lateDisk struct {
	mu sync.Mutex
	d  time.Duration
}

func (d *lateDisk) set(v time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.d = v
}

func (h slowHardware) Read(ctx context.Context) (api.Sysinfo, error) {
	h.slow.mu.Lock()
	d := h.slow.d
	h.slow.mu.Unlock()
	time.Sleep(d) // a read of a block device does not hear of ctx
	return h.hardware.Read(ctx)
}

// However long a part of the server's network, or its hardware takes,
// syncs go on and the watchdog is fed.
func TestSyncsGoOnWhileTheServerWorks(t *testing.T) {
	const slow = 150 * time.Second
	for _, part := range []string{"routers", "firewall", "links", "map", "hardware"} {
		t.Run(part, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h, n := newWorld(), newHeadNode(t), newSlowWire(part, slow)
				h.approved = true
				disk := &lateDisk{}
				r := start(t, w, h, t.TempDir(), func(a *Agent) {
					a.Net, a.Watchdog, a.Hardware = n.net(), time.Minute, slowHardware{hardware{w}, disk}
				})
				h.until("first sync", func(api.SyncRequest) bool { return true })
				time.Sleep(time.Minute)
				if part == "hardware" {
					disk.set(slow)
				}
				h.set(func() {
					h.spec = networkSpec("r1")
					h.maps = []api.FabricMap{{VNI: 7, Epoch: "e", Version: 3, Full: true}}
				})
				pings := strings.Count(r.notes.String(), "WATCHDOG=1")
				h.mu.Lock()
				begun, before := time.Now(), len(h.came)
				h.mu.Unlock()
				const watched = 10 * time.Minute
				time.Sleep(watched)
				h.mu.Lock()
				came := append([]time.Time{begun}, h.came[before:]...)
				h.mu.Unlock()
				for i, at := range append(came[1:], time.Now()) {
					if gap := at.Sub(came[i]); gap > api.SyncHold+time.Second {
						t.Errorf("no sync for %s, from %s after the change on", gap, came[i].Sub(begun))
					}
				}
				if got := strings.Count(r.notes.String(), "WATCHDOG=1") - pings; got < int(watched/(30*time.Second))-1 {
					t.Errorf("the watchdog was fed %d times in %s", got, watched)
				}
				s := h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
				if u := s.Usage.Network; u == nil || u.Drops["router_denied"] != 2 {
					t.Errorf("when all is done, the usage is %+v", u)
				}
				r.stop()
			})
		})
	}
}
