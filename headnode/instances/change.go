package instances

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Asked is who asks for a change of an instance, and when.
type Asked struct {
	By  string
	Now time.Time
}

// overtake ends what was asked before and will not happen any more.
func overtake(tx store.Tx, a Asked, r *Record, by string) error {
	_, err := finish(tx, a.Now, r, "overtaken by "+by, func(o open) bool {
		return slices.Contains([]string{"start", "stop", "reboot"}, o.Action)
	})
	return err
}

// Start has an instance run. Of one that failed it is another try.
func Start(tx store.Tx, a Asked, r Record) (_ Record, err error) {
	defer named(&err, "start instance %s", r.UUID)
	o, err := observed(tx, r.UUID)
	if err != nil {
		return r, err
	}
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		if r.Wanted == WantRunning && o.State == api.InstanceRunning {
			return did(tx, a.Now, *r, a.By, "start")
		}
		if err := overtake(tx, a, r, "a start"); err != nil {
			return err
		}
		ended := r.Wanted == WantRunning && o.State == api.InstanceStopped // by itself
		r.Wanted, spec.Wanted = WantRunning, WantRunning
		if o.State == api.InstanceFailed || ended {
			spec.Reboot = newID()
		}
		return ask(tx, a.Now, r, a.By, "start", "")
	})
}

// Stop has an instance stop. With force it is killed, and not asked.
func Stop(tx store.Tx, a Asked, r Record, force bool) (_ Record, err error) {
	defer named(&err, "stop instance %s", r.UUID)
	o, err := observed(tx, r.UUID)
	if err != nil {
		return r, err
	}
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		if r.Wanted == WantStopped && o.State == api.InstanceStopped {
			return did(tx, a.Now, *r, a.By, "stop")
		}
		if err := overtake(tx, a, r, "a stop"); err != nil {
			return err
		}
		r.Wanted, spec.Wanted, spec.Reboot = WantStopped, WantStopped, ""
		if force {
			spec.Force = newID()
		}
		return ask(tx, a.Now, r, a.By, "stop", "")
	})
}

// Reboot has an instance that is to run stop and start.
func Reboot(tx store.Tx, a Asked, r Record, force bool) (_ Record, err error) {
	defer named(&err, "reboot instance %s", r.UUID)
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		if r.Wanted != WantRunning {
			return conflict("start it: nereid instance start "+r.UUID, "instance %s (%s) is stopped", r.Name, r.UUID)
		}
		if err := overtake(tx, a, r, "a reboot"); err != nil {
			return err
		}
		spec.Reboot = newID()
		if force {
			spec.Force = newID()
		}
		return ask(tx, a.Now, r, a.By, "reboot", spec.Reboot)
	})
}

// signalRE is a signal's name without SIG, as kill(1) takes it.
var signalRE = regexp.MustCompile(`^(HUP|INT|QUIT|ILL|TRAP|ABRT|BUS|FPE|KILL|USR1|SEGV|USR2|PIPE|ALRM|TERM|CHLD|CONT|STOP|TSTP|TTIN|TTOU|URG|XCPU|XFSZ|VTALRM|PROF|WINCH|IO|PWR|SYS|RTMIN(\+([1-9]|1[0-9]|2[0-9]|30))?)$`)

// numbers are the signals that are often written as numbers (signal(7), x86 and ARM).
var numbers = map[string]string{"1": "HUP", "2": "INT", "3": "QUIT", "6": "ABRT", "9": "KILL", "10": "USR1", "12": "USR2", "14": "ALRM", "15": "TERM"}

// Kill sends a signal to the first process of an instance.
func Kill(tx store.Tx, a Asked, r Record, signal string) (_ Record, err error) {
	defer named(&err, "send a signal to instance %s", r.UUID)
	name := strings.TrimPrefix(strings.ToUpper(signal), "SIG")
	if n, ok := numbers[name]; ok {
		name = n
	}
	if name == "" {
		name = "KILL"
	}
	if !signalRE.MatchString(name) {
		return r, invalid("name it as SIGTERM, HUP or 9", "signal %.32q is none that is known", signal)
	}
	if r.Brand == api.BrandKVM && name != "KILL" {
		return r, conflict("ask it to stop: nereid instance stop "+r.UUID, "instance %s (%s) is a virtual machine: it takes no signal but SIGKILL, which is its power switch", r.Name, r.UUID)
	}
	o, err := observed(tx, r.UUID)
	if err != nil {
		return r, err
	}
	if o.State != api.InstanceRunning {
		return r, conflict("see what it does: nereid instance get "+r.UUID, "instance %s (%s) is %s, so nothing takes a signal", r.Name, r.UUID, o.State)
	}
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		spec.Signal = &api.SignalSpec{ID: newID(), Signal: "SIG" + name}
		return ask(tx, a.Now, r, a.By, "kill", spec.Signal.ID)
	})
}

