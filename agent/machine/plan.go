package machine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"nereid/agent/machine/mdata"
	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// Wanted is what is wanted of an instance.
type Wanted struct {
	Spec *api.InstanceSpec // nil: nobody said; what is kept with the dataset counts
	Gone bool              // it is to be deleted
	Down bool              // the server goes down
}

// States of a unit (org.freedesktop.systemd1.Unit, ActiveState); empty: there is none.
const (
	unitNone     = ""
	unitStarts   = "activating"
	unitRuns     = "active"
	unitStops    = "deactivating"
	unitFailed   = "failed"
	unitInactive = "inactive" // as good as none
)

// seen is what is there of an instance.
type seen struct {
	image   bool              // the spec's image
	dataset bool              // its own
	kept    *api.InstanceSpec // with the dataset; nil: none that can be read
	unit    string            // state
	ran     bool              // it ran since the agent left its files for a start
	killed  bool              // it was told to end at once
	paused  bool              // it ended too soon after its starts to be started again now
	waits   []string          // MACs of NICs that are not there yet
	left    *zone.Host        // files that the agent left; nil: none
	inside  *zone.Inside      // the same, for inside; nil: not known
	guest   *mdata.Guest      // the same, of its metadata; nil: not known
	start   *vm.Start         // the same, of a virtual machine
	seed    map[string]string // the same, of one that has a seed
	server  string            // UUID of this one
	limits  *api.Limits       // of the unit; nil: not known
	live    bool              // what is set in a zone that runs can be changed
	now     *zone.Inside      // what is set in it; nil: not known

	// Of a machine that runs.
	hot     *vm.Has              // what it has; nil: not known
	asked   map[string]time.Time // devices that its guest was asked to let go of, by name
	dropped map[string]bool      // disks that are not on the pool any more, or never were
	at      time.Time            // it was looked at

	past

	dir, pool, log string // where its files, its dataset and its log are
	hypervisor     Hypervisor
}

// has reports whether an instance that runs has a NIC.
func (s seen) has(mac string) bool {
	if s.hot != nil {
		return s.hot.NICs[strings.ToLower(mac)].Device
	}
	return s.now != nil && slices.ContainsFunc(s.now.NICs, func(n api.InstanceNIC) bool { return n.MAC == mac })
}

// plan is what there is to do of an instance now, and what is waited for when that is
// done: empty when all is as it is wanted. It is pure. err says that the instance cannot
// be what is wanted, and that no try will change that.
func plan(w Wanted, s seen) (steps []step, wait string, err error) {
	if w.Gone {
		steps, wait = s.remove()
		return steps, wait, nil
	}
	spec := w.Spec
	if spec == nil {
		spec = s.kept
	}
	if spec == nil {
		return nil, "", nil // nothing is known of it but that it is there
	}
	b := brandOf(spec.Brand)
	if b == nil {
		return nil, "", fmt.Errorf("instances of brand %s are not made by this agent; assign a platform that makes them", spec.Brand)
	}
	if w.Down {
		steps, wait = s.stop(spec)
		return steps, wait, nil
	}
	if r := s.toRoll(spec); r != nil {
		steps, wait = s.rollback(*r, spec)
		return steps, wait, nil
	}
	if err := b.refuse(spec, s); err != nil {
		return nil, "", err
	}
	if !b.made(spec, s) && s.unit == unitNone {
		switch {
		case spec.Made:
			return nil, "", errLost
		case !s.image:
			return []step{stepImage{spec.Image}}, "image", nil
		}
		steps = append(steps, b.make(spec))
	} else {
		kept := s.kept
		if kept != nil && s.regrow && spec.VM != nil {
			again := *kept
			again.VM, kept = nil, &again // what it had is not what its disks have
		}
		steps = append(steps, b.grow(kept, spec)...)
	}
	if !same(s.kept, spec) {
		steps = append(steps, stepKeep{})
	}
	more, wait := s.run(b, spec)
	return append(steps, more...), wait, nil
}

