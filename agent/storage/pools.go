package storage

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"nereid/api"
)

// Properties of a system pool's root dataset.
const (
	propSystem   = "nereid:system"         // on
	propSetup    = "nereid:setup"          // id of the setup that made it
	propComplete = "nereid:setup-complete" // the same id, set last
	propServer   = "nereid:server"         // UUID of the server
	propPlan     = "nereid:plan"           // digest of the plan
	propReset    = "nereid:reset"          // GUID of the pool, while a reset destroys it
)

// listLimit bounds how long a listing may take: commands hang on a pool whose
// disks are gone.
const listLimit = 30 * time.Second

// refreshAfter bounds the age of sizes in Pools; health is never older than the call.
const refreshAfter = 5 * time.Minute

// poolState is a pool and what its root dataset says of it.
type poolState struct {
	api.Pool
	complete, server, plan, reset, mountpoint string
}

func (s *Storage) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// fingerprint is the kernel's list of pools and their health, from
// /proc/spl/kstat/zfs/POOL/state; empty without pools or without ZFS.
func (s *Storage) fingerprint() string {
	files, err := filepath.Glob(s.path("proc", "spl", "kstat", "zfs", "*", "state"))
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, f := range files {
		state, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "%s=%s\n", filepath.Base(filepath.Dir(f)), strings.TrimSpace(string(state)))
	}
	return b.String()
}

// Pools lists the imported pools. Commands run only when the kernel's list of
// pools or their health changed, and every five minutes for their sizes; in
// between a call costs one small read for each pool.
func (s *Storage) Pools(ctx context.Context) ([]api.Pool, error) {
	states, err := s.states(ctx, false)
	if err != nil {
		return nil, err
	}
	var pools []api.Pool
	for _, p := range states {
		pools = append(pools, p.Pool)
	}
	return pools, nil
}

// InUse says which disks belong to imported pools, by kernel name: "pool zones".
// See sysinfo.Reader.InUse. Where pools cannot be listed, their disks are told
// by the labels on them instead.
func (s *Storage) InUse(ctx context.Context) map[string]string {
	if _, err := s.states(ctx, false); err != nil {
		s.log().WarnContext(ctx, "list disks of pools", "error", err)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	use := map[string]string{}
	for pool, paths := range s.vdevs {
		for _, p := range paths {
			disk, _ := s.diskOf(p)
			use[disk] = "pool " + pool
		}
	}
	return use
}

// states reads all pools, from memory when nothing changed and fresh is false.
func (s *Storage) states(ctx context.Context, fresh bool) ([]poolState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	print := s.fingerprint()
	if print == "" {
		s.pools, s.vdevs, s.valid = nil, nil, false
		return nil, nil
	}
	if s.valid && !fresh && print == s.print && time.Since(s.read) < refreshAfter {
		return slices.Clone(s.pools), nil
	}
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	pools, vdevs, err := s.list(ctx)
	if err != nil {
		if fresh || len(s.pools) == 0 {
			return nil, err
		}
		// A pool that hangs must not silence the server: what was known, with the
		// health the kernel tells without asking the pool.
		s.log().WarnContext(ctx, "list pools", "error", err)
		for i, p := range s.pools {
			for line := range strings.Lines(print) {
				if name, state, _ := strings.Cut(strings.TrimSpace(line), "="); name == p.Name {
					s.pools[i].Health = state
				}
			}
		}
		pools, vdevs = s.pools, s.vdevs
	}
	s.pools, s.vdevs, s.print, s.read, s.valid = pools, vdevs, print, time.Now(), len(pools) > 0
	return slices.Clone(s.pools), nil
}

// list asks zpool and zfs.
func (s *Storage) list(ctx context.Context) (pools []poolState, vdevs map[string][]string, err error) {
	out, err := s.run(ctx, "zpool", "list", "-j", "-p", "-o", "size,allocated,health,guid")
	if err != nil {
		return nil, nil, fmt.Errorf("list pools: %w", err)
	}
	list, err := parsePools(out)
	if err != nil {
		return nil, nil, fmt.Errorf("list pools: %w", err)
	}
	if len(list) == 0 {
		return nil, nil, nil
	}
	args := []string{"get", "-j", "-p", strings.Join([]string{propSystem, propSetup, propComplete, propServer, propPlan, propReset, "mountpoint"}, ",")}
	for _, p := range list {
		args = append(args, p.Name)
	}
	if out, err = s.run(ctx, "zfs", args...); err != nil {
		return nil, nil, fmt.Errorf("list pools: %w", err)
	}
	props, err := parseProperties(out)
	if err != nil {
		return nil, nil, fmt.Errorf("list pools: %w", err)
	}
	if out, err = s.run(ctx, "zpool", "status", "-j", "-P"); err != nil {
		return nil, nil, fmt.Errorf("list pools: %w", err)
	}
	if vdevs, err = parseVdevs(out); err != nil {
		return nil, nil, fmt.Errorf("list pools: %w", err)
	}
	for _, p := range list {
		v := props[p.Name]
		p.System, p.SetupID = v[propSystem] == "on", v[propSetup]
		pools = append(pools, poolState{
			Pool: p, complete: v[propComplete], server: v[propServer], plan: v[propPlan], reset: v[propReset], mountpoint: v["mountpoint"],
		})
	}
	return pools, vdevs, nil
}

// forget makes the next call read the pools anew.
func (s *Storage) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.valid = false
}

// system is the one system pool of this server among states, and sentences for
// those that are not taken for it.
func (s *Storage) system(states []poolState) (*poolState, []string) {
	var found []poolState
	var problems []string
	for _, p := range states {
		switch {
		case !p.System:
		case p.server != "" && s.UUID != "" && p.server != s.UUID:
			problems = append(problems, fmt.Sprintf("pool %s was made by server %s and is left alone; "+
				"if its disks were moved here on purpose, run zfs set %s=%s %s", p.Name, p.server, propServer, s.UUID, p.Name))
		default:
			found = append(found, p)
		}
	}
	if len(found) > 1 {
		var names []string
		for _, p := range found {
			names = append(names, p.Name)
		}
		return nil, append(problems, fmt.Sprintf("pools %s all carry %s=on and none is chosen; run zfs inherit %s on those that are not the system pool",
			strings.Join(names, " and "), propSystem, propSystem))
	}
	if len(found) == 0 {
		return nil, problems
	}
	return &found[0], problems
}
