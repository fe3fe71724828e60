//go:build netns

package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"nereid/agent/firewall"
	"nereid/agent/network"
	"nereid/api"
)

// BenchmarkNetNSPorts gives a server one NIC more, and takes it away, beside 2 and beside
// 2,000, each with a firewall of three rules: from the spec that comes to what is
// reported, with the agent's workers, real netlink, VXLAN and nf_tables, and a namespace
// behind each NIC. It tells the memory of the process too, which is this test's program.
// Run it with -benchtime 1x.
func BenchmarkNetNSPorts(b *testing.B) {
	if !ownNetwork(b, "-test.run=^$", "-test.bench=^"+b.Name()+"$", "-test.benchtime=1x", "-test.timeout=20m") {
		return
	}
	for _, vnis := range []int{40, 2} {
		b.Run(fmt.Sprintf("on-%d-VNIs", vnis), func(b *testing.B) {
			for range b.N {
				benchPorts(b, vnis)
			}
		})
	}
}

// ownNetwork runs this test program with arguments in a network namespace of its own, with
// a NIC eth0, and is true there.
func ownNetwork(tb testing.TB, args ...string) bool {
	const mark = "NEREID_AGENT_NETNS"
	if os.Getenv(mark) == "" {
		c := exec.CommandContext(tb.Context(), "unshare", append([]string{"--net", "--mount", "sh", "-ec",
			`mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; mount -t sysfs sysfs /sys; exec "$0" "$@"`, os.Args[0]}, args...)...)
		c.Env, c.Stdout, c.Stderr = append(os.Environ(), mark+"=1"), os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			tb.Fatal(err)
		}
		return false
	}
	for _, c := range [][]string{{"link", "set", "lo", "up"}, {"link", "add", "eth0", "address", benchMAC, "type", "veth", "peer", "name", "far"}, {"link", "set", "far", "up"}} {
		if out, err := exec.CommandContext(tb.Context(), "ip", c...).CombinedOutput(); err != nil {
			tb.Fatalf("ip %v: %v %s", c, err, out)
		}
	}
	return true
}

const benchMAC = "02:bb:00:00:00:01"

// benchSpec has n NICs, on so many VNIs in turn, each of which is an account's.
func benchSpec(revision string, n, vnis int) api.Spec {
	s := &api.NetworkSpec{
		Tags:     []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: benchMAC}},
		Underlay: &api.UnderlaySpec{Tag: "underlay", MTU: 1500, Address: "192.0.2.1/24", Subnets: []string{"192.0.2.0/24"}},
		PortsAt:  revision,
	}
	for v := range vnis {
		s.VNIs = append(s.VNIs, api.VNISpec{VNI: uint32(100 + v), Owner: fmt.Sprint("a", v), MTU: 1400})
		set := api.AddressSet{Name: fmt.Sprint("all", v)}
		for i := range 2000 / vnis {
			set.Members = append(set.Members, fmt.Sprintf("10.%d.%d.%d", v, i>>8, i&0xff))
		}
		s.Firewall.Sets = append(s.Firewall.Sets, set)
		for k := range 3 {
			e := ruleFor(fmt.Sprintf("rule-%d-%d", v, k), set.Name)
			e.Dst = []api.PortRange{{First: uint16(22 + k), Last: uint16(22 + k)}}
			s.Firewall.Rules = append(s.Firewall.Rules, e)
		}
	}
	for i := range n {
		v := i % vnis
		p := api.PortSpec{MAC: fmt.Sprintf("02:aa:00:00:%02x:%02x", i>>8, i&0xff), Instance: fmt.Sprint("i", i), Owner: fmt.Sprint("a", v), VNI: uint32(100 + v), MTU: 1400, Firewall: true,
			Addresses: []api.PortAddress{{Address: fmt.Sprintf("10.%d.%d.%d/16", v, i/vnis>>8, i/vnis&0xff)}}}
		s.Ports = append(s.Ports, p)
		for k := range 3 {
			e := &s.Firewall.Rules[3*v+k]
			e.Ports = append(e.Ports, p.MAC)
		}
	}
	return api.Spec{Revision: revision, Network: s}
}

