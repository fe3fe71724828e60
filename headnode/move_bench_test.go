package headnode

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/store"
)

// BenchmarkMoveTold is one move of an address of a VNI that 1,000 servers have, from the
// call of Update until the answers to all their syncs are made, as JSON. Each follows all
// that one with NICs of an account follows. TLS and HTTP are not in it.
func BenchmarkMoveTold(b *testing.B) {
	const servers = 1000
	s, net, nic := fabricServers(b, servers)
	s.cfg.Hold = time.Minute
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	hub := make(chan error, 1)
	go func() { hub <- s.sets.Run(ctx) }()
	var (
		wg       sync.WaitGroup
		length   atomic.Int64
		arrivals = make(chan time.Time, servers)
		ready    = make(chan struct{}, servers)
		known    decodedOnce
	)
	for i := range servers {
		wg.Go(func() {
			agent := context.WithValue(ctx, callerKey{}, caller{uuid: benchUUID(i), key: benchUUID(i)})
			in := &syncInput{UUID: benchUUID(i), Body: api.SyncRequest{Follow: followAll(benchUUID(i), net.VNI)}}
			for n := 0; ; n++ {
				out, err := s.sync(agent, in)
				if err != nil || out.Body == nil {
					if ctx.Err() == nil {
						b.Errorf("sync: %+v, %v", out, err)
					}
					return
				}
				text := bytes.Buffer{}
				if err := out.Body.writeJSON(&text); err != nil {
					b.Error(err)
				}
				at := time.Now()
				ds := known.of(b, out)
				if out.Body.Spec != nil {
					in.Body.Seen = out.Body.Revision
				}
				for _, d := range ds {
					takeIn(in.Body.Follow, d)
				}
				if n == 0 {
					ready <- struct{}{}
					continue
				}
				length.Add(int64(text.Len()))
				arrivals <- at
			}
		})
	}
	for range servers {
		<-ready
	}
	var totals []float64
	b.ReportAllocs()
	before := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		begun := time.Now()
		err := s.store.Update(ctx, func(tx store.Tx) error {
			to := netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + i%2)})
			_, err := fabric.Move(tx, net.VNI, nic.MAC, to)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		last := begun
		for range servers {
			if at := <-arrivals; at.After(last) {
				last = at
			}
		}
		totals = append(totals, float64(last.Sub(begun).Microseconds())/1000)
	}
	spent := cpuTime(b) - before
	stop()
	wg.Wait()
	if err := <-hub; err != nil {
		b.Error(err)
	}
	slices.Sort(totals)
	b.ReportMetric(totals[len(totals)/2], "all-told-ms(median)")
	b.ReportMetric(totals[len(totals)-1], "all-told-ms(max)")
	b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "CPU-ms/move")
	b.ReportMetric(float64(length.Load())/float64(b.N), "JSON-B/move")
}

// decodedOnce are deltas by their text: what followers have to do is not measured.
type decodedOnce struct{ sync.Map }

func (k *decodedOnce) of(tb testing.TB, out *polled[syncAnswer]) (all []api.Delta) {
	tb.Helper()
	for _, text := range out.Body.deltas {
		d, known := k.Load(string(text))
		if !known {
			var fresh api.Delta
			if err := json.Unmarshal(text, &fresh); err != nil {
				tb.Error(err)
			}
			d, _ = k.LoadOrStore(string(text), fresh)
		}
		all = append(all, d.(api.Delta))
	}
	return all
}

// deltasOf are the deltas of an answer.
func deltasOf(tb testing.TB, out *polled[syncAnswer]) []api.Delta {
	tb.Helper()
	var all []api.Delta
	for _, text := range out.Body.deltas {
		var d api.Delta
		if err := json.Unmarshal(text, &d); err != nil {
			tb.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// cpuTime is what this process has used of the processors.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// takeIn takes a delta in where its set is followed.
func takeIn(follow []api.Follow, d api.Delta) {
	for i, f := range follow {
		if f.Set == d.Set {
			follow[i] = f.Take(d)
		}
	}
}