// run is what there is to do of an instance whose dataset is there.
func (s seen) run(b *brand, spec *api.InstanceSpec) (steps []step, wait string) {
	if spec.Wanted != api.InstanceRunning {
		steps, wait = s.stop(spec)
		return append(append(steps, s.answer(spec)...), s.drops(spec)...), wait
	}
	again := spec.Reboot != "" && !slices.Contains(s.done(), spec.Reboot)
	switch s.unit {
	case unitStops:
		if s.force(spec) {
			return []step{stepKill{}}, "end"
		}
		return nil, "end"
	case unitFailed:
		return []step{stepReset{}}, ""
	case unitStarts:
		return nil, "start"
	case unitRuns:
		if again {
			return s.stop(spec)
		}
		f := b.files(spec, s)
		if f.host.Done = s.done(); !f.same(s) {
			steps = append(steps, stepFiles{})
		}
		if s.limits != nil && *s.limits != b.limits(*s.limits, spec.Limits) {
			steps = append(steps, stepLimits{b.limits(*s.limits, spec.Limits)})
		}
		steps = append(steps, s.answer(spec)...)
		more, wait := s.change(spec, f.start)
		steps = append(append(steps, more...), s.drops(spec)...)
		switch { // last: what is in the zone may make it fail, and that is to stop nothing else
		case !s.live || f.inside == nil || s.now != nil && sameNetwork(*s.now, *f.inside):
		case len(s.waits) > 0:
			wait = "NIC"
		default:
			steps = append(steps, stepLive{})
		}
		return steps, wait
	}
	if s.ran && !again && spec.Restart != api.RestartAlways {
		return s.answer(spec), "" // it ended by itself
	}
	if s.paused && !again {
		return s.answer(spec), "pause"
	}
	if len(s.waits) > 0 {
		return nil, "NIC"
	}
	return append(s.drops(spec), stepFiles{Start: true}, stepStart{}), ""
}

// stop is how what runs ends.
func (s seen) stop(spec *api.InstanceSpec) (steps []step, wait string) {
	switch s.unit {
	case unitStarts, unitRuns:
		if s.force(spec) {
			return []step{stepKill{}}, "end"
		}
		return []step{stepStop{}}, "end"
	case unitStops:
		if s.force(spec) {
			return []step{stepKill{}}, "end"
		}
		return nil, "end"
	case unitFailed:
		return []step{stepReset{}}, ""
	}
	return nil, ""
}

// force reports whether what is to end is to be killed, and was not yet.
func (s seen) force(spec *api.InstanceSpec) bool {
	return !s.killed && spec.Force != "" && !slices.Contains(s.done(), spec.Force)
}

// answer is what there is to do of requests that are not done.
func (s seen) answer(spec *api.InstanceSpec) (steps []step) {
	if sig := spec.Signal; sig != nil && sig.ID != "" && !slices.Contains(s.done(), sig.ID) {
		return []step{stepSignal{sig.ID, sig.Signal, s.unit == unitRuns}}
	}
	idle := s.unit != unitStarts && s.unit != unitStops
	stopped := spec.Wanted != api.InstanceRunning && s.unit == unitNone
	for _, id := range []string{spec.Reboot, spec.Force} {
		if id == "" || slices.Contains(s.done(), id) {
			continue
		}
		if stopped || idle && id == spec.Force {
			steps = append(steps, stepDone{id})
		}
	}
	return steps
}

// remove is how all of an instance goes. Its NICs go by themselves.
func (s seen) remove() (steps []step, wait string) {
	switch s.unit {
	case unitStarts, unitRuns:
		return []step{stepStop{}}, "end"
	case unitStops:
		return nil, "end"
	case unitFailed:
		steps = append(steps, stepReset{})
	}
	if s.dataset {
		steps = append(steps, stepDestroy{})
	}
	if s.left != nil {
		steps = append(steps, stepForget{})
	}
	return steps, ""
}

// done are the ids of requests that were carried out.
func (s seen) done() []string {
	if s.left == nil {
		return nil
	}
	return s.left.Done
}

func (s seen) base() uint32 {
	if s.left == nil {
		return 0
	}
	return s.left.Base
}
