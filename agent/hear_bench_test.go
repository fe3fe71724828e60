package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"testing"
	"time"

	"nereid/agent/firewall"
	"nereid/api"
)

// noNet is a network that takes no time.
type noNet struct{}

func (noNet) Recover(context.Context) error                         { return nil }
func (noNet) Apply(context.Context, api.NetworkSpec) error          { return nil }
func (noNet) ApplyMap(context.Context, uint32, api.FabricMap) error { return nil }
func (noNet) Watch(context.Context, func(), func()) error           { return nil }
func (noNet) Report(context.Context) (api.NetworkReport, error)     { return api.NetworkReport{}, nil }
func (noNet) SetPort(context.Context, api.PortSpec) error           { return nil }
func (noNet) DropPort(context.Context, string, string) error        { return nil }

// noFilter is a firewall that takes no time.
type noFilter struct{}

func (noFilter) Apply(context.Context, []firewall.Port, api.FirewallSpec, firewall.Options) ([]firewall.Failure, error) {
	return nil, nil
}
func (noFilter) SetPort(context.Context, firewall.Port, api.FirewallSpec) error { return nil }
func (noFilter) DropPort(context.Context, string, string) error                 { return nil }
func (noFilter) VerifyOrRepair(context.Context) (bool, error)                   { return false, nil }
func (noFilter) Counters(context.Context) (map[string]uint64, error)            { return nil, nil }

// BenchmarkHear takes in an answer that brings one NIC more, or its tombstone, beside 2 and
// beside 2,000 of 40 accounts, with a firewall of three rules each: what that costs the
// agent in memory, from the answer until the NIC's worker has done, without the kernel.
func BenchmarkHear(b *testing.B) {
	for _, others := range []int{2, 2000} {
		b.Run(fmt.Sprintf("beside-%d", others), func(b *testing.B) { benchHear(b, others) })
	}
}

func benchHear(b *testing.B, others int) {
	const accounts = 40
	a := &Agent{Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler), health: newHealth(), Net: Net{Links: noNet{}, Ports: noNet{}, Filter: noFilter{}}}
	a.board = newBoard(api.Report{})
	a.ports, a.copies = newFollower(a, portKind()), newCopies(a)
	net := newNetworker(a, a.board)
	a.nics.Store(net.nics)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- net.nics.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	const uuid = "00000000-0000-4000-8000-000000000001"
	l := &link{a: a, board: a.board, box: newMailbox(), net: net, uuid: uuid}
	l.a.ports.follow(uuid)
	l.a.copies.serve(uuid)
	versions := map[string]uint64{}
	delta := func(set string, put []any, gone ...string) api.Delta {
		versions[set]++
		d := api.Delta{Set: set, Epoch: "e", Version: versions[set], Gone: gone}
		for _, v := range put {
			text, err := json.Marshal(v)
			if err != nil {
				b.Fatal(err)
			}
			d.Put = append(d.Put, text)
		}
		return d
	}
	owner := func(i int) string { return fmt.Sprintf("00000000-0000-4000-a000-%012d", i%accounts) }
	nic := func(i int) any {
		return api.PortSpec{MAC: fmt.Sprintf("02:aa:00:00:%02x:%02x", i>>8, i&0xff), Instance: fmt.Sprintf("00000000-0000-4000-9000-%012d", i), Owner: owner(i), VNI: uint32(100 + i%accounts),
			MTU: 1400, Firewall: true, Tags: map[string]string{"role": "web"},
			Addresses: []api.PortAddress{{Address: fmt.Sprintf("10.%d.%d.%d/16", i%accounts, i/accounts>>8, i/accounts&0xff)}}}
	}
	apply := func() {
		select {
		case s := <-net.box:
			if _, err := net.apply(ctx, *s.Network); err != nil {
				b.Fatal(err)
			}
		default:
			b.Fatal("there is no spec for the networker")
		}
		for !net.nics.good() {
			<-net.nics.settled
		}
	}
	spec := &api.Spec{Revision: "r", Network: &api.NetworkSpec{
		Tags: []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: benchNIC}}, Underlay: &api.UnderlaySpec{Tag: "underlay", MTU: 1500, Address: "192.0.2.1/24", Subnets: []string{"192.0.2.0/24"}}}}
	var nics []any
	for i := range others {
		nics = append(nics, nic(i))
	}
	for answer := (api.SyncResponse{Revision: "r", Spec: spec, Deltas: []api.Delta{delta(api.PortSet(uuid), nics)}}); ; {
		l.hear(answer)
		answer = api.SyncResponse{Revision: "r", Spec: spec} // which comes again until it is seen
		for _, f := range a.copies.follow() {                // those that it asks for now
			if f.Epoch != "" {
				continue
			}
			var put []any
			account, what, _ := api.AccountOfSet(f.Set)
			switch {
			case what == "rules" && account != "":
				for k := range 3 {
					all := []api.RuleTarget{{Kind: api.TargetAllVMs}}
					put = append(put, api.RuleSpec{
						UUID:       fmt.Sprintf("00000000-0000-4000-b%03d-%s", k, account[24:]),
						ParsedRule: api.ParsedRule{From: all, To: all, Action: "allow", Protocol: "tcp", Ports: []api.PortRange{{First: uint16(22 + k), Last: uint16(22 + k)}}},
						FromPeers:  []api.RulePeers{{Name: "all" + account, Set: api.AccountSet(account, "addresses/all")}},
					})
				}
			case what == "addresses/all":
				for i := range 50 {
					put = append(put, api.MemberKey(fmt.Sprintf("10.0.0.%d", i), "02:aa:00:00:00:00"))
				}
			case what == "networks":
				var n int
				fmt.Sscan(account[24:], &n)
				put = append(put, api.AccountNetwork{UUID: account, MTU: 1400, RouterNetwork: api.RouterNetwork{VNI: uint32(100 + n)}})
			}
			d := delta(f.Set, put)
			d.Full = true
			answer.Deltas = append(answer.Deltas, d)
		}
		if len(answer.Deltas) == 0 {
			break
		}
	}
	apply()
	var u, v syscall.Rusage
	var took [2][]time.Duration
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	one := nic((others + accounts - 1) / accounts * accounts) // of an account that has others
	key := api.PortKey(one.(api.PortSpec).MAC, one.(api.PortSpec).Instance)
	b.ResetTimer()
	for range b.N {
		for i, d := range []api.Delta{delta(api.PortSet(uuid), []any{one}), delta(api.PortSet(uuid), nil, key)} {
			begun := time.Now()
			l.hear(api.SyncResponse{Deltas: []api.Delta{d}})
			apply()
			took[i] = append(took[i], time.Since(begun))
		}
	}
	b.StopTimer()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &v); err != nil {
		b.Fatal(err)
	}
	for i, what := range []string{"set", "drop"} {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][b.N/2].Microseconds()), "µs/"+what)
	}
	b.ReportMetric(float64(v.Utime.Nano()+v.Stime.Nano()-u.Utime.Nano()-u.Stime.Nano())/2e3/float64(b.N), "CPU-µs/change")
}

const benchNIC = "02:bb:00:00:00:01"
