//go:build netns

package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
	"nereid/integration/fleet"
	"nereid/integration/fleet/fleettest"
)

// The fleet that is measured, how many NICs are made by 64 clients and by one after
// the other, and how long idleness is watched.
const (
	fleetServers = 1000
	fleetNICs    = 6000
	fleetSingle  = 50
	fleetIdle    = time.Minute
)

// TestBenchFleet measures a head node with 1,000 simulated servers, in processes of
// their own on this machine, whose processors both share: a storm in which the head
// node is killed once, idleness, and the making of NICs, without firewall rules and
// with a global one. It prints; it fails where something acknowledged was lost.
func TestBenchFleet(t *testing.T) {
	bin := os.Getenv("NEREID_BIN")
	if bin == "" {
		t.Fatal("NEREID_BIN names no directory with the programs; run: make bench")
	}
	h := fleettest.Start(t, func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, filepath.Join(bin, "nereid-headnode"), args...)
	})
	var fs unix.Statfs_t
	if err := unix.Statfs(h.Dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		t.Fatalf("%s is in memory, so that a write costs nothing; set TMPDIR to a directory on a disk", h.Dir)
	}
	seed := make([]byte, 32)
	_, _ = rand.Read(seed)
	half, ups := make(chan struct{}), make(chan struct{}, fleetServers)
	f, err := fleet.New(fleet.Config{Headnode: h.Socket(), Servers: fleetServers, Seed: seed, Approve: true, SetUp: true,
		Event: func(what string) {
			if what == "up" {
				select {
				case ups <- struct{}{}:
				default:
				}
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	go func() {
		for range fleetServers / 2 {
			<-ups
		}
		close(half)
	}()
	ctx, off := context.WithCancel(t.Context())
	done := make(chan error, 1)
	begun := time.Now()
	go func() { done <- f.Run(ctx) }()
	defer func() {
		off()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-half
	fmt.Printf("storm: %d of %d servers sync after %.1f s; the head node is killed\n", fleetServers/2, fleetServers, time.Since(begun).Seconds())
	h.Kill()
	h.Run()
	if err := f.WaitRunning(ctx); err != nil {
		t.Fatal(err)
	}
	p := f.See()
	fmt.Printf("storm: all %d servers run after %.1f s; from power-on to the first sync %s; %s; %s\n", fleetServers, time.Since(begun).Seconds(), p.Booted, p, p.Last)
	atRest(t, f)
	checkLost(t, f, nil)

	idle(t, h, "idle")
	if err := f.PrepareNICs(ctx); err != nil {
		t.Fatal(err)
	}
	macs := single(t, f, "no rule")
	atRest(t, f)
	before := cpuSeconds(t, h.PID)
	many, took := f.NICs(ctx, fleetNICs, 64)
	p = f.See()
	fmt.Printf("NICs by 64 clients: %.0f/s, %d of %d; the request %s; the server knows %s; head node %.2f ms of CPU each; %s\n",
		float64(len(many))/took.Seconds(), len(many), fleetNICs, p.Create, p.Tell, 1000*(cpuSeconds(t, h.PID)-before)/fleetNICs, p)
	macs = append(macs, many...)
	atRest(t, f)
	idle(t, h, fmt.Sprintf("idle, %d NICs", len(macs)))

	c := api.NewClient(h.Socket())
	defer c.Close()
	rule := api.FirewallRule{Rule: `FROM tag "role" = "web" TO tag "role" = "db" ALLOW tcp PORT 5432`, Enabled: true, Global: true}
	if _, err := c.FirewallRules().Create(ctx, rule); err != nil {
		t.Fatal(err)
	}
	atRest(t, f)
	macs = append(macs, single(t, f, "one global rule")...)
	atRest(t, f)
	checkLost(t, f, macs)
}

// single makes NICs one after the other and says how many servers were told.
func single(t *testing.T, f *fleet.Fleet, what string) []string {
	t.Helper()
	atRest(t, f)
	before := f.See()
	var macs []string
	var delays []float64
	for range fleetSingle {
		m, took := f.NICs(t.Context(), 1, 1)
		macs = append(macs, m...)
		delays = append(delays, 1000*took.Seconds())
	}
	atRest(t, f)
	p := f.See()
	fmt.Printf("NIC create, %s: median %.2f ms; %.1f servers told for each\n", what, median(delays), float64(p.Told-before.Told)/fleetSingle)
	return macs
}

// idle prints what the head node costs while nothing happens.
func idle(t *testing.T, h *fleettest.Head, what string) {
	t.Helper()
	before := cpuSeconds(t, h.PID)
	<-time.After(fleetIdle) // what is measured is the passing of time
	spent := cpuSeconds(t, h.PID) - before
	fmt.Printf("%s: head node %.2f %% of a core over %v (%.3f s), %d kB resident\n", what, 100*spent/fleetIdle.Seconds(), fleetIdle, spent, rss(t, h.PID))
}

// atRest waits until all servers sync and none was told anything for a second.
func atRest(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	last := -1
	for {
		p := f.See()
		if p.In[fleet.Syncing] == fleetServers && p.Told == last {
			return
		}
		last = p.Told
		select {
		case <-time.After(time.Second):
		case <-t.Context().Done():
			t.Fatalf("the fleet does not come to rest: %s", p)
		}
	}
}

func checkLost(t *testing.T, f *fleet.Fleet, macs []string) {
	t.Helper()
	lost, err := f.Lost(t.Context(), macs)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lost {
		t.Errorf("acknowledged and lost: %s", l)
	}
	fmt.Printf("nothing of %d servers and %d NICs that was acknowledged is lost: %v\n", fleetServers, len(macs), len(lost) == 0)
}

// rss is the resident memory of a process in kB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize() / 1024
}