// Update changes what an update names. The caller brings firewall tags, and what the
// firewall lets through, up to date with the record that it gets.
func Update(tx store.Tx, a Asked, r Record, u api.InstanceUpdate) (_ Record, err error) {
	defer named(&err, "change instance %s", r.UUID)
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		var faults []error
		before := *r
		did := func(action string) { faults = append(faults, did(tx, a.Now, *r, a.By, action)) }
		if u.Name != nil && *u.Name != r.Name {
			faults = append(faults, CheckName(tx, r.Owner, *u.Name, r.UUID))
			r.Name, spec.Name, spec.Hostname = *u.Name, *u.Name, *u.Name
		}
		if u.Protected != nil {
			r.Protected = *u.Protected
			did(map[bool]string{true: "enable_deletion_protection", false: "disable_deletion_protection"}[r.Protected])
		}
		if u.Firewall != nil {
			r.Firewall = *u.Firewall
			did(map[bool]string{true: "enable_firewall", false: "disable_firewall"}[r.Firewall])
		}
		if u.Restart != nil {
			faults = append(faults, CheckRestart(*u.Restart))
			r.Restart, spec.Restart = *u.Restart, *u.Restart
			did("set_restart")
		}
		if u.Tags != nil || u.SetTags != nil || u.RemoveTags != nil {
			r.Tags = changed(r.Tags, u.Tags, u.SetTags, u.RemoveTags)
			spec.Tags = r.Tags
			faults = append(faults, CheckTags(r.Tags))
			did("set_tags")
		}
		if u.Metadata != nil || u.SetMetadata != nil || u.RemoveMetadata != nil {
			spec.Metadata = changed(spec.Metadata, u.Metadata, u.SetMetadata, u.RemoveMetadata)
			faults = append(faults, CheckMetadata(spec.Metadata))
			did("set_metadata")
		}
		if u.Internal != nil || u.SetInternal != nil || u.RemoveInternal != nil {
			spec.Internal = changed(spec.Internal, u.Internal, u.SetInternal, u.RemoveInternal)
			faults = append(faults, CheckInternal(spec.Internal))
			did("set_internal_metadata")
		}
		if err := api.Faults(faults...); err != nil || r.Name == before.Name {
			return err
		}
		if err := tx.Delete(namePrefix + before.Name + "/" + r.Owner); err != nil {
			return err
		}
		if err := store.Put(tx, namePrefix+r.Name+"/"+r.Owner, r.UUID); err != nil {
			return err
		}
		_, err := note(tx, *r, api.InstanceAudit{ID: newID(), Action: "rename", Asked: a.Now.UTC(), By: a.By, Finished: a.Now.UTC(), Success: true})
		return err
	})
}

// SetNICs notes the NICs that an instance has now: those that it had keep the names of
// their interfaces, a new one gets the lowest number that is free. action is what is
// noted in the audit; empty: nothing.
func SetNICs(tx store.Tx, a Asked, r Record, nics []api.InstanceNIC, resolvers, segments []string, action string) (_ Record, err error) {
	defer named(&err, "note NICs of instance %s", r.UUID)
	nics = withNames(r.NICs, nics)
	count := map[string]int{}
	for _, s := range segments {
		count[s]++
	}
	if reflect.DeepEqual(nics, r.NICs) && slices.Equal(resolvers, r.Resolvers) && maps.Equal(count, r.Segments) && action == "" {
		return r, nil
	}
	if err := addUse(tx, r, -1); err != nil {
		return r, err
	}
	return r, edit(tx, &r, func(r *Record, spec *api.InstanceSpec) error {
		r.NICs, r.Resolvers, r.Segments = nics, resolvers, count
		spec.NICs, spec.Resolvers = nics, resolvers
		if err := addUse(tx, *r, 1); err != nil || action == "" {
			return err
		}
		return did(tx, a.Now, *r, a.By, action)
	})
}

// withNames gives NICs the names of their interfaces, in the order of those.
func withNames(had, nics []api.InstanceNIC) []api.InstanceNIC {
	names := map[string]string{} // of those that were there, by MAC
	for _, n := range had {
		names[n.MAC] = n.Interface
	}
	taken := map[string]bool{}
	out := slices.Clone(nics)
	for i := range out {
		out[i].Interface = names[out[i].MAC]
		taken[out[i].Interface] = true
	}
	for i := range out {
		for n := 0; out[i].Interface == ""; n++ {
			if name := fmt.Sprintf("net%d", n); !taken[name] {
				out[i].Interface, taken[name] = name, true
			}
		}
	}
	slices.SortFunc(out, func(a, b api.InstanceNIC) int {
		if c := len(a.Interface) - len(b.Interface); c != 0 {
			return c
		}
		return strings.Compare(a.Interface, b.Interface)
	})
	return out
}

// observed reads what its server reported of an instance.
func observed(tx store.Tx, uuid string) (Observed, error) {
	o, _, err := store.Lookup[Observed](tx, statePrefix+uuid)
	return o, err
}
