package headnode

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/answers"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

func benchServer(b *testing.B) *Server {
	b.Helper()
	dir := b.TempDir()
	a, err := answers.Parse(strings.NewReader(strings.NewReplacer("127.77.0.7/24", "127.77.0.7/8", "127.77.0.100", "127.100.0.0", "127.77.0.%d", "127.200.0.0").Replace(sampleAnswers)), "bench")
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if err := Init(ctx, dir, a); err != nil {
		b.Fatal(err)
	}
	s, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
		os.RemoveAll(dir)
	})
	return s
}

// BenchmarkLease is a newcomer's DISCOVER and REQUEST, with the lease on disk
// before the ACK; many machines at once, as after a power cut.
func BenchmarkLease(b *testing.B) {
	s := benchServer(b)
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			r := api.BootRequest{Kind: api.KindDiscover, MAC: fmt.Sprintf("52:54:00:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255), VendorClass: "PXEClient"}
			o, err := s.Boot(context.Background(), r)
			if err != nil {
				b.Error(err)
				return
			}
			r.Kind, r.Requested = api.KindRequest, o.Address.Addr()
			if a, err := s.Boot(context.Background(), r); err != nil || a.Verdict != api.VerdictAnswer {
				b.Errorf("%+v %v", a, err)
				return
			}
		}
	})
}

// BenchmarkDiscover is a DISCOVER of a machine that has its address.
func BenchmarkDiscover(b *testing.B) {
	s := benchServer(b)
	ctx := context.Background()
	r := api.BootRequest{Kind: api.KindDiscover, MAC: "52:54:00:00:00:01", VendorClass: "PXEClient"}
	o, err := s.Boot(ctx, r)
	if err != nil {
		b.Fatal(err)
	}
	r.Kind, r.Requested = api.KindRequest, o.Address.Addr()
	if _, err := s.Boot(ctx, r); err != nil {
		b.Fatal(err)
	}
	r.Kind, r.Requested = api.KindDiscover, netip.Addr{}
	for b.Loop() {
		if _, err := s.Boot(ctx, r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkListServers is a page of 200 servers with ten boots each.
func BenchmarkListServers(b *testing.B) {
	s := benchServer(b)
	ctx := context.Background()
	for n := range 200 {
		mac := fmt.Sprintf("52:54:00:01:%02x:%02x", n>>8, n&255)
		err := s.store.Update(ctx, func(tx store.Tx) error {
			_, err := inventory.Enrol(tx, s.now(), inventory.Enrolment{BootMAC: mac,
				Key: mac, Sysinfo: api.Sysinfo{UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), NICs: []api.NIC{{MAC: mac}}}})
			if err != nil {
				return err
			}
			for i := range 10 {
				r := api.BootRequest{Kind: api.KindDiscover, MAC: mac, VendorClass: "PXEClient"}
				bt, _, err := s.pending.Begin(tx, r, true, s.now().Add(time.Duration(i)*time.Hour))
				if err != nil {
					return err
				}
				for _, st := range []api.BootStage{api.StageAck, api.StageScript, api.StageKernel, api.StageFirstSync} {
					if _, err := s.pending.Record(tx, bt.ID, api.BootEvent{Stage: st}, s.now(), nil); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		err := s.store.View(ctx, func(tx store.Tx) error {
			recs, _, err := inventory.List(tx, "", 200)
			if err != nil {
				return err
			}
			for _, r := range recs {
				if _, err := s.view(tx, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
