package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"nereid/api"
)

// layoutDatasets are made below every system pool. There is no swap: a zvol
// that ZFS needs memory to write to deadlocks when memory is short, and the
// platform runs from RAM. There is no opt or var either: nothing is installed on
// a compute node.
var layoutDatasets = []struct {
	name  string
	props map[string]string
	mode  os.FileMode
}{
	// Keys and the last spec: kept twice, and not a place to run programs from.
	{configDataset, map[string]string{"copies": "2", "exec": "off", "setuid": "off", "devices": "off"}, 0o700},
	// Core dumps must not fill the pool.
	{"cores", map[string]string{"quota": "10G", "exec": "off", "setuid": "off", "devices": "off"}, 0o700},
}

// poolNameRE is what zpool accepts as a name, without the characters that need
// quoting and without a trailing one that reads badly (zpool-create(8)).
var (
	poolNameRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,62}$`)
	setupIDRE  = regexp.MustCompile(`^[a-zA-Z0-9_.:-]{1,128}$`)
)

// Reasons for which Setup refuses, for errors.Is.
var (
	ErrPlanChanged = errors.New("the disks no longer give the plan that was shown")
	ErrSetUp       = errors.New("this server is set up already")
)

// Setup makes the system pool as spec says. It may be called again after any
// failure, crash or power cut, and continues; after it has returned nil, calling
// it again changes nothing. The steps:
//
//  1. A complete pool of this setup: see that its datasets are there, done. An
//     unfinished one of this server: continue at 6.
//  2. Plan, on what the disks hold now, and compare with spec.PlanDigest.
//  3. Write a mark on every disk of the plan.
//  4. Wipe their edges.
//  5. Create the pool, with its properties. A power cut in between leaves a
//     pool without them, which the next call knows by the marks and destroys.
//  6. Remove the marks: from here on the pool may hold something, and nothing
//     but an operator's reset may destroy it.
//  7. Make and mount the datasets.
//  8. BeforeComplete.
//  9. Set nereid:setup-complete.
//
// progress, when not nil, is called for each phase, and with the phase failed
// when Setup returns an error.
func (s *Storage) Setup(ctx context.Context, spec api.SetupSpec, disks []api.Disk, progress func(api.SetupReport)) error {
	s.change.Lock()
	defer s.change.Unlock()
	defer s.forget()
	if spec.Pool == "" {
		spec.Pool = "zones"
	}
	rep := api.SetupReport{ID: spec.ID}
	u := &setup{s, spec, func(phase string, plan *api.PoolPlan) {
		rep.Phase, rep.Complete = phase, phase == "complete"
		if plan != nil {
			rep.Plan = plan
		}
		if progress != nil {
			progress(rep)
		}
	}}
	if err := u.run(ctx, disks); err != nil {
		rep.Error = err.Error()
		u.phase("failed", nil)
		return err
	}
	u.phase("complete", nil)
	return nil
}

// setup is one call of Setup.
type setup struct {
	*Storage
	spec  api.SetupSpec
	phase func(phase string, plan *api.PoolPlan)
}

// step is called before everything that changes something; tests stop there.
func (s *Storage) step(ctx context.Context, name string) error {
	if s.hook != nil {
		if err := s.hook(name); err != nil {
			return err
		}
	}
	s.log().InfoContext(ctx, "storage", "step", name)
	return ctx.Err()
}

func (u *setup) run(ctx context.Context, disks []api.Disk) error {
	if u.UUID == "" {
		return errors.New("set up: this server's UUID is not known, and without it an unfinished setup could not be told from another server's; see what its SMBIOS says")
	}
	if !setupIDRE.MatchString(u.spec.ID) {
		return fmt.Errorf("set up: id %q; want 1 to 128 letters, digits or _.:-", u.spec.ID)
	}
	if !poolNameRE.MatchString(u.spec.Pool) || reservedName(u.spec.Pool) {
		return fmt.Errorf("set up: pool name %q; want a letter, then letters, digits, _ or -, and none of the words of zpool", u.spec.Pool)
	}
	disks, err := u.clearHalfMade(ctx, disks)
	if err != nil {
		return err
	}
	states, err := u.states(ctx, true)
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	have, err := u.existing(states)
	if err != nil {
		return err
	}
	if have == nil {
		u.phase("planning", nil)
		if err := u.create(ctx, disks); err != nil {
			return err
		}
	} else if have.complete == "" {
		if err := u.adopt(ctx, *have); err != nil {
			return err
		}
	}
	u.phase("creating datasets", nil)
	if err := u.makeDatasets(ctx); err != nil {
		return err
	}
	if have != nil && have.complete == u.spec.ID {
		return nil
	}
	if u.BeforeComplete != nil {
		u.phase("storing key", nil)
		if err := u.step(ctx, "store key"); err != nil {
			return err
		}
		dir, err := u.configDir(ctx, u.spec.Pool)
		if err != nil {
			return err
		}
		if err := u.BeforeComplete(ctx, dir); err != nil {
			return fmt.Errorf("store key: %w", err)
		}
	}
	if err := u.step(ctx, "complete"); err != nil {
		return err
	}
	if err := u.sets().Set(ctx, u.spec.Pool, map[string]string{propComplete: u.spec.ID}); err != nil {
		return fmt.Errorf("complete setup: %w", err)
	}
	return nil
}

// reservedName reports whether zpool reads name as the kind of a vdev.
func reservedName(name string) bool {
	return slices.ContainsFunc([]string{"mirror", "raidz", "draid", "spare"}, func(p string) bool { return strings.HasPrefix(name, p) }) ||
		slices.Contains([]string{"log", "cache", "special", "dedup", "disk", "file", "replacing"}, name)
}

// existing is the pool this setup continues with, nil when there is none, and
// an error when what is there stands in its way.
func (u *setup) existing(states []poolState) (*poolState, error) {
	p, problems := u.system(states)
	switch {
	case p == nil && len(problems) > 0:
		return nil, errors.New("set up: " + strings.Join(problems, "; "))
	case p == nil:
		if slices.ContainsFunc(states, func(o poolState) bool { return o.Name == u.spec.Pool }) {
			return nil, fmt.Errorf("set up: a pool %s is there, which no setup made (%w); give the new pool another name, or destroy that one by hand",
				u.spec.Pool, ErrForeignData)
		}
		return nil, nil
	case p.complete != "" && p.complete == u.spec.ID:
	case p.complete != "":
		return nil, fmt.Errorf("set up: %w: pool %s is of setup %s; reset the server first if the pool may be destroyed", ErrSetUp, p.Name, p.complete)
	case p.SetupID == u.spec.ID:
	case p.SetupID == "" || p.server == "":
		return nil, fmt.Errorf("set up: %w: pool %s carries %s=on and no setup made it", ErrSetUp, p.Name, propSystem)
	case u.spec.PlanDigest != "" && p.plan != u.spec.PlanDigest:
		return nil, fmt.Errorf("set up: %w: pool %s is of the unfinished setup %s, with another plan; reset the server first", ErrSetUp, p.Name, p.SetupID)
	}
	u.spec.Pool = p.Name
	return p, nil
}

// clearHalfMade destroys a pool that zpool create had made but not given its
// properties when power went: the kernel does so in two transactions. It is
// known by the mark of a setup of this server on each of its disks, which is
// there only while the pool holds nothing. The disks come back as free.
func (u *setup) clearHalfMade(ctx context.Context, disks []api.Disk) ([]api.Disk, error) {
	states, err := u.states(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	disks = slices.Clone(disks)
	for _, p := range states {
		members := u.poolDisks(p.Name)
		if p.System || p.SetupID != "" || len(members) == 0 ||
			slices.ContainsFunc(members, func(name string) bool { return !u.marked(name, markSetup, p.Name) }) {
			continue
		}
		sets, err := u.datasets(ctx, p.Name)
		if err != nil {
			return nil, err
		}
		if len(sets) != 1 {
			return nil, fmt.Errorf("set up: pool %s looks like one that a setup left half made, but holds datasets (%w); destroy it by hand if they may go",
				p.Name, ErrForeignData)
		}
		if err := u.step(ctx, "destroy half-made pool "+p.Name); err != nil {
			return nil, err
		}
		if _, err := u.Storage.run(ctx, "zpool", "destroy", "-f", p.Name); err != nil {
			return nil, fmt.Errorf("destroy half-made pool %s: %w", p.Name, err)
		}
		for i := range disks {
			if slices.Contains(members, disks[i].Name) {
				disks[i].InUseBy = ""
			}
		}
	}
	return disks, nil
}

// adopt continues with a pool that was created but not completed.
func (u *setup) adopt(ctx context.Context, p poolState) error {
	if err := u.clearMarks(ctx, u.poolDisks(p.Name)); err != nil {
		return err
	}
	if p.SetupID == u.spec.ID {
		return nil
	}
	if err := u.step(ctx, "take over setup "+p.SetupID); err != nil {
		return err
	}
	if err := u.sets().Set(ctx, p.Name, map[string]string{propSetup: u.spec.ID}); err != nil {
		return fmt.Errorf("take over setup %s: %w", p.SetupID, err)
	}
	return nil
}

// makeDatasets makes what is missing of the datasets, and mounts them.
func (u *setup) makeDatasets(ctx context.Context) error {
	pool := u.spec.Pool
	sets, err := u.datasets(ctx, pool)
	if err != nil {
		return err
	}
	for _, d := range layoutDatasets {
		name := pool + "/" + d.name
		if sets[name] != nil {
			continue
		}
		if err := u.step(ctx, "create dataset "+name); err != nil {
			return err
		}
		if err := u.sets().Create(ctx, name, d.props); err != nil {
			return fmt.Errorf("create dataset %s: %w", name, err)
		}
	}
	if err := u.mount(ctx, pool); err != nil {
		return err
	}
	if sets, err = u.datasets(ctx, pool); err != nil {
		return err
	}
	for _, d := range layoutDatasets {
		dir := sets[pool+"/"+d.name]["mountpoint"]
		if !strings.HasPrefix(dir, "/") {
			return fmt.Errorf("create dataset %s/%s: it has no mountpoint", pool, d.name)
		}
		if err := os.Chmod(u.path(dir), d.mode); err != nil {
			return fmt.Errorf("create dataset %s/%s: %w", pool, d.name, err)
		}
	}
	return nil
}
