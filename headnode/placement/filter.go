package placement

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"nereid/api"
)

// Unfit gives each reason that an instance cannot be on a server for. near are the
// account's instances that are on it, and others says whether the account has any.
func Unfit(w Want, s Server, near []Neighbour, others bool, policy api.InstanceSettings) []string {
	why := Takes(w, s, policy)
	for _, r := range w.Rules {
		if r.Soft {
			continue
		}
		if reason := r.against(s, near, others); reason != "" {
			why = append(why, "affinity "+r.Text+": "+reason)
		}
	}
	return why
}

// Takes gives each reason that a server does not take an instance for, whatever else
// is on it that the instance is to be near to, or far from.
func Takes(w Want, s Server, policy api.InstanceSettings) []string {
	why := state(w, s)
	for _, k := range slices.Sorted(maps.Keys(w.Traits)) {
		switch v, has := s.Traits[k]; {
		case !has:
			why = append(why, fmt.Sprintf("it has no trait %s; %s is wanted", k, w.Traits[k]))
		case v != w.Traits[k]:
			why = append(why, fmt.Sprintf("its trait %s is %s; %s is wanted", k, v, w.Traits[k]))
		}
	}
	why = append(why, nics(w, s)...)
	return append(why, room(w, s, policy)...)
}

// state gives the reasons that are the server's own.
func state(w Want, s Server) []string {
	var why []string
	if w.Server != "" && w.Server != s.UUID {
		why = append(why, "another server is asked for")
	}
	if !s.SetUp {
		return append(why, "it is not set up")
	}
	if s.Silent != "" {
		return append(why, "its state is unknown: "+s.Silent)
	}
	if s.Going != "" {
		why = append(why, "it was asked for a "+s.Going)
	}
	if s.Pool != "" {
		why = append(why, s.Pool)
	}
	if !s.Runs {
		why = append(why, "the agent of its platform runs no instances; it needs a newer platform")
	}
	switch w.Brand {
	case api.BrandLX:
	case api.BrandKVM:
		why = append(why, hypervisor(w, s)...)
	default:
		why = append(why, "it runs instances of brands lx and kvm, not "+w.Brand)
	}
	if s.Reserved && w.Server != s.UUID {
		why = append(why, "an operator keeps new instances away from it")
	}
	return why
}

// hypervisor gives the reason that a server runs no virtual machine for.
func hypervisor(w Want, s Server) []string {
	switch h := s.Hypervisor; {
	case h.QEMU == "":
		return []string{"its platform has no QEMU, which a virtual machine needs; it needs a platform with it"}
	case !h.KVM && !w.Emulated:
		no := h.NoKVM
		if no == "" {
			no = "its kernel does not say why"
		}
		return []string{"it has no KVM: " + strings.TrimRight(no, ".") + "; emulated, which is some twenty times slower, the instance may be on it"}
	}
	return nil
}

// nics gives the reasons of NICs that have no way to their networks.
func nics(w Want, s Server) []string {
	var why []string
	more := map[string]int{} // NICs of this instance by segment, where there is no choice
	for _, ways := range w.NICs {
		var each []string
		for _, way := range ways {
			reason := against(way, s, more)
			if reason == "" {
				each = nil
				if len(ways) == 1 {
					more[way.Segment]++
				}
				break
			}
			each = append(each, reason)
		}
		why = append(why, each...)
	}
	slices.Sort(why)
	return slices.Compact(why)
}

// against says why a NIC cannot go a way; empty: it can.
func against(way Way, s Server, more map[string]int) string {
	switch n := s.Used.Ports[way.Segment] + more[way.Segment]; {
	case !slices.Contains(s.Tags, way.Tag):
		has := "none"
		if len(s.Tags) > 0 {
			has = strings.Join(s.Tags, ", ")
		}
		return fmt.Sprintf("it does not provide NIC tag %s of network %s; it provides %s", way.Tag, way.Network, has)
	case way.Fabric && !s.Underlay:
		return fmt.Sprintf("it has no underlay address, which fabric network %s needs", way.Network)
	case n >= PortLimit:
		return fmt.Sprintf("its bridge of %s has all the NICs that it takes: %d of %d", way.Segment, n, PortLimit)
	}
	return ""
}

// room gives the reasons of what the server has too little of.
func room(w Want, s Server, policy api.InstanceSettings) []string {
	var why []string
	for _, r := range []struct {
		what              string
		unit              string
		want, left, whole int
	}{
		{"memory", " MiB", w.MemoryMiB, MemoryLeft(s, policy), memory(s, policy)},
		{"disk", " MiB", w.QuotaMiB, DiskLeft(s, policy), disk(s, policy)},
		{"vcpus", "", w.VCPUs, cpus(s, policy) - s.Used.VCPUs, cpus(s, policy)},
	} {
		if r.want > r.left {
			why = append(why, fmt.Sprintf("%s: %d%s are wanted, %d of %d%s are left", r.what, r.want, r.unit, max(0, r.left), r.whole, r.unit))
		}
	}
	return why
}

// memory is what of a server's memory may be given out, in MiB.
func memory(s Server, p api.InstanceSettings) int {
	n := s.MemoryMiB - p.ReservedMiB - s.MemoryMiB*p.ReservedPer100/100
	return max(0, int(float64(n)*p.MemoryRatio))
}

// MemoryLeft is what of that no instance has, in MiB; less than 0: too much is given out.
func MemoryLeft(s Server, p api.InstanceSettings) int { return memory(s, p) - s.Used.MemoryMiB }

// usable is the part of a pool that is given out, in percent: ZFS keeps some for
// itself, and is slow where there is hardly any left.
const usable = 94

func disk(s Server, p api.InstanceSettings) int {
	return max(0, int(float64(s.DiskMiB)*usable/100*p.DiskRatio))
}

// DiskLeft is what of a server's pool no instance's quota has, in MiB.
func DiskLeft(s Server, p api.InstanceSettings) int { return disk(s, p) - s.Used.DiskMiB }

func cpus(s Server, p api.InstanceSettings) int { return int(float64(s.CPUs) * p.CPURatio) }
