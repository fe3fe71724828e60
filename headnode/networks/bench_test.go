package networks

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// benchNetwork makes NIC tag external and network n.
func benchNetwork(b *testing.B, s store.Store, subnet string) string {
	b.Helper()
	var n api.Network
	err := s.Update(b.Context(), func(tx store.Tx) error {
		if _, err := CreateNICTag(tx, api.NICTag{Name: external}); err != nil {
			return err
		}
		var err error
		n, err = CreateNetwork(tx, api.Network{Name: "n", NICTag: external, Subnet: subnet})
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n.UUID
}

// BenchmarkAllocate gives out 10,000 addresses of a /16 to 16 writers, each NIC in
// a transaction of its own that is on disk before the next.
func BenchmarkAllocate(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := openBolt(b)
		benchNetwork(b, s, "10.9.0.0/16")
		b.StartTimer()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 10_000 / 16 {
					err := s.Update(b.Context(), func(tx store.Tx) error { _, err := CreateNIC(tx, t0, on("n"), nil); return err })
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.StopTimer()
		if err := s.View(b.Context(), Check); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "addresses/s")
}

// BenchmarkAllocateIn1M gives out one address of a /8 of which 1,000,000 are taken:
// in one run, so that there is one gap, and each second one, so that there are a
// million; Empty is for comparison. µs/tx is the transaction without its way to
// the disk.
func BenchmarkAllocateIn1M(b *testing.B) {
	for _, c := range []struct {
		name string
		step int
	}{{"Empty", 0}, {"OneGap", 1}, {"MillionGaps", 2}} {
		b.Run(c.name, func(b *testing.B) {
			s := openBolt(b)
			uuid := benchNetwork(b, s, "10.0.0.0/8")
			if c.step > 0 {
				fillMillion(b, s, uuid, c.step)
			}
			var inside time.Duration
			for b.Loop() {
				err := s.Update(b.Context(), func(tx store.Tx) error {
					start := time.Now()
					_, err := CreateNIC(tx, t0, on("n"), nil)
					inside += time.Since(start)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(inside.Microseconds())/float64(b.N), "µs/tx")
		})
	}
}

// fillMillion writes what a million NICs with addresses step apart leave of the
// network, in bulk.
func fillMillion(b *testing.B, s store.Store, uuid string, step int) {
	b.Helper()
	a := netip.MustParseAddr("10.0.0.1")
	for range 50 {
		err := s.Update(b.Context(), func(tx store.Tx) error {
			at := a
			for range 20_000 {
				if err := store.Put(tx, ipKey(uuid, at), ipRecord{MAC: fmt.Sprintf("06:%x", hexOf(at))}); err != nil {
					return err
				}
				if step > 1 {
					if err := putSpan(tx, uuid, span{at.Next(), at.Next()}); err != nil {
						return err
					}
				}
				for range step {
					at = at.Next()
				}
			}
			return putSpan(tx, uuid, span{at, netip.MustParseAddr("10.255.255.254")})
		})
		if err != nil {
			b.Fatal(err)
		}
		for range 20_000 * step {
			a = a.Next()
		}
	}
}
