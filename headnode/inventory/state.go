package inventory

import (
	"fmt"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// BootWindow is how long a boot without a first sync counts as in progress.
const BootWindow = 15 * time.Minute

// View is what a state is computed from besides what is stored of a server.
type View struct {
	Started  time.Time // of the head node
	LastSeen time.Time // last sync or enrolment; zero: none since Started
	Boot     *api.Boot // the latest boot of any of the server's MACs; nil: none known
	Loop     string    // why the server counts as looping; empty: it does not
	Rivals   []Record  // machines that claim its UUID and wait for a decision
}

// Syncing says whether a server's key syncs. Just after the head node started it
// counts as syncing: its poll may be on the way.
func (v View) Syncing(now time.Time, r Record) bool {
	heard := v.LastSeen
	if heard.IsZero() {
		heard = v.Started
	}
	return r.Approved && r.accepted() && now.Sub(heard) <= api.SilentAfter
}

// State computes what a server is doing, and why where that needs explaining.
func State(now time.Time, r Record, o Observed, v View) (api.ServerState, string) {
	silent := v.LastSeen.IsZero() || now.Sub(v.LastSeen) > api.SilentAfter
	if v.Boot != nil && r.OtherKey() && v.Boot.ID == r.Presented.BootID {
		v.Boot, v.Loop = nil, "" // it may be another machine's
	}
	booting := v.Boot != nil && v.Boot.Done == nil && v.Boot.ID != r.BootID &&
		now.Sub(v.Boot.Started) <= BootWindow && v.Boot.Started.After(v.LastSeen)
	if v.Boot != nil && v.Boot.Done == nil && v.Boot.ID == r.BootID && silent && now.Sub(v.Boot.Started) <= BootWindow {
		booting = true // enrolled, not synced yet
	}
	switch {
	case r.Rejected:
		return api.StateRejected, "an operator rejected it; let it in with: nereid server approve " + r.UUID
	case r.Undecided():
		return api.StateHeld, "it says it is the server " + r.Claims + ", from another MAC and with another key; " + claimNext(r)
	case Contested(r, v.Rivals, v.Syncing(now, r)):
		return api.StateHeld, fmt.Sprintf("two machines claim this UUID, one with %s and one with %s; decide with: nereid server approve %s --mac MAC",
			strings.Join(r.MACs, ", "), macsOf(v.Rivals), r.UUID)
	case v.Loop != "" && booting:
		return api.StateBootLoop, v.Loop
	case silent && r.OtherKey():
		return api.StateHeld, fmt.Sprintf("a boot from %s presents another key than %s; if it is this server, accept it with: nereid server accept-key %s",
			r.Presented.MAC, r.keyPlace(), r.Hostname)
	case !r.Approved && !booting:
		reason := "waits for approval: nereid server approve " + r.UUID
		if silent {
			reason += " (" + silence(now, v) + ")"
		}
		return api.StatePending, reason
	case !r.Approved && !silent:
		return api.StatePending, "waits for approval: nereid server approve " + r.UUID
	case booting:
		return api.StateBooting, lastStage(v.Boot)
	case silent && shutDown(r, o):
		return api.StateOff, "shut down on request; power it on to boot it"
	case silent:
		return api.StateUnknown, silence(now, v)
	case r.SetUp:
		return api.StateRunning, ""
	case r.Setup != nil:
		return api.StateSettingUp, setupReason(r, o)
	}
	return api.StateApproved, "has no pool yet; set it up with: nereid server setup " + r.Hostname
}

// silence says since when nothing was heard.
func silence(now time.Time, v View) string {
	if v.LastSeen.IsZero() {
		return fmt.Sprintf("not heard of since the head node started %s ago", now.Sub(v.Started).Round(time.Second))
	}
	return fmt.Sprintf("not heard of for %s", now.Sub(v.LastSeen).Round(time.Second))
}

// lastStage says how far a boot has come.
func lastStage(b *api.Boot) string {
	if len(b.Events) == 0 {
		return ""
	}
	e := b.Events[len(b.Events)-1]
	s := "last event: " + string(e.Stage)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func shutDown(r Record, o Observed) bool {
	return r.Power != nil && r.Power.Action == "shutdown" && o.Report != nil && o.Report.Power != nil &&
		o.Report.Power.ID == r.Power.ID && o.Report.Power.Error == ""
}

func setupReason(r Record, o Observed) string {
	if o.Report == nil || o.Report.Setup == nil || o.Report.Setup.ID != r.Setup.ID {
		return "asked for; the agent has not begun"
	}
	if s := o.Report.Setup; s.Error != "" {
		return "failed: " + s.Error + "; correct it and run nereid server setup again"
	} else {
		return s.Phase
	}
}

// Alerts lists what an operator should look at, one sentence each.
func Alerts(r Record, o Observed, rivals []Record) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, c := range rivals {
		add("A machine with %s says it is this server since %s; it is held as %s and takes nothing.", strings.Join(c.MACs, ", "), c.Created.UTC().Format(time.RFC3339), c.Hostname)
	}
	if r.OtherKey() {
		add("A boot from %s at %s presented another key than %s and was refused.", r.Presented.MAC, r.Presented.Seen.UTC().Format(time.RFC3339), r.keyPlace())
	}
	rep := o.Report
	if rep == nil {
		return out
	}
	if r.SetUp && len(rep.Pools) == 0 && rep.BootID == r.BootID {
		add("It was set up and reports no pool; look at its disks.")
	}
	for _, p := range rep.Pools {
		if p.Health != "" && p.Health != "ONLINE" {
			add("Pool %s is %s.", p.Name, p.Health)
		}
	}
	for _, tag := range rep.NICTagsDown {
		add("NIC tag %s has no link; look at its cable and switch port.", tag)
	}
	if rep.Power != nil && rep.Power.Error != "" && r.Power != nil && rep.Power.ID == r.Power.ID {
		add("The %s asked for was not done: %s.", r.Power.Action, strings.TrimSuffix(rep.Power.Error, "."))
	}
	return append(out, rep.Problems...)
}

// SharedBootMAC says that a server which was not let in boots from another server's
// MAC; empty: it does not. It may be that server with another mainboard, or a MAC that
// two machines have.
func SharedBootMAC(tx store.Tx, r Record) (string, error) {
	if r.accepted() {
		return "", nil
	}
	for _, mac := range r.BootMACs {
		o, found, err := OwnerOf(tx, mac)
		if err != nil {
			return "", err
		}
		if !found || o.UUID == r.UUID {
			continue
		}
		other, err := Get(tx, o.UUID)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("It boots from %s, the MAC of server %s, with another UUID and another key; before you let it in, find out whether "+
			"that is %s with another mainboard, or two machines have this MAC.", mac, other.Hostname, other.Hostname), nil
	}
	return "", nil
}
