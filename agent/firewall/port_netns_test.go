//go:build netns

package firewall

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"
	"time"

	"nereid/api"
)

// TestNetNSPorts: what SetPort, DropPort and Apply leave in the kernel, in any sequence
// and with interfaces that are there or come later, is what an Apply of all would leave;
// and a table that somebody deleted meanwhile is made anew then or by VerifyOrRepair.
func TestNetNSPorts(t *testing.T) {
	there := []string{"nic1", "nic2", "nic3"}
	later := []string{"nic4", "nic5", "nic6", "nic4x"}
	for _, n := range there {
		command(t, "ip link add "+n+" type bridge")
	}
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 7))
		l := &portLab{world: newWorld(r), f: newFirewall(t), o: Options{PortPrefix: "nic", IsolatedPrefixes: []string{"br"}}}
		if err := applyAll(t.Context(), l.f, l.ports, l.fw, l.o); err != nil {
			t.Fatal(err)
		}
		for step := range 25 {
			what, do := l.step(t, r, step)
			when := fmt.Sprintf("seed %d step %d: %s", seed, step, what)
			deleted := r.IntN(10) == 0
			if deleted {
				command(t, "nft delete table netdev nereid_firewall")
			}
			if err := do(); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if repaired, err := l.f.VerifyOrRepair(t.Context()); err != nil || repaired && !deleted {
				t.Fatalf("%s: repaired %v, %v", when, repaired, err)
			}
			l.isApplied(t, when)
			if d := append(slices.Clone(later), "")[r.IntN(len(later)+1)]; l.f.applied.ruleset.ports[d].name != "" {
				command(t, "ip link add "+d+" type bridge")
				if err := l.f.Protect(t.Context(), []string{d}); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				defer func() { command(t, "ip link del "+d) }()
				later = slices.DeleteFunc(slices.Clone(later), func(o string) bool { return o == d })
			}
			c, err := (system{}).read(t.Context(), nil, l.f.applied.sets)
			if err != nil || len(c.program) == 0 || !maps.EqualFunc(c.elements, l.f.applied.elements, maps.Equal[elements, elements]) || !maps.Equal(c.program, l.f.program) {
				t.Fatalf("%s: the kernel has not what was applied: %v\n%v\n%v", when, err, c, l.f.applied)
			}
		}
	}
	for _, n := range there {
		command(t, "ip link del "+n)
	}
}

// BenchmarkNetNSPort changes the rules of one port, whose interface is there, beside 2
// and beside 2,000: with rules that the others have, and with some of its own.
func BenchmarkNetNSPort(b *testing.B) {
	for _, own := range []bool{false, true} {
		for _, others := range []int{2, 2000} {
			b.Run(fmt.Sprintf("own-rules=%v/beside=%d", own, others), func(b *testing.B) { benchPort(b, own, others) })
		}
	}
}

// manyPorts are n ports of n/20 accounts, each of which has three rules about one set.
func manyPorts(n int) *world {
	w := &world{}
	for i := range n {
		p := testPort(i%250, true)
		m := testMAC(i)
		p.Interface, p.MAC, p.Owner = fmt.Sprint("nic", i), macText(m), fmt.Sprint("a", i/20)
		p.Bridge, p.VNI = fmt.Sprint("vb", i/20), uint32(i/20)
		w.ports = append(w.ports, p)
	}
	for a := range (n + 19) / 20 {
		set := api.AddressSet{Name: fmt.Sprint("set", a)}
		var macs []string
		for i := a * 20; i < min(n, a*20+20); i++ {
			macs = append(macs, w.ports[i].MAC)
			set.Members = append(set.Members, fmt.Sprintf("10.0.%d.%d", i/250, i%250))
		}
		w.fw.Sets = append(w.fw.Sets, set)
		for k := range 3 {
			e := letIn(uint16(22+k), set.Name, macs...)
			e.Rule = fmt.Sprintf("rule-%d-%d", a, k)
			w.fw.Rules = append(w.fw.Rules, e)
		}
	}
	return w
}

func benchPort(b *testing.B, own bool, others int) {
	w := manyPorts(others + 1)
	f := newFirewall(b)
	one := w.ports[0]
	command(b, "ip link add nic0 type bridge")
	b.Cleanup(func() { exec.Command("ip", "link", "del", "nic0").Run() })
	if err := applyAll(b.Context(), f, w.ports, w.fw, Options{PortPrefix: "nic", IsolatedPrefixes: []string{"vb"}}); err != nil {
		b.Fatal(err)
	}
	rules := w.rulesOfPort(one.MAC)
	if own {
		rules.Rules = append(rules.Rules, letIn(8080, rules.Sets[0].Name), letIn(8081, ""))
	}
	var set, drop []time.Duration
	for b.Loop() {
		for range 101 {
			start := time.Now()
			if err := f.DropPort(b.Context(), one.MAC, one.Instance); err != nil {
				b.Fatal(err)
			}
			drop = append(drop, time.Since(start))
			start = time.Now()
			if err := f.SetPort(b.Context(), one, rules); err != nil {
				b.Fatal(err)
			}
			set = append(set, time.Since(start))
		}
	}
	slices.Sort(set)
	slices.Sort(drop)
	b.ReportMetric(float64(set[len(set)/2].Microseconds()), "µs/set")
	b.ReportMetric(float64(drop[len(drop)/2].Microseconds()), "µs/drop")
}
