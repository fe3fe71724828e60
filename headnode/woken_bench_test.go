package headnode

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/firewall"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

// BenchmarkNICAmongServers is a NIC made on one of 1,000 servers that have NICs of its
// account on one VNI each, and hold a poll, while a global rule is about none of them. told
// is from the call of Update until the answer to its server is made; the others hear of the
// map, when they follow it. woken is how many polls were answered for a NIC, records how
// many servers' records it wrote. TLS and HTTP are not in it.
func BenchmarkNICAmongServers(b *testing.B) {
	for _, mapped := range []bool{false, true} {
		b.Run(fmt.Sprintf("maps followed %v", mapped), func(b *testing.B) { nicAmongServers(b, mapped) })
	}
}

func nicAmongServers(b *testing.B, mapped bool) {
	const servers = 1000
	s, net, _ := fabricServers(b, servers)
	s.cfg.Hold = time.Minute
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	hub := make(chan error, 1)
	go func() { hub <- s.sets.Run(ctx) }()
	err := s.store.Update(ctx, func(tx store.Tx) error {
		r, err := firewall.Create(tx, api.FirewallRule{Rule: "FROM tag role = web TO tag role = db ALLOW tcp PORT 5432", Enabled: true, Global: true}, s.now())
		if err != nil {
			return err
		}
		return firewall.Publish(tx, nil, &r, members(tx))
	})
	if err != nil {
		b.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		woken atomic.Int64
		told  = make(chan time.Time, 1)
		ready = make(chan struct{}, servers)
		known decodedOnce
	)
	for i := range servers {
		wg.Go(func() {
			agent := context.WithValue(ctx, callerKey{}, caller{uuid: benchUUID(i), key: benchUUID(i)})
			follow := followAll(benchUUID(i), net.VNI)
			if !mapped {
				follow = follow[:len(follow)-1]
			}
			in := &syncInput{UUID: benchUUID(i), Body: api.SyncRequest{Follow: follow}}
			for n := 0; ; n++ {
				out, err := s.sync(agent, in)
				if err != nil || out.Body == nil {
					if ctx.Err() == nil {
						b.Errorf("sync: %+v, %v", out, err)
					}
					return
				}
				at := time.Now()
				if out.Body.Spec != nil {
					in.Body.Seen = out.Body.Revision
				}
				own := false
				for _, d := range known.of(b, out) {
					own = own || d.Set == api.PortSet(benchUUID(i))
					takeIn(in.Body.Follow, d)
				}
				if n == 0 {
					ready <- struct{}{}
					continue
				}
				if woken.Add(1); own {
					told <- at
				}
			}
		})
	}
	for range servers {
		<-ready
	}
	revisions := func() (out []string) {
		if err := s.store.View(ctx, func(tx store.Tx) error {
			for e, err := range inventory.All(tx) {
				if err != nil {
					return err
				}
				out = append(out, e.Value.Revision)
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		return out
	}
	before := revisions()
	var totals []float64
	for i := 0; b.Loop(); i++ {
		begun := time.Now()
		err := s.store.Update(ctx, func(tx store.Tx) error {
			c, err := s.createNIC(tx, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToZone, Server: benchUUID(7), Addresses: []api.NICAddress{{Network: net.UUID}},
				BelongsTo: fmt.Sprintf("00000000-0000-4000-9001-%012d", i)}, nil)
			_, err = s.nicChanged(tx, c, err)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		totals = append(totals, float64((<-told).Sub(begun).Microseconds())/1000)
	}
	records := 0
	for i, after := range revisions() {
		if before[i] != after {
			records++
		}
	}
	stop()
	wg.Wait()
	if err := <-hub; err != nil {
		b.Error(err)
	}
	slices.Sort(totals)
	b.ReportMetric(totals[len(totals)/2], "told-ms(median)")
	b.ReportMetric(totals[len(totals)-1], "told-ms(max)")
	b.ReportMetric(float64(woken.Load())/float64(b.N), "woken/NIC")
	b.ReportMetric(float64(records), "records")
}
