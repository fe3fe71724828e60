package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// BenchmarkNICCreate is a NIC made by an operator on a server that has some already,
// until its agent, which holds a poll, has the answer. B/answer is its length.
func BenchmarkNICCreate(b *testing.B) {
	for _, n := range []int{2, 2000} {
		b.Run(fmt.Sprintf("%d NICs", n), func(b *testing.B) {
			s := benchServer(b)
			ctx := context.Background()
			hub, stop := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() { ended <- s.sets.Run(hub) }()
			b.Cleanup(func() { stop(); <-ended })
			const server = "00000000-0000-4000-8000-000000000001"
			nic := func(i int) api.NetworkNIC {
				return api.NetworkNIC{MAC: fmt.Sprintf("02:6e:72:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255), Owner: alice, BelongsToType: api.BelongsToZone, Server: server, Addresses: []api.NICAddress{{Network: "external"}},
					BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", i)}
			}
			create := func(tx store.Tx, i int) error {
				c, err := s.createNIC(tx, nic(i), nil)
				_, err = s.nicChanged(tx, c, err)
				return err
			}
			err := s.store.Update(ctx, func(tx store.Tx) error {
				if _, err := networks.CreateNICTag(tx, api.NICTag{Name: "external"}); err != nil {
					return err
				}
				if _, err := networks.CreateNetwork(tx, api.Network{Name: "external", NICTag: "external", Subnet: "10.9.0.0/16", Gateway: "10.9.0.1"}); err != nil {
					return err
				}
				e := inventory.Enrolment{BootMAC: "52:54:00:00:00:01", Key: "k", Sysinfo: api.Sysinfo{UUID: server, NICs: []api.NIC{{MAC: "52:54:00:00:00:01"}}}}
				out, err := inventory.Enrol(tx, s.now(), e)
				if err == nil {
					_, err = inventory.Approve(tx, s.now(), &out.Record, "", false)
				}
				if err == nil {
					_, err = inventory.Enrol(tx, s.now(), e)
				}
				for i := range n {
					if err == nil {
						err = create(tx, i)
					}
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			s.cfg.Hold = time.Minute
			agent := context.WithValue(ctx, callerKey{}, caller{uuid: server, key: "k"})
			in := &syncInput{UUID: server, Body: api.SyncRequest{Follow: []api.Follow{{Set: api.PortSet(server)}, {Set: api.RuleSet("")}, {Set: api.ServerNATSet(server)}}}}
			poll := func() (*polled[syncAnswer], error) {
				out, err := s.sync(agent, in)
				if err != nil || out.Body == nil {
					return out, err
				}
				if out.Body.Spec != nil {
					in.Body.Seen = out.Body.Revision
				}
				for _, d := range deltasOf(b, out) {
					for i, f := range in.Body.Follow {
						if f.Set == d.Set {
							in.Body.Follow[i] = f.Take(d)
						}
					}
				}
				return out, err
			}
			for in.Body.Follow[0].Epoch == "" || in.Body.Follow[0].Toward != 0 {
				if _, err := poll(); err != nil {
					b.Fatal(err)
				}
			}
			answers := make(chan int)
			bytes := 0
			for b.Loop() {
				go func() {
					out, err := poll()
					if err != nil {
						b.Error(err)
						answers <- 0
						return
					}
					body, err := json.Marshal(deltasOf(b, out))
					if err != nil {
						b.Error(err)
					}
					answers <- len(body)
				}()
				n++
				if err := s.store.Update(ctx, func(tx store.Tx) error { return create(tx, n) }); err != nil {
					b.Fatal(err)
				}
				bytes += <-answers
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "B/answer")
		})
	}
}
