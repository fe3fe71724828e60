package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"

	"nereid/agent"
	"nereid/agent/machine"
	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/agent/storage"
	"nereid/agent/sysinfo"
	"nereid/api"
)

// joinZones gives the agent the server's instances, which are units of systemd. Where
// there is none, it leaves them alone.
func joinZones(a *agent.Agent, st *storage.Storage, hw *sysinfo.Reader) (stop func()) {
	if runtime.GOOS != "linux" {
		return func() {}
	}
	roots := &storage.Roots{Pool: st.SystemPool, Log: a.Log}
	units := &machine.Systemd{}
	a.Zones = agent.Zones{
		Machines: &machine.Machines{Store: roots, Disks: roots, Snapshots: roots, Units: units, Live: machine.Live, Log: a.Log,
			Hypervisor: func() machine.Hypervisor { return hypervisor(hw) },
			Prepare:    func(ctx context.Context) error { return prepareZones(ctx, st, units) }},
		Datasets: roots,
		Pool:     st.SystemPool,
		Watch:    units.Watch,
		FitCache: st.FitCache,
		Written:  written{zone.Changes{Dir: zone.WrittenDir()}, st},
	}
	a.Entry = agent.ZoneEntry{
		Program: zone.Program,
		Leader:  machine.Leader,
		Console: zone.Process,
		VM:      a.Zones.Machines, Keyboards: &agent.Keyboards{},
		Sockets: func(uuid string) string {
			if spec := a.Zones.Machines.Kept(uuid); spec == nil || spec.Brand != api.BrandKVM {
				return ""
			}
			return vm.RunDir(filepath.Join(zone.Dir, uuid))
		},
		Log: func(uuid string) string { return filepath.Join(zone.Consoles, zone.Logs, zone.Log(uuid)) },
		Image: func(uuid string) api.ImageRun {
			if spec := a.Zones.Machines.Kept(uuid); spec != nil {
				return spec.Run
			}
			return api.ImageRun{}
		},
	}
	return units.Close
}

// hypervisor is what virtual machines are run with here, as the inventory has it.
func hypervisor(hw *sysinfo.Reader) machine.Hypervisor {
	h := hw.Hypervisor(context.Background()) // it bounds itself
	_, err := os.Stat("/dev/vhost-net")
	_, uerr := os.Stat(vm.OVMF)
	_, terr := os.Stat(vm.SWTPM)
	return machine.Hypervisor{QEMU: h.QEMU != "", UEFI: uerr == nil, TPM: terr == nil, KVM: h.KVM, NoKVM: h.NoKVM, Vhost: h.KVM && err == nil}
}

// written are what zones changed of their metadata, on the pool, where there is one.
type written struct {
	zone.Changes
	st *storage.Storage
}

// Watch finds their folder first.
func (w written) Watch(ctx context.Context, changed func(instance string)) error {
	folder, err := w.st.ConsoleDir(ctx)
	if err == nil {
		err = zone.KeepLogs(folder)
	}
	if err != nil {
		return err
	}
	return w.Changes.Watch(ctx, changed)
}

// prepareZones makes the server ready for its first zone: the kernel, and a place for
// what zones print.
func prepareZones(ctx context.Context, st *storage.Storage, units *machine.Systemd) error {
	folder, err := st.ConsoleDir(ctx)
	if err == nil {
		err = zone.KeepLogs(folder)
	}
	for _, unit := range []string{zone.ConsolesUnit, zone.MetadataUnit} {
		if err == nil {
			err = units.Run(ctx, unit)
		}
	}
	if err != nil {
		return err
	}
	return machine.Prepare(ctx)
}
