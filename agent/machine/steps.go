package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"nereid/agent/machine/mdata"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// step is one change of an instance, done or not done. Its text says what it does.
type step interface{ fmt.Stringer }

// The steps. Each looks at nothing: the next plan sees what it did.
type (
	stepImage struct{ Image string } // have an image brought
	stepClone struct {
		Image string
		Quota int // MiB
	}
	stepDisks struct { // a virtual machine's dataset and volumes
		Quota int // MiB
		Disks []api.VMDisk
	}
	stepQuota struct{ MiB int }
	stepKeep  struct{} // the spec, with the dataset
	stepFiles struct{ Start bool }
	stepLive  struct{} // NICs, addresses, routes, resolvers of a zone that runs
	stepStart struct{}
	stepStop  struct{}
	stepKill  struct{}
	stepReset struct{} // of a unit that failed; what failed is the step's error
	// stepLimits sets a running unit's limits.
	stepLimits struct{ Limits api.Limits }
	stepSignal struct {
		ID, Signal string
		Runs       bool // else there is nobody to send it to
	}
	stepDone    struct{ ID string }
	stepDestroy struct{}
	stepForget  struct{} // files of the run directory
)

func (s stepImage) String() string { return "image " + s.Image }
func (s stepClone) String() string { return fmt.Sprintf("clone %s quota %d MiB", s.Image, s.Quota) }
func (s stepDisks) String() string {
	return fmt.Sprintf("%s quota %d MiB", api.Plural(len(s.Disks), "disk"), s.Quota)
}
func (s stepQuota) String() string { return fmt.Sprintf("quota %d MiB", s.MiB) }
func (stepKeep) String() string    { return "keep spec" }
func (s stepFiles) String() string {
	if s.Start {
		return "files for a start"
	}
	return "files"
}
func (stepLive) String() string     { return "set NICs" }
func (stepStart) String() string    { return "start" }
func (stepStop) String() string     { return "stop" }
func (stepKill) String() string     { return "kill" }
func (stepReset) String() string    { return "reset" }
func (s stepLimits) String() string { return fmt.Sprintf("limits %+v", s.Limits) }
func (s stepSignal) String() string {
	if s.Runs {
		return "signal " + s.Signal
	}
	return "no signal, as it does not run"
}
func (s stepDone) String() string  { return "done " + s.ID }
func (stepDestroy) String() string { return "destroy" }
func (stepForget) String() string  { return "forget" }

// errLost says that what an instance was is not there.
var errLost = errors.New("it ran before, and its dataset is not on this server's pool; it is not made anew from its image: delete it, or bring the pool back that has it")

// same reports whether what is kept of a spec is the spec. Requests are not a part of
// what is kept: they are of the moment.
func same(kept, spec *api.InstanceSpec) bool {
	if kept == nil {
		return false
	}
	a, b := lasting(*kept), lasting(*spec)
	return reflect.DeepEqual(a, b)
}

// lasting is what is kept of a spec.
func lasting(s api.InstanceSpec) api.InstanceSpec {
	s.Reboot, s.Force, s.Signal, s.Rollback, s.Made = "", "", nil, nil, true
	return s
}

// filesOf are the files that a zone is started with.
func filesOf(spec *api.InstanceSpec, base uint32, server string) (zone.Host, zone.Inside, mdata.Guest) {
	h := zone.Host{UUID: spec.UUID, Base: base, Hostname: spec.Hostname, Signal: spec.Run.StopSignal}
	if len(spec.Run.Init) > 0 {
		h.Init = spec.Run.Init[0]
	}
	for _, n := range spec.NICs {
		h.NICs = append(h.NICs, zone.NIC{MAC: n.MAC, Name: n.Interface, MTU: n.MTU})
	}
	in := zone.Inside{UUID: spec.UUID, Hostname: spec.Hostname, Domain: spec.DNSDomain, NICs: spec.NICs, Resolvers: spec.Resolvers, Run: spec.Run}
	if keys, ok := spec.Metadata["root_authorized_keys"].(string); ok {
		in.Keys = keys
	}
	for _, key := range []string{"cloud-init:user-data", "user-data"} { // the first is cloud-init's alone
		if text, ok := spec.Metadata[key].(string); ok && in.UserData == "" {
			in.UserData = text
		}
	}
	_, in.Script = spec.Metadata["user-script"]
	return h, in, mdata.Guest{InstanceSpec: lasting(*spec), Server: server}
}

// sameNetwork reports whether two have the same NICs, resolvers and names: what is
// changed in a zone that runs.
func sameNetwork(a, b zone.Inside) bool {
	of := func(in zone.Inside) string {
		text, err := json.Marshal([]any{in.Hostname, in.Domain, in.NICs, in.Resolvers})
		if err != nil { // there is nothing in them that cannot be marshalled
			return err.Error()
		}
		return string(text)
	}
	return of(a) == of(b)
}

// ids are the requests of a spec.
func ids(spec *api.InstanceSpec) (all []string) {
	for _, id := range []string{spec.Reboot, spec.Force} {
		if id != "" {
			all = append(all, id)
		}
	}
	if spec.Signal != nil && spec.Signal.ID != "" {
		all = append(all, spec.Signal.ID)
	}
	return all
}

// maxDone is how many ids of requests are kept of a zone: those of the last spec are
// among the newest.
const maxDone = 16

// with is a list of ids with further ones.
func with(done []string, more ...string) []string {
	done = slices.Clone(done)
	for _, id := range more {
		if !slices.Contains(done, id) {
			done = append(done, id)
		}
	}
	return done[max(0, len(done)-maxDone):]
}
