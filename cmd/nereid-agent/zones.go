package main

import (
	"context"
	"path/filepath"
	"runtime"

	"nereid/agent"
	"nereid/agent/machine"
	"nereid/agent/machine/zone"
	"nereid/agent/storage"
	"nereid/api"
)

// joinZones gives the agent the server's instances, which are zones under systemd. Where
// there is none, it leaves them alone.
func joinZones(a *agent.Agent, st *storage.Storage) (stop func()) {
	if runtime.GOOS != "linux" {
		return func() {}
	}
	roots := &storage.Roots{Pool: st.SystemPool, Log: a.Log}
	units := &machine.Systemd{}
	a.Zones = agent.Zones{
		Machines: &machine.Machines{Store: roots, Units: units, Log: a.Log,
			Prepare: func(ctx context.Context) error { return prepareZones(ctx, st, units) }},
		Datasets: roots,
		Pool:     st.SystemPool,
		Watch:    units.Watch,
		FitCache: st.FitCache,
	}
	a.Entry = agent.ZoneEntry{
		Program: zone.Program,
		Leader:  machine.Leader,
		Log:     func(uuid string) string { return filepath.Join(zone.Consoles, zone.Logs, zone.Log(uuid)) },
		Image: func(uuid string) api.ImageRun {
			if spec := a.Zones.Machines.Kept(uuid); spec != nil {
				return spec.Run
			}
			return api.ImageRun{}
		},
	}
	return units.Close
}

// prepareZones makes the server ready for its first zone: the kernel, and a place for
// what zones print.
func prepareZones(ctx context.Context, st *storage.Storage, units *machine.Systemd) error {
	folder, err := st.ConsoleDir(ctx)
	if err == nil {
		err = zone.KeepLogs(folder)
	}
	if err == nil {
		err = units.Run(ctx, zone.ConsolesUnit)
	}
	if err != nil {
		return err
	}
	return machine.Prepare(ctx)
}
