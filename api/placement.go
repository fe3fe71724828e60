package api

import "time"

// Placement is why an instance is on its server.
type Placement struct {
	Instance string            `json:"instance_uuid"`
	Time     time.Time         `json:"time"`
	Chosen   string            `json:"server_uuid"`
	Asked    bool              `json:"asked,omitempty" doc:"the request named the server"`
	Affinity []string          `json:"affinity,omitempty"`
	Servers  []PlacementServer `json:"servers" doc:"the best ones first, then those that do not fit; at most 60"`
	More     int               `json:"more,omitempty" doc:"servers that are not listed"`
	Steps    []InstanceStep    `json:"steps,omitempty" doc:"where the time of the decision went"`
}

// PlacementServer is what was found of one server.
type PlacementServer struct {
	UUID     string             `json:"uuid"`
	Hostname string             `json:"hostname"`
	Why      []string           `json:"why_not,omitempty" doc:"each reason that it does not fit for; none: it fits"`
	Score    float64            `json:"score,omitempty" doc:"the sum of scores; the greatest is taken"`
	Scores   map[string]float64 `json:"scores,omitempty" doc:"by what they are for, with their weights"`
}

// ServerUse is what the instances of a server may use together: the sums of their
// limits.
type ServerUse struct {
	Instances int            `json:"instances"`
	MemoryMiB int            `json:"memory_mib"`
	DiskMiB   int            `json:"disk_mib"`
	VCPUs     int            `json:"vcpus"`
	Ports     map[string]int `json:"ports,omitempty" doc:"NICs by layer-2 segment, each of which is a Linux bridge"`
}

// InstanceSettings are of the whole datacenter.
type InstanceSettings struct {
	CPURatio       float64 `json:"cpu_ratio" doc:"vcpus that are given out for each processor, 0.1 to 64; 4 unless said otherwise"`
	MemoryRatio    float64 `json:"memory_ratio" doc:"memory that is given out, as a part of what there is, 0.1 to 4; 1 unless said otherwise"`
	DiskRatio      float64 `json:"disk_ratio" doc:"quotas that are given out, as a part of the pool, 0.1 to 64; 1 unless said otherwise"`
	ReservedMiB    int     `json:"reserved_memory_mib" doc:"memory of each server that is left to the platform, which is in memory, and to ZFS; 512 unless said otherwise"`
	ReservedPer100 int     `json:"reserved_memory_percent" doc:"and this part of its memory, 0 to 90; 10 unless said otherwise"`
	KeepDays       int     `json:"keep_deleted_days" doc:"how long a deleted instance can be read, 1 to 3650; 30 unless said otherwise"`
	MaxSnapshots   int     `json:"max_snapshots" doc:"snapshots of one instance that somebody asked for, 1 to 256; 32 unless said otherwise. Those of its schedule are beside them"`
	Revision       string  `json:"revision,omitempty" doc:"ETag"`
}
