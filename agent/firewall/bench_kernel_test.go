//go:build netns || vm

package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// BenchmarkNetNSApply puts a whole ruleset into the kernel.
func BenchmarkNetNSApply(b *testing.B) {
	for _, n := range ruleCounts {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			w := manyRules(n)
			for b.Loop() {
				f := newFirewall(b) // of a process that has just started
				if err := applyAll(b.Context(), f, w.ports, w.fw, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNetNSChange makes one change, and with the next iteration undoes it.
func BenchmarkNetNSChange(b *testing.B) {
	for _, n := range ruleCounts {
		w := manyRules(n)
		changed := map[string]api.FirewallSpec{"member": w.fw, "rule": w.fw}
		sets := slices.Clone(w.fw.Sets)
		last := &sets[len(sets)-1]
		last.Members = append(slices.Clone(last.Members), "10.99.99.99")
		changed["member"] = api.FirewallSpec{Sets: sets, Rules: w.fw.Rules}
		more := manyRules(n + 4).fw
		changed["rule"] = api.FirewallSpec{Sets: more.Sets, Rules: more.Rules[:n+1]}
		for what, fw := range changed {
			b.Run(fmt.Sprintf("%s/rules=%d", what, n), func(b *testing.B) {
				f := newFirewall(b)
				if err := applyAll(b.Context(), f, w.ports, w.fw, Options{}); err != nil {
					b.Fatal(err)
				}
				done := false
				for b.Loop() {
					spec := fw
					if done {
						spec = w.fw
					}
					done = !done
					if err := applyAll(b.Context(), f, w.ports, spec, Options{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkNetNSCommit is the kernel's part of one change.
func BenchmarkNetNSCommit(b *testing.B) {
	for _, n := range ruleCounts {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			w := manyRules(n)
			f := newFirewall(b)
			if err := applyAll(b.Context(), f, w.ports, w.fw, Options{}); err != nil {
				b.Fatal(err)
			}
			hosts, _ := f.applied.set(setHosts4)
			one := []setElements{{hosts, elements{"\x0a\x63\x63\x63": {data: string(encodeResult(16))}}}}
			for b.Loop() {
				for _, t := range []*transaction{{addElements: one}, {delElements: one}} {
					if err := (system{}).commit(b.Context(), t); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkNetNSThroughput is without connection tracking: each packet is judged.
func BenchmarkNetNSThroughput(b *testing.B) { throughput(b, newFirewall) }

// throughput sends TCP through the bridge to a port with a firewall. Rounds of all
// rulesets take turns, so that what else the machine does meets all alike.
func throughput(b *testing.B, firewall func(testing.TB) *Firewall) {
	nodes := newLab(b, "nic1", "uplink")
	nodes["nic1"].run(b, "ip addr add 10.0.0.1/24 dev eth0")
	nodes["uplink"].run(b, "ip addr add 10.0.0.231/24 dev eth0")
	const rounds = 7
	rates := make(map[int][]float64)
	connects := make(map[int][]float64)
	packets := make(map[int][]float64)
	l := sink(b, nodes["nic1"])
	// As of an open connection, to the same port from an address that no set has.
	small := ipPacket(nodes["nic1"].mac, nodes["uplink"].mac, netip.MustParseAddr("10.0.0.230"), netip.MustParseAddr("10.0.0.3"), protoTCP, tcp(1, 7))
	wire := nodes["uplink"].wire(b)
	nodes["nic1"].wire(b).send(nodes["nic1"].marker(), 0)
	for range rounds {
		for _, n := range append([]int{0}, ruleCounts...) {
			f := firewall(b)
			if n > 0 {
				w := manyRules(n)
				w.fw.Rules = append(w.fw.Rules, api.FirewallEntry{Rule: "x", Direction: "in", Ports: []string{w.ports[0].MAC}, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 7, Last: 7}}})
				w.ports[0].Addresses = []api.PortAddress{{Address: "10.0.0.1/24"}}
				if err := applyAll(b.Context(), f, w.ports, w.fw, Options{}); err != nil {
					b.Fatal(err)
				}
			} else if err := f.Remove(b.Context()); err != nil {
				b.Fatal(err)
			}
			rates[n] = append(rates[n], bulk(b, nodes["uplink"], l))
			packets[n] = append(packets[n], cost(b, wire, small))
			connects[n] = append(connects[n], dials(b, nodes["uplink"], l))
		}
	}
	for b.Loop() {
	}
	for _, n := range append([]int{0}, ruleCounts...) {
		slices.Sort(rates[n])
		slices.Sort(connects[n])
		slices.Sort(packets[n])
		b.ReportMetric(rates[n][rounds/2]/1e6, fmt.Sprintf("MB/s@%d", n))
		b.ReportMetric(packets[n][rounds/2], fmt.Sprintf("cpu-ns/packet@%d", n))
		b.ReportMetric(connects[n][rounds/2], fmt.Sprintf("conn/s@%d", n))
	}
}

// sink reads and drops what comes to port 7.
func sink(b *testing.B, n *node) string {
	var l net.Listener
	if err := n.in(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(b.Context(), "tcp", "10.0.0.1:7")
		return err
	}); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1<<18)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	b.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// bulk is bytes per second of one connection.
func bulk(b *testing.B, n *node, address string) (rate float64) {
	err := n.in(func() error {
		c, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, 1<<18)
		start := time.Now()
		c.SetDeadline(start.Add(time.Second))
		total := 0
		for {
			k, err := c.Write(buf)
			total += k
			if errors.Is(err, os.ErrDeadlineExceeded) {
				rate = float64(total) / time.Since(start).Seconds()
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	return rate
}

// cost is the processor's time for a small packet from one port to the other, which
// is all in the sender's thread, whatever else the machine does.
func cost(b *testing.B, w *wire, frame []byte) float64 {
	const count = 100000
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() int64 {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
			b.Fatal(err)
		}
		return t.Nano()
	}
	start := used()
	for range count {
		if _, err := unix.Write(w.fd, frame); err != nil {
			b.Fatal(err)
		}
	}
	return float64(used()-start) / count
}

// dials is connections per second, one after the other, reset at the end so that
// ports are free again.
func dials(b *testing.B, n *node, address string) (rate float64) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	err := n.in(func() error {
		start := time.Now()
		count := 0
		for ; time.Since(start) < time.Second; count++ {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		rate = float64(count) / time.Since(start).Seconds()
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return rate
}
