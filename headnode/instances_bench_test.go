package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"

	"nereid/api"
	"nereid/fixtures"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/packages"
	"nereid/headnode/store"
)

// benchCloud is a head node with servers that take instances, each with much room, and
// the network external.
func benchCloud(b *testing.B, servers int) *Server {
	b.Helper()
	s := benchServer(b)
	withImages(s)
	var info api.Sysinfo // of a real server
	if err := json.Unmarshal(fixtures.Server2Sockets, &info); err != nil {
		b.Fatal(err)
	}
	info.MemoryBytes, info.CPU.Threads = 8<<40, 4096
	err := s.store.Update(b.Context(), func(tx store.Tx) error {
		if _, err := networks.CreateNICTag(tx, api.NICTag{Name: "external"}); err != nil {
			return err
		}
		if _, err := networks.CreateNetwork(tx, api.Network{Name: "external", NICTag: "external", Subnet: "10.0.0.0/9", Gateway: "10.0.0.1"}); err != nil {
			return err
		}
		if _, err := packages.Create(tx, s.now(), api.Package{Name: "tiny", Limits: api.Limits{MemoryMiB: 64, VCPUs: 1, QuotaMiB: 64}}); err != nil {
			return err
		}
		for i := range servers {
			uuid, mac := fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1), fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)
			r := inventory.Record{UUID: uuid, Hostname: fmt.Sprintf("cn%d", i), MACs: []string{mac}, Approved: true, SetUp: true, Key: "k", Revision: "r"}
			if err := inventory.Put(tx, r); err != nil {
				return err
			}
			err := inventory.PutObserved(tx, uuid, inventory.Observed{
				Sysinfo: &info,
				Report:  &api.Report{Platform: "P", Pools: []api.Pool{{Name: "zones", Health: "ONLINE", SizeBytes: 64 << 40, System: true}}}})
			if err != nil {
				return err
			}
			if _, err := networks.SetNICTagUse(tx, uuid, api.NICTagUse{MAC: mac, NICTags: []string{"external"}}, nil, true); err != nil {
				return err
			}
			s.live.touch(uuid, s.now(), nil)
			s.live.instances(uuid, true)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func tiny(i int64) api.InstanceCreate {
	return api.InstanceCreate{Owner: alice, Name: fmt.Sprintf("i%d", i), Image: "debian", Package: "tiny", Networks: []api.InstanceNetwork{{Addresses: []api.NICAddress{{Network: "external"}}}}}
}

// BenchmarkInstanceCreate makes instances one after the other, each on disk before the
// next, in a rack of so many servers.
func BenchmarkInstanceCreate(b *testing.B) {
	for _, n := range []int{2, 100, 1000} {
		b.Run(fmt.Sprintf("%d servers", n), func(b *testing.B) {
			s := benchCloud(b, n)
			i := int64(0)
			for b.Loop() {
				i++
				if _, err := s.createInstance(b.Context(), tiny(i)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkInstanceCreates makes instances for many clients at once.
func BenchmarkInstanceCreates(b *testing.B) {
	s := benchCloud(b, 100)
	var i atomic.Int64
	if _, err := s.createInstance(b.Context(), tiny(i.Add(1))); err != nil { // the servers are read once
		b.Fatal(err)
	}
	before := cpuTime(b)
	b.ResetTimer()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.createInstance(context.Background(), tiny(i.Add(1))); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "CPU-ms/create")
}

// BenchmarkInstanceList10000 lists 10,000 instances, a page of 1,000 at a time, as JSON
// that is an answer.
func BenchmarkInstanceList10000(b *testing.B) {
	s := benchServer(b)
	for n := range 10 {
		err := s.store.Update(b.Context(), func(tx store.Tx) error {
			for i := range 1000 {
				uuid := fmt.Sprintf("00000000-0000-4000-9000-%012d", n*1000+i)
				_, err := instances.Create(tx, s.now(), instances.New{Image: api.ImageSpec{UUID: debian.UUID}, By: "root", Instance: api.Instance{UUID: uuid, Owner: alice, Name: fmt.Sprintf("i%d", n*1000+i),
					Brand: api.BrandLX, Image: debian.UUID, Package: alice, Server: fmt.Sprintf("00000000-0000-4000-8000-%012d", i%100), Wanted: "running",
					Limits: api.Limits{MemoryMiB: 64, VCPUs: 1, QuotaMiB: 64}, Tags: map[string]any{"role": "web"},
					NICs: []api.InstanceNIC{{MAC: "02:00:00:00:00:01", Network: alice, MTU: 1500, Primary: true, Addresses: []api.PortAddress{{Address: "10.0.0.9/9", Gateway: "10.0.0.1"}}}}}})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		count, size := 0, counter(0)
		for after := ""; ; {
			var page rows[api.Instance]
			err := s.store.View(b.Context(), func(tx store.Tx) (err error) {
				page.items, page.next, err = s.listInstances(tx, listing{after: after, limit: maxPage})
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := page.writeJSON(&size); err != nil {
				b.Fatal(err)
			}
			after = page.next
			if count += len(page.items); after == "" {
				break
			}
		}
		if count != 10_000 {
			b.Fatalf("%d instances", count)
		}
		b.ReportMetric(float64(size)/10_000, "JSON-B/row")
	}
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
