package instances

import (
	"net/http"

	"nereid/api"
	"nereid/headnode/store"
)

// GetSettings gives the settings, those that nobody set as they are from the first.
func GetSettings(tx store.Tx) (_ api.InstanceSettings, err error) {
	defer named(&err, "read settings of instances")
	s, found, err := store.Lookup[api.InstanceSettings](tx, settingsKey)
	if err == nil && !found {
		s = api.InstanceSettings{CPURatio: 4, MemoryRatio: 1, DiskRatio: 1, ReservedMiB: 512, ReservedPer100: 10, KeepDays: 30, MaxSnapshots: DefaultSnapshots, Revision: "first"}
	}
	if s.MaxSnapshots == 0 { // they were set before there were snapshots
		s.MaxSnapshots = DefaultSnapshots
	}
	return s, err
}

// SetSettings replaces the settings. A revision in them must still be theirs.
func SetSettings(tx store.Tx, s api.InstanceSettings) (_ api.InstanceSettings, err error) {
	defer named(&err, "change settings of instances")
	have, err := GetSettings(tx)
	if err != nil {
		return s, err
	}
	if s.Revision != "" && s.Revision != have.Revision {
		return s, refuse(http.StatusPreconditionFailed, api.CodeStale, "read them again and repeat the change", "the settings changed since you read them")
	}
	if s.MaxSnapshots == 0 { // a client of before there were snapshots
		s.MaxSnapshots = have.MaxSnapshots
	}
	var faults []error
	for _, f := range []struct {
		name            string
		value, min, max float64
	}{
		{"cpu_ratio", s.CPURatio, 0.1, 64}, {"memory_ratio", s.MemoryRatio, 0.1, 4}, {"disk_ratio", s.DiskRatio, 0.1, 64},
		{"reserved_memory_mib", float64(s.ReservedMiB), 0, 16 << 20}, {"reserved_memory_percent", float64(s.ReservedPer100), 0, 90},
		{"keep_deleted_days", float64(s.KeepDays), 1, 3650}, {"max_snapshots", float64(s.MaxSnapshots), 1, maxSnapshots},
	} {
		if !(f.value >= f.min && f.value <= f.max) {
			faults = append(faults, invalid("give it another value", "%s is %v; want %v to %v", f.name, f.value, f.min, f.max))
		}
	}
	if err := api.Faults(faults...); err != nil {
		return s, err
	}
	s.Revision = newID()
	return s, store.Put(tx, settingsKey, s)
}
