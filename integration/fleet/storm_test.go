package fleet

import (
	"context"
	"sync"
	"testing"

	"nereid/api"
	"nereid/integration/fleet/fleettest"
)

// counts lets a test wait until something has happened so many times.
type counts struct {
	mu   sync.Mutex
	seen map[string]int
	news chan struct{}
}

func newCounts() *counts { return &counts{seen: map[string]int{}, news: make(chan struct{}, 1)} }

func (c *counts) add(what string) {
	c.mu.Lock()
	c.seen[what]++
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// until waits until a condition holds, which it tries after each event.
func (c *counts) until(t *testing.T, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-c.news:
		case <-t.Context().Done():
			t.Fatal("the test ended first")
		}
	}
}

func (c *counts) wait(t *testing.T, what string, count int) {
	t.Helper()
	c.until(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.seen[what] >= count
	})
}

// TestStorm: 50 servers are powered on at once, and NICs are made for them. The head
// node is killed when half of the servers have booted, when half of them sync, and when
// half of the NICs are made. All run in the end, and nothing that the head node
// acknowledged is lost.
func TestStorm(t *testing.T) {
	const servers, nics = 50, 200
	h := fleettest.Start(t, headnodeProgram)
	saw := newCounts()
	f, err := New(Config{Headnode: h.Socket(), Servers: servers, Seed: []byte("seed of a test's keys"), Approve: true, SetUp: true, Event: saw.add})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, off := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		off()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	crash := func(what string, count int) {
		saw.wait(t, what, count)
		h.Kill()
		h.Run()
	}
	crash("pending", servers/2)
	crash("up", servers/2)
	saw.wait(t, "running", servers)
	if err := f.PrepareNICs(ctx); err != nil {
		t.Fatal(err)
	}
	var macs []string
	made := make(chan struct{})
	go func() {
		defer close(made)
		macs, _ = f.NICs(ctx, nics, 16)
	}()
	crash("NIC", nics/2)
	<-made
	saw.until(t, func() bool { return f.See().In[Syncing] == servers })
	if len(macs) < nics/2 {
		t.Errorf("%d of %d NICs were acknowledged", len(macs), nics)
	}
	p := f.See()
	if p.Tell.Count != len(macs) || p.Failures["tell"] != 0 {
		t.Errorf("servers were told of %d of %d NICs: %s", p.Tell.Count, len(macs), p)
	}
	lost, err := f.Lost(ctx, macs)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lost {
		t.Errorf("acknowledged and lost: %s", l)
	}
	if lost, err = f.Lost(ctx, []string{"02:00:00:00:00:01"}); err != nil || len(lost) != 1 {
		t.Errorf("a NIC that never was is found lost: %v %v", lost, err)
	}
	c := api.NewClient(h.Socket())
	defer c.Close()
	states := map[api.ServerState]int{}
	for v, err := range c.Servers(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		states[v.State]++
	}
	if states[api.StateRunning] != servers || len(states) != 1 {
		t.Errorf("the head node sees %v; want %d running. The fleet: %s", states, servers, p)
	}
	if err := f.DeleteNICs(ctx, macs); err != nil {
		t.Error(err)
	}
}
