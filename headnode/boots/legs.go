package boots

import (
	"time"

	"nereid/api"
)

// The legs of a boot, in the order of the waterfall.
const (
	LegDHCP    = "firmware+DHCP"
	LegTFTP    = "TFTP"
	LegScript  = "script"
	LegKernel  = "kernel+initrd"
	LegRoot    = "root filesystem"
	LegSystemd = "kernel to systemd"
	LegSync    = "systemd to first sync"
)

// Legs is the waterfall of a boot: where each second went from poweredOn (zero
// when that is not known: the first DISCOVER) to the first sync, or as far as the
// boot has come. Each leg begins where the one before ends, so that they add up to
// the whole.
//
//   - firmware+DHCP ends when firmware has its address (iPXE, where the NIC's ROM
//     is iPXE: TFTP then takes 0 s);
//   - TFTP ends when iPXE is sent; script, with iPXE's own start and DHCP, when
//     the script is;
//   - kernel+initrd ends when the kernel starts, which is the stub's report less
//     the kernel's clock in it;
//   - root filesystem is what the stub took to fetch, verify and mount it. It
//     happens inside the next leg, and its bar is drawn before it;
//   - kernel to systemd is the rest until systemd started, by the kernel's clock;
//   - systemd to first sync is what is left.
//
// A stage nobody reported takes 0 s, and its time is part of the next leg.
func Legs(b api.Boot, poweredOn time.Time) []api.BootLeg {
	start := b.Started
	if !poweredOn.IsZero() && poweredOn.Before(start) {
		start = poweredOn
	}
	ends := boundaries(b)
	reached := -1
	for i, e := range ends {
		if !e.at.IsZero() {
			reached = i
		}
	}
	if reached < 0 {
		return nil
	}
	whole := max(0, ends[reached].at.Sub(start).Milliseconds())
	legs := make([]api.BootLeg, 0, reached+1)
	at := int64(0) // milliseconds since start
	for _, e := range ends[:reached+1] {
		end := at
		if !e.at.IsZero() {
			end = min(whole, max(at, e.at.Sub(start).Milliseconds()))
		}
		legs = append(legs, api.BootLeg{Name: e.leg, Start: float64(at) / 1000, Seconds: float64(end-at) / 1000})
		at = end
	}
	return legs
}

// boundary is the end of a leg; at is zero when nothing tells it.
type boundary struct {
	leg string
	at  time.Time
}

// boundaries finds the end of each leg on the head node's clock.
func boundaries(b api.Boot) []boundary {
	at := make(map[api.BootStage]api.BootEvent) // the latest of each stage
	for _, ev := range b.Events {
		if isTransfer(ev) {
			continue
		}
		at[ev.Stage] = ev
	}
	var dhcp, tftp, kernel, root, systemd, done time.Time
	dhcp, tftp = at[api.StageAck].Time, at[api.StageTFTP].Time
	if dhcp.IsZero() && !tftp.IsZero() {
		dhcp = tftp.Add(-seconds(at[api.StageTFTP].Seconds))
	}
	if dhcp.IsZero() {
		dhcp = at[api.StageIPXEAck].Time
	}
	for _, s := range []api.BootStage{api.StageKernel, api.StageInitrd, api.StageConfig} {
		if t := at[s].Time; t.After(kernel) {
			kernel = t
		}
	}
	stub, switched := at[api.StageStub], at[api.StageSwitchRoot]
	rooted := at[api.StageRoot]
	if rooted.Time.IsZero() {
		rooted = switched
	}
	var zero time.Time // of the kernel's clock
	for _, ev := range []api.BootEvent{stub, at[api.StageRoot], switched} {
		if zero.IsZero() && !ev.Time.IsZero() && seconds(ev.Seconds) > 0 {
			zero = ev.Time.Add(-seconds(ev.Seconds))
		}
	}
	stubbed := stub.Seconds
	if t := b.Timings; t != nil {
		if zero.IsZero() && b.Done != nil && seconds(t.FirstSync) > 0 {
			zero = b.Done.Add(-seconds(t.FirstSync))
		}
		if stubbed == 0 {
			stubbed = t.Stub
		}
	}
	if !zero.IsZero() {
		kernel = zero
	}
	switch {
	case rooted.Time.IsZero():
	case seconds(rooted.Seconds) > 0 && seconds(stubbed) > 0:
		root = kernel.Add(seconds(rooted.Seconds - stubbed))
	case !stub.Time.IsZero() && !kernel.IsZero():
		root = kernel.Add(rooted.Time.Sub(stub.Time))
	}
	switch {
	case b.Timings != nil && seconds(b.Timings.Systemd) > 0 && !zero.IsZero():
		systemd = zero.Add(seconds(b.Timings.Systemd))
	default:
		systemd = switched.Time // systemd is what it enters
	}
	if b.Done != nil {
		done = *b.Done
	}
	return []boundary{
		{LegDHCP, dhcp}, {LegTFTP, tftp}, {LegScript, at[api.StageScript].Time}, {LegKernel, kernel},
		{LegRoot, root}, {LegSystemd, systemd}, {LegSync, done},
	}
}

// isTransfer tells a layer's transfer, recorded by the boot server as part of
// StageRoot, from the stub's own report of that stage.
func isTransfer(ev api.BootEvent) bool { return ev.Stage == api.StageRoot && ev.Bytes > 0 }

// seconds is a time a machine reported; what cannot be one is 0.
func seconds(s float64) time.Duration {
	if !(s > 0 && s < 1e6) {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}
