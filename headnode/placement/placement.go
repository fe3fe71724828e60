package placement

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strings"

	"nereid/api"
)

// PortLimit is how many NICs of instances a server carries on one layer-2 segment. A
// Linux bridge has 1,023 ports (BR_MAX_PORTS); the rest are for its uplink or VXLAN
// device, for routers, and for NICs of what is no instance.
const PortLimit = 1000

// Server is what is known of a server.
type Server struct {
	UUID, Hostname string

	SetUp    bool
	Silent   string // why nothing is known of it now; empty: it is heard of
	Going    string // what it was asked for: reboot, shutdown or reset; empty: nothing
	Pool     string // what is wrong with its pool; empty: nothing
	Runs     bool   // its agent follows the set of its instances
	Reserved bool   // an operator keeps new instances away
	Platform string
	Rack     string
	Traits   map[string]string

	Tags     []string // NIC tags that it provides
	Underlay bool     // it has an underlay address

	Hypervisor api.Hypervisor

	MemoryMiB int // all of it
	CPUs      int // logical processors
	DiskMiB   int // of its pool

	Used api.ServerUse
}

// Way is a layer-2 segment that a NIC may be on, and the NIC tag that it needs.
type Way struct {
	Tag     string
	Fabric  bool   // the server needs an underlay address, too
	Segment string // by which the server's ports are counted
	Network string // for people
}

// Want is what an instance wants of its server.
type Want struct {
	UUID     string
	Server   string // UUID of the only one that will do; empty: any
	Brand    string
	Traits   map[string]string
	NICs     [][]Way // of each NIC, the ways that will do
	Rules    []Rule
	Platform string // that new boots get; empty: none
	Emulated bool   // of a virtual machine: a server without KVM will do
	api.Limits
}

// Neighbour is another instance of the same account.
type Neighbour struct {
	Server, UUID, Name string
	Tags               map[string]any
}

// Explained is of how many servers that fit, the best ones, a decision tells the scores
// one by one. Of the others it has the sum.
const Explained = 10

// Decision is what Decide says of all servers.
type Decision struct {
	Best    []string              // UUIDs of those that fit, the best first
	Servers []api.PlacementServer // those that fit, the best first, then the others by hostname
}

// Weights of the scores, each of which is from 0 to 1. The first four are those of
// Triton's defaults; an affinity that is only wished for outweighs them together.
const (
	weightMemory   = 2
	weightDisk     = 1
	weightPlatform = 1
	weightSpread   = 0.5
	weightAffinity = 5
)

// Decide says which servers will do, and why the others will not.
func Decide(w Want, servers []Server, near []Neighbour, policy api.InstanceSettings) Decision {
	by := map[string][]Neighbour{}
	racks := map[string]string{}
	for _, s := range servers {
		racks[s.UUID] = s.Rack
	}
	inRack := map[string][]Neighbour{}
	for _, n := range near {
		by[n.Server] = append(by[n.Server], n)
		if r := racks[n.Server]; r != "" {
			inRack[r] = append(inRack[r], n)
		}
	}
	d := Decision{Servers: make([]api.PlacementServer, 0, len(servers))}
	at := make(map[string]int, len(servers))
	for i, s := range servers {
		at[s.UUID] = i
		v := api.PlacementServer{UUID: s.UUID, Hostname: s.Hostname, Why: Unfit(w, s, by[s.UUID], len(near) > 0, policy)}
		if len(v.Why) == 0 {
			eachScore(w, s, by[s.UUID], inRack[s.Rack], policy, func(_ string, x float64) { v.Score += x })
		}
		d.Servers = append(d.Servers, v)
	}
	slices.SortFunc(d.Servers, compare)
	for i := range d.Servers {
		v := &d.Servers[i]
		if len(v.Why) > 0 {
			break
		}
		d.Best = append(d.Best, v.UUID)
		if i < Explained {
			s := servers[at[v.UUID]]
			v.Scores = map[string]float64{}
			eachScore(w, s, by[s.UUID], inRack[s.Rack], policy, func(what string, x float64) { v.Scores[what] += x })
		}
	}
	return d
}

// compare orders those that fit by score, before those that do not by hostname.
func compare(a, b api.PlacementServer) int {
	if c := cmp.Compare(min(len(a.Why), 1), min(len(b.Why), 1)); c != 0 {
		return c
	}
	if c := cmp.Compare(b.Score, a.Score); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Hostname, b.Hostname), cmp.Compare(a.UUID, b.UUID))
}

// eachScore weighs a server that fits, and calls fn with each score and what it is for.
func eachScore(w Want, s Server, near, rack []Neighbour, policy api.InstanceSettings, fn func(what string, score float64)) {
	fn("free memory", weightMemory*part(MemoryLeft(s, policy)-w.MemoryMiB, memory(s, policy)))
	fn("free disk", weightDisk*part(DiskLeft(s, policy)-w.QuotaMiB, disk(s, policy)))
	fn("spread", weightSpread*chance(w.UUID, s.UUID))
	if w.Platform != "" && s.Platform == w.Platform {
		fn("current platform", weightPlatform)
	}
	for _, r := range w.Rules {
		if r.Soft {
			fn("affinity "+r.Text, weightAffinity*r.wish(s, near, rack))
		}
	}
}

// part is how much of a whole something is, from 0 to 1.
func part(n, of int) float64 {
	if of <= 0 {
		return 0
	}
	return min(1, max(0, float64(n)/float64(of)))
}

// chance is a number from 0 to 1 that looks random, and is the same each time.
func chance(instance, server string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.ToLower(instance + "/" + server))) // hash.Hash never fails
	x := h.Sum64()
	x ^= x >> 33 // FNV's high bits hardly differ for keys that end alike
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}
