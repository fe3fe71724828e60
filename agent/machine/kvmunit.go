package machine

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// mount is a bind mount of a unit (systemd.exec(5), BindPaths=).
type mount struct {
	From, To string
	Missing  bool // it may be missing
	Flags    uint64
}

// machineProperties are a machine's unit. It begins as root with what little opening its
// taps and its log needs, and becomes QEMU without any of it: see vm.Run.
func machineProperties(uuid, dir string, l api.Limits) ([]property, error) {
	s, err := vm.Read(dir)
	if err != nil {
		return nil, fmt.Errorf("make unit of machine %s: %w", uuid, err)
	}
	run := func(verb string) []command {
		return []command{{zone.Program, []string{zone.Program, verb, dir}, false}}
	}
	usec := func(d time.Duration) uint64 { return uint64(d.Microseconds()) }
	devices := [][2]string{{"/dev/net/tun", "rw"}, {"/dev/vhost-net", "rw"}, {"/dev/kvm", "rw"}}
	for _, path := range zvols(s) {
		devices = append(devices, [2]string{path, "rw"})
	}
	// Of the run directory it sees its own folder, and on its way to QEMU where its log
	// and its entry for those who answer it are, which are root's.
	sees := []mount{{dir, dir, false, 0}, {zone.Metadata, zone.Metadata, true, 0}}
	if s.Log != "" {
		sees = append(sees, mount{filepath.Dir(s.Log), filepath.Dir(s.Log), false, 0})
	}
	var needs []property
	if s.TPM != nil {
		needs = []property{{"Requires", []string{tpmUnit(uuid)}}, {"After", []string{tpmUnit(uuid)}}}
	}
	return slices.Concat(confined(), needs, []property{
		{"Description", "Nereid virtual machine " + uuid},
		{"Type", "exec"},
		{"KillMode", "mixed"},
		{"TimeoutStopUSec", usec(StopLimit)},
		{"Restart", "no"},
		{"DeviceAllow", devices},
		{"OOMPolicy", "stop"},
		{"OOMScoreAdjust", int32(0)},
		{"LimitNOFILE", uint64(4096)},
		{"LimitMEMLOCK", uint64(zoneLocked)},
		{"CapabilityBoundingSet", capabilities(capSetUID, capSetGID, capSetPCap, capNetAdmin, capChown, capDACOverride)},
		{"BindPaths", sees},
		{"ExecStart", run("machine")},
		{"ExecStartPost", run("answers")},
		{"ExecStop", run("button")},
	}, machineBounds(l)), nil
}

// machineTPM is the unit of a machine's TPM, which is not a part of its QEMU's: neither
// can read or end the other.
func machineTPM(uuid, dir string) (name string, list []property, err error) {
	s, err := vm.Read(dir)
	if err != nil {
		return "", nil, fmt.Errorf("make unit of machine %s: %w", uuid, err)
	}
	if s.TPM == nil {
		return "", nil, nil
	}
	return tpmUnit(uuid), slices.Concat(confined(), []property{
		{"Description", "TPM of Nereid virtual machine " + uuid},
		{"Type", "exec"},
		{"StopWhenUnneeded", true},
		{"CollectMode", "inactive-or-failed"},
		{"DeviceAllow", [][2]string{{s.TPM.Path, "rw"}}},
		{"MemoryMax", uint64(tpmMiB) << 20},
		{"TasksMax", uint64(64)}, // threads of what becomes swtpm; that has one
		{"PrivateNetwork", true},
		{"CapabilityBoundingSet", capabilities(capSetUID, capSetGID, capSetPCap, capChown, capDACOverride)},
		{"BindPaths", []mount{{dir, dir, false, 0}}},
		{"ExecStart", []command{{zone.Program, []string{zone.Program, "tpm", dir}, false}}},
	}), nil
}

// tpmMiB is how much memory a TPM may have.
const tpmMiB = 64

func tpmUnit(uuid string) string { return "nereid-tpm-" + uuid + unitSuffix }

// confined is what each unit of a machine may not.
func confined() []property {
	return []property{
		{"Slice", "machine.slice"},
		{"TimeoutStartUSec", uint64(startLimit.Microseconds())},
		{"DevicePolicy", "closed"},
		{"LimitCORE", uint64(0)}, // it would be the guest's memory
		{"UMask", uint32(0o077)},
		{"NoNewPrivileges", true},
		{"RestrictAddressFamilies", families{true, []string{"AF_UNIX"}}},
		{"RestrictNamespaces", uint64(0)},
		{"RestrictRealtime", true},
		{"RestrictSUIDSGID", true},
		{"LockPersonality", true},
		{"SystemCallArchitectures", []string{"native"}},
		{"ProtectSystem", "strict"},
		{"ProtectHome", "yes"},
		{"ProtectControlGroups", true},
		{"ProtectKernelTunables", true},
		{"ProtectKernelModules", true},
		{"ProtectKernelLogs", true},
		{"ProtectProc", "invisible"},
		{"PrivateTmp", true},
		{"PrivateIPC", true},
		{"TemporaryFileSystem", [][2]string{{"/run", "mode=0755,size=1M,nosuid,nodev,noexec"}}},
	}
}

// families are those of sockets that are allowed, or are not.
type families struct {
	Only bool
	List []string
}

// Numbers of capabilities (capabilities(7), linux/capability.h).
const (
	capChown       = 0
	capDACOverride = 1
	capSetGID      = 6
	capSetUID      = 7
	capSetPCap     = 8
	capNetAdmin    = 12
)

func capabilities(numbers ...int) (set uint64) {
	for _, n := range numbers {
		set |= 1 << n
	}
	return set
}

// machineBounds are the properties of a machine's unit that a package sets: QEMU has
// memory of its own beside its guest's.
func machineBounds(l api.Limits) []property {
	all := limits(l)
	for i := range all {
		switch all[i].Name {
		case "MemoryMax":
			all[i].Value = uint64(l.MemoryMiB+vm.Overhead(l.MemoryMiB, false)) << 20
		case "TasksMax":
			all[i].Value = uint64(defaultTasks) // threads of QEMU's; processes are the guest's matter
		}
	}
	return all
}
