package firewall

import (
	"fmt"
	"testing"

	"nereid/api"
)

// manyRules is a world of n rules for 20 ports: in, for everybody, for tags of ten
// instances and for subnets, each with a port or a few of its own.
func manyRules(n int) *world {
	w := &world{}
	var macs []string
	for i := range 20 {
		w.ports = append(w.ports, testPort(i+1, true))
		macs = append(macs, macText(testMAC(i+1)))
	}
	for i := range n {
		e := api.FirewallEntry{Rule: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Direction: "in", Ports: macs[:5+i%3*5], Action: "allow", Protocol: "tcp",
			Dst: []api.PortRange{{First: uint16(10000 + i), Last: uint16(10000 + i)}}}
		set := api.AddressSet{Name: fmt.Sprintf("tag_%d", i)}
		switch i % 4 {
		case 0:
			set.Members = nil
		case 1:
			set.Members = append(set.Members, fmt.Sprintf("10.%d.%d.0/25", 128+i>>8&0x3f, i&0xff))
			e.Protocol = "udp"
		case 2:
			e.Dst = append(e.Dst, api.PortRange{First: 30000, Last: uint16(30001 + i)})
			fallthrough
		default:
			for k := range 10 {
				set.Members = append(set.Members, fmt.Sprintf("10.%d.%d.%d", 64+(i>>8)&0x3f, i&0xff, k+1))
			}
		}
		if len(set.Members) > 0 {
			w.fw.Sets = append(w.fw.Sets, set)
			e.Peers = []string{set.Name}
		}
		w.fw.Rules = append(w.fw.Rules, e)
	}
	return w
}

var ruleCounts = []int{10, 1000, 10000}

// BenchmarkCompile parses and compiles a whole spec.
func BenchmarkCompile(b *testing.B) {
	for _, n := range ruleCounts {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			w := manyRules(n)
			var size int
			for b.Loop() {
				s, err := parseInput(w.ports, w.fw, Options{})
				if err != nil {
					b.Fatal(err)
				}
				r, err := build(s, newNumbers(1), nil, true)
				if err != nil {
					b.Fatal(err)
				}
				size = replacement(r.ruleset, nil).size()
			}
			b.ReportMetric(float64(size), "elements")
		})
	}
}
