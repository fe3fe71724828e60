package network

import (
	"fmt"
	"testing"

	"nereid/api"
)

// BenchmarkPlan plans a server with 2,000 ports: from nothing, and when all is there.
func BenchmarkPlan(b *testing.B) {
	spec := api.NetworkSpec{Tags: []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: mac(3)}}, Underlay: underlaySpec}
	for i := range 2000 {
		v := uint32(1 + i/20)
		if i%20 == 0 {
			spec.VNIs = append(spec.VNIs, vni(v))
		}
		p := port(0, onVNI(v, fmt.Sprintf("10.0.0.%d/24", i%20+1)))
		p.MAC = fmt.Sprintf("02:01:00:00:%02x:%02x", i/256, i%256)
		spec.Ports = append(spec.Ports, p)
	}
	empty := server().state
	full := makePlan(spec, empty).now
	b.Run("from nothing", func(b *testing.B) {
		for b.Loop() {
			makePlan(spec, empty)
		}
	})
	b.Run("nothing to do", func(b *testing.B) {
		for b.Loop() {
			if p := makePlan(spec, full); len(p.steps) > 0 {
				b.Fatal(p.steps[0])
			}
		}
	})
}
