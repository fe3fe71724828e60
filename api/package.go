package api

import "time"

// Package is a size of instances. Its limits do not change once it is made: a package
// of other limits is another package.
type Package struct {
	UUID        string            `json:"uuid"`
	Name        string            `json:"name" doc:"unique among active packages"`
	Active      bool              `json:"active" doc:"new instances may use it"`
	Brand       string            `json:"brand,omitempty" enum:",lx,kvm" doc:"empty: any"`
	Owners      []string          `json:"owner_uuids,omitempty" doc:"accounts that may use it; empty: all"`
	Group       string            `json:"group,omitempty"`
	Description string            `json:"description,omitempty"`
	Traits      map[string]string `json:"traits,omitempty" doc:"a server must have each of them"`
	Limits
	Created  time.Time `json:"created,omitzero"`
	Revision string    `json:"revision,omitempty" doc:"ETag"`
}

// Limits are what an instance may use. They are the limits of its package.
type Limits struct {
	MemoryMiB     int `json:"memory_mib" doc:"16 to 16777216"`
	SwapMiB       int `json:"swap_mib" doc:"beside memory_mib; 0: none"`
	VCPUs         int `json:"vcpus" doc:"1 to 512; processors that a virtual machine has and that placement counts"`
	CPUCapPercent int `json:"cpu_cap_percent,omitempty" doc:"of one CPU, so that 250 is two and a half; 0: 100 for each of vcpus"`
	CPUWeight     int `json:"cpu_weight,omitempty" doc:"1 to 10000, share of busy CPUs (systemd.resource-control, CPUWeight=); 0: 100"`
	QuotaMiB      int `json:"quota_mib" doc:"disk space with snapshots; 64 and more"`
	Processes     int `json:"processes,omitempty" doc:"tasks, threads included; 0: 4000"`
	IOWeight      int `json:"io_weight,omitempty" doc:"1 to 10000 (systemd.resource-control, IOWeight=), which hardly acts on zones over ZFS; 0: 100"`
}