// workNetwork has an agent's workers of networks and NICs work, until the test ends.
func workNetwork(tb testing.TB, filter *firewall.Firewall) (*networker, *board) {
	a := &Agent{Dir: tb.TempDir(), Log: slog.New(slog.DiscardHandler), health: newHealth()}
	a.ports = newFollower(a, portKind())
	kernel, err := network.Open("")
	if err != nil {
		tb.Fatal(err)
	}
	links := &network.Network{System: kernel, Dir: a.Dir, Protect: filter.Protect, Disturbed: a.Disturbed}
	a.Net = Net{Links: links, Ports: links, Filter: filter}
	board := newBoard(api.Report{})
	n := newNetworker(a, board)
	a.nics.Store(n.nics)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	g, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	begin(ctx, g, task{"networker", n.run}, task{"NIC workers", n.nics.run}, task{"observer", n.seen.run}, task{"link watcher", func(ctx context.Context) error {
		return links.Watch(ctx, func() { close(ready) }, n.seen.linksChanged)
	}})
	tb.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			tb.Error(err)
		}
		if err := kernel.Close(); err != nil {
			tb.Error(err)
		}
	})
	<-ready
	return n, board
}

func benchPorts(b *testing.B, vnis int) {
	n, board := workNetwork(b, &firewall.Firewall{Stateless: true})
	nics := benchSpec("", 2001, vnis).Network.Ports // those that stay are the same memory, as in the agent
	revision := 0
	apply := func(ports int, gone ...api.GoneNIC) time.Duration {
		revision++
		s := benchSpec(strconv.Itoa(revision), ports, vnis)
		s.Network.Ports, s.Network.Gone = nics[:ports:ports], gone
		begun := time.Now()
		n.put(s)
		for {
			r, version := board.peek()
			if r.AppliedNetwork == s.Revision {
				return time.Since(begun)
			}
			select {
			case <-board.newer(version):
			case <-time.After(5 * time.Minute):
				b.Fatalf("revision %d with %d NICs: %q", revision, ports, r.Problems)
			}
		}
	}
	gone := func(i int) api.GoneNIC {
		return api.GoneNIC{ID: fmt.Sprint("gone ", revision, " ", i), MAC: nics[i].MAC, Instance: nics[i].Instance}
	}
	took := map[string]map[int]time.Duration{"set": {}, "drop": {}}
	for _, others := range []int{2, 2000} {
		all := apply(others)
		const rounds = 51
		each := map[string][]time.Duration{}
		for range rounds {
			each["set"] = append(each["set"], apply(others+1))
			each["drop"] = append(each["drop"], apply(others, gone(others)))
		}
		for what, d := range each {
			slices.Sort(d)
			took[what][others] = d[rounds/2]
			b.ReportMetric(float64(d[rounds/2].Microseconds()), fmt.Sprintf("µs/%s-beside-%d", what, others))
		}
		b.ReportMetric(all.Seconds(), fmt.Sprintf("s/all-%d", others))
		b.ReportMetric(resident(b), fmt.Sprintf("MB-resident-with-%d", others))
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/1e6, fmt.Sprintf("MB-heap-with-%d", others))
	}
	for what, t := range took {
		b.ReportMetric(t[2000].Seconds()/t[2].Seconds(), "ratio/"+what)
	}
	var all []api.GoneNIC
	for i := range 2000 {
		all = append(all, gone(i))
	}
	apply(0, all...)
}

// resident is the memory of this process that is in RAM, in MB.
func resident(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if text, ok := strings.CutPrefix(string(line), "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(text)[0])
			if err != nil {
				b.Fatal(err)
			}
			return float64(kb) / 1e3
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
