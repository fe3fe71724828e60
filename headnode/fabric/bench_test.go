package fabric

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// benchWorld is a world whose Updates run once.
func benchWorld(b *testing.B) *world {
	s, err := store.OpenBolt(b.Context(), filepath.Join(b.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return &world{b, s, b.Context()}
}

func setsOf(vnis []uint32) (out []string) {
	for _, vni := range vnis {
		out = append(out, MapSet(vni))
	}
	return out
}

// run starts a hub; stop ends it and waits.
func (w *world) run(h *journal.Hub) (stop func()) {
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

func many(n int) []api.MapEntry {
	out := make([]api.MapEntry, n)
	for i := range out {
		out[i] = entry(fmt.Sprintf("10.%d.%d.%d", i/62500, i/250%250, i%250+1), fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255), fmt.Sprintf("172.16.%d.%d", i%1000/250, i%250+1))
	}
	return out
}

// vnis makes n VNIs with some entries each.
func (w *world) vnis(n, entries int) (out []uint32) {
	w.do(func(tx store.Tx) error {
		out = nil
		for i := range n {
			v, err := CreateVLAN(tx, api.FabricVLAN{Owner: fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", i/4000), VLAN: i%4000 + 2, Name: fmt.Sprint("v", i%4000)}, t0)
			if err == nil {
				_, err = Put(tx, v.VNI, many(entries)...)
			}
			if err != nil {
				return err
			}
			out = append(out, v.VNI)
		}
		return nil
	})
	return out
}

// BenchmarkMove is one move of an address, from the call of Update until 1,000
// servers that follow 50 VNIs each and host that one have it as JSON: in the first
// case all host the same 50; in the second each VNI is on 50 of the servers.
func BenchmarkMove(b *testing.B) {
	const servers, each = 1000, 50
	for _, c := range []struct {
		name           string
		vnis, entries  int
		followersOfOne int
	}{{"all1000hostIt", each, 200, servers}, {"50of1000hostIt", 1000, 20, 50}} {
		b.Run(c.name, func(b *testing.B) { benchMove(b, c.vnis, c.entries, servers, each, c.followersOfOne) })
	}
}

func benchMove(b *testing.B, vnis, entries, servers, each, told int) {
	w := benchWorld(b)
	w.do(journal.Begin)
	all := w.vnis(vnis, entries)
	hub := journal.NewHub(w.s)
	stopHub := w.run(hub)
	var (
		wg       sync.WaitGroup
		arrivals = make(chan time.Time, servers)
		bytes    atomic.Int64
		quit     = make(chan struct{})
		shared   = journal.NewShared[json.RawMessage]()
	)
	for i := range servers {
		var mine []uint32
		for j := range each {
			mine = append(mine, all[(i+j*vnis/each)%vnis])
		}
		f := hub.Follow(setsOf(mine)...)
		defer f.Close()
		known := make(map[string]*follower)
		err := w.s.View(w.ctx, func(tx store.Tx) error {
			for _, vni := range mine {
				epoch, version, err := Version(tx, vni)
				if err != nil {
					return err
				}
				known[MapSet(vni)] = &follower{vni: vni, Follow: api.Follow{Set: MapSet(vni), Epoch: epoch, Since: version}}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			for {
				select {
				case <-f.C():
				case <-quit:
					return
				}
				var ds []json.RawMessage
				changed := f.Changed()
				err := w.s.View(w.ctx, func(tx store.Tx) error {
					ds = nil
					for _, set := range changed {
						f := known[set].known()
						d, _, news, err := shared.Get(w.ctx, tx, set, f, func() (json.RawMessage, int, error) {
							d, _, err := Delta(tx, known[set].vni, f, 1<<20)
							if err != nil {
								return nil, 0, err
							}
							text, err := json.Marshal(d)
							return text, len(text), err
						})
						if err != nil {
							return err
						}
						if news {
							ds = append(ds, d)
						}
					}
					return nil
				})
				if err != nil {
					b.Error(err)
					return
				}
				if len(ds) == 0 {
					continue
				}
				at := time.Now()
				for _, text := range ds {
					var d api.Delta
					if err := json.Unmarshal(text, &d); err != nil {
						b.Error(err)
					}
					known[d.Set].Follow = known[d.Set].Take(d)
					bytes.Add(int64(len(text)))
				}
				arrivals <- at
			}
		})
	}
	var commits, totals []float64
	e := many(1)[0]
	b.ReportAllocs()
	cpu := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		begun := time.Now()
		w.do(func(tx store.Tx) error { _, err := Move(tx, all[0], e.MAC, addr([]string{ul2, ul1}[i%2])); return err })
		commits = append(commits, float64(time.Since(begun).Microseconds())/1000)
		last := begun
		for range told {
			if at := <-arrivals; at.After(last) {
				last = at
			}
		}
		totals = append(totals, float64(last.Sub(begun).Microseconds())/1000)
	}
	cpu = cpuTime(b) - cpu
	close(quit)
	wg.Wait()
	stopHub()
	slices.Sort(commits)
	slices.Sort(totals)
	b.ReportMetric(commits[len(commits)/2], "commit-ms(median)")
	b.ReportMetric(totals[len(totals)/2], "all-told-ms(median)")
	b.ReportMetric(totals[len(totals)-1], "all-told-ms(max)")
	b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "CPU-ms/move")
	b.ReportMetric(float64(bytes.Load())/float64(b.N), "JSON-B/move")
}

// cpuTime is what this process has used of the processors.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFollow is what the following costs a poll of 50 VNIs that hears nothing,
// beside 1,000 others; heap is that of the others.
func BenchmarkFollow(b *testing.B) {
	w := benchWorld(b)
	vnis := w.vnis(50, 1)
	hub := journal.NewHub(w.s)
	var follows []*follower
	w.view(func(tx store.Tx) error {
		for _, vni := range vnis {
			epoch, version, err := Version(tx, vni)
			if err != nil {
				return err
			}
			follows = append(follows, &follower{vni: vni, Follow: api.Follow{Set: MapSet(vni), Epoch: epoch, Since: version}})
		}
		return nil
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one leaves what has finalizers
	runtime.ReadMemStats(&before)
	for range 1000 {
		defer hub.Follow(setsOf(vnis)...).Close()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for b.Loop() {
		f := hub.Follow(setsOf(vnis)...)
		w.view(func(tx store.Tx) error {
			for _, f := range follows {
				if d, size, err := Delta(tx, f.vni, f.known(), 1<<20); err != nil || size != 0 || d.Full {
					b.Fatalf("%+v, %v", d, err)
				}
			}
			return nil
		})
		f.Close()
	}
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/1000/50, "heap-B/followed-VNI")
}

// BenchmarkDelta reads one change of a map with 10,000 entries.
func BenchmarkDelta(b *testing.B) {
	w := benchWorld(b)
	vni := w.vnis(1, 10_000)[0]
	epoch := w.since(vni, "", 0).Epoch
	v := w.put(vni, entry("10.0.0.1", mac1, ul1))
	b.ReportAllocs()
	for b.Loop() {
		if m := w.since(vni, epoch, v-1); m.Full || len(m.Entries) != 1 {
			b.Fatalf("full %v, %d entries", m.Full, len(m.Entries))
		}
	}
}

// BenchmarkSnapshot reads a map with 10,000 entries and writes it as JSON.
func BenchmarkSnapshot(b *testing.B) {
	w := benchWorld(b)
	vni := w.vnis(1, 10_000)[0]
	var size int
	b.ReportAllocs()
	for b.Loop() {
		m := w.since(vni, "", 0)
		body, err := json.Marshal(m)
		if err != nil || len(m.Entries) != 10_000 {
			b.Fatalf("%d entries, %v", len(m.Entries), err)
		}
		size = len(body)
	}
	b.ReportMetric(float64(size)/10_000, "JSON-B/entry")
}

// BenchmarkPut10000 makes a map with 10,000 entries in one transaction.
func BenchmarkPut10000(b *testing.B) {
	w := benchWorld(b)
	entries := many(10_000)
	size, i := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		v := w.vlan(alice, i+1)
		w.put(v.VNI, entries...)
		if i == 1 {
			w.view(func(tx store.Tx) error {
				for it := range tx.Scan("", "") {
					size += len(it.Key) + len(it.Value)
				}
				return nil
			})
		}
	}
	b.ReportMetric(float64(size)/10_000, "stored-B/entry")
}
