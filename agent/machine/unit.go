package machine

import (
	"cmp"
	"time"

	"nereid/agent/machine/zone"
	"nereid/api"
)

// property is one of a unit, as StartTransientUnit and SetUnitProperties take it
// (org.freedesktop.systemd1(5)).
type property struct {
	Name  string
	Value any
}

// command is an element of ExecStart and its like: path, arguments with the path before
// them, and whether a failure is ignored.
type command struct {
	Path   string
	Args   []string
	Ignore bool
}

// exits are exit statuses and signals.
type exits struct {
	Status, Signals []int32
}

// rebootExit is systemd-nspawn's exit status when a zone rebooted from inside.
const rebootExit = 133

// Of a unit.
const (
	startLimit   = 90 * time.Second
	defaultTasks = 4000
	zoneFiles    = 524288   // descriptors
	zoneLocked   = 64 << 20 // bytes that a process may lock
)

// properties are a zone's unit, whose files are in dir.
func properties(uuid, dir string, l api.Limits) []property {
	run := func(verb string) []command {
		return []command{{zone.Program, []string{zone.Program, verb, dir}, false}}
	}
	usec := func(d time.Duration) uint64 { return uint64(d.Microseconds()) }
	return append([]property{
		{"Description", "Nereid zone " + uuid},
		{"Type", "notify"},
		{"NotifyAccess", "main"},
		{"Slice", "machine.slice"},
		{"Delegate", true},
		{"DelegateSubgroup", "supervisor"},
		{"KillMode", "mixed"},
		{"TimeoutStartUSec", usec(startLimit)},
		{"TimeoutStopUSec", usec(StopLimit)},
		{"Restart", "no"},
		{"SuccessExitStatus", exits{[]int32{rebootExit}, []int32{}}},
		{"RestartForceExitStatus", exits{[]int32{rebootExit}, []int32{}}},
		{"DevicePolicy", "closed"},
		{"DeviceAllow", [][2]string{{"/dev/net/tun", "rwm"}, {"char-pts", "rw"}, {"/dev/fuse", "rwm"}}},
		{"OOMPolicy", "continue"},
		{"OOMScoreAdjust", int32(0)},
		{"LimitNOFILE", uint64(zoneFiles)},
		{"LimitMEMLOCK", uint64(zoneLocked)},
		{"ExecStart", run("enter")},
	}, limits(l)...)
}

// limits are the properties that a package sets.
func limits(l api.Limits) []property {
	cap := cmp.Or(l.CPUCapPercent, 100*l.VCPUs)
	return []property{
		{"MemoryMax", uint64(l.MemoryMiB) << 20},
		{"MemorySwapMax", uint64(l.SwapMiB) << 20},
		{"CPUQuotaPerSecUSec", uint64(cap) * 10000},
		{"CPUWeight", uint64(cmp.Or(l.CPUWeight, 100))},
		{"IOWeight", uint64(cmp.Or(l.IOWeight, 100))},
		{"TasksMax", uint64(cmp.Or(l.Processes, defaultTasks))},
	}
}
