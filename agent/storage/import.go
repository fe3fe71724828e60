package storage

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Import imports every pool that can be imported without force, mounting
// nothing, finds the system pool and mounts its datasets. A factory reset that
// was cut short is finished. It may be called again at any time.
func (s *Storage) Import(ctx context.Context) (Imported, error) {
	s.change.Lock()
	defer s.change.Unlock()
	defer s.forget()
	var im Imported
	reset, err := s.finishWipes(ctx)
	if err != nil {
		im.Problems = append(im.Problems, err.Error())
	}
	im.Reset = reset
	problems, err := s.importAll(ctx)
	im.Problems = append(im.Problems, problems...)
	if err != nil {
		return im, err
	}
	states, err := s.states(ctx, true)
	if err != nil {
		return im, err
	}
	p, problems := s.system(states)
	im.Problems = append(im.Problems, problems...)
	if p == nil {
		return im, nil
	}
	if p.reset == p.GUID {
		if err := s.destroy(ctx, *p); err != nil {
			im.Problems = append(im.Problems, fmt.Sprintf("the factory reset of pool %s was cut short and could not be finished: %v", p.Name, err))
			return im, nil
		}
		im.Reset = true
		return im, nil
	}
	im.System, im.SetupID = &p.Pool, p.SetupID
	im.Complete = p.SetupID != "" && p.complete == p.SetupID
	if err := s.mount(ctx, p.Name); err != nil {
		im.Problems = append(im.Problems, err.Error())
	}
	if im.ConfigDir, err = s.configDir(ctx, p.Name); err != nil {
		// An unfinished setup may not have come to the config dataset.
		im.ConfigDir = ""
		if im.Complete {
			im.Problems = append(im.Problems, err.Error())
		}
	}
	return im, nil
}

// scanArgs are the folders pools are looked for in: stable names first, so that
// those are what the pool remembers. No cache file: the root file system does
// not outlive the boot.
func (s *Storage) scanArgs() []string {
	var args []string
	if _, err := os.Stat(s.path("dev", "disk", "by-id")); err == nil {
		args = append(args, "-d", "/dev/disk/by-id")
	}
	return append(args, "-d", "/dev")
}

// importAll imports what can be imported and says what cannot, and why.
func (s *Storage) importAll(ctx context.Context) (problems []string, err error) {
	out, err := s.run(ctx, "zpool", append([]string{"import"}, s.scanArgs()...)...)
	if err != nil {
		if strings.Contains(err.Error(), "no pools available to import") {
			return nil, nil
		}
		return nil, fmt.Errorf("look for pools: %w", err)
	}
	found, err := parseImport(out)
	if err != nil {
		return nil, fmt.Errorf("look for pools: %w", err)
	}
	for _, c := range found {
		twins := 0
		for _, o := range found {
			if o.name == c.name {
				twins++
			}
		}
		switch {
		case twins > 1:
			problems = append(problems, fmt.Sprintf("pool %s (id %s) is left alone: %d pools have that name; import the right one with zpool import %s, or another under a new name",
				c.name, c.guid, twins, c.guid))
		case c.elsewhere():
			problems = append(problems, fmt.Sprintf("pool %s (id %s) is left alone: another system used it last and did not export it; "+
				"if no other system has its disks, run zpool import -f -N %s", c.name, c.guid, c.guid))
		case !c.importable():
			problems = append(problems, strings.TrimSpace(fmt.Sprintf("pool %s (id %s) cannot be imported: it is %s; check that all its disks are attached. %s",
				c.name, c.guid, c.state, c.status)))
		default:
			args := append([]string{"import", "-N", "-o", "cachefile=none"}, s.scanArgs()...)
			if _, err := s.run(ctx, "zpool", append(args, c.guid)...); err != nil {
				problems = append(problems, fmt.Sprintf("pool %s (id %s) could not be imported: %v", c.name, c.guid, err))
			}
		}
	}
	return problems, ctx.Err()
}

// datasets reads properties of the pool's root and the datasets right below it.
func (s *Storage) datasets(ctx context.Context, pool string) (map[string]map[string]string, error) {
	out, err := s.run(ctx, "zfs", "get", "-j", "-p", "-d", "1", "-t", "filesystem", "mounted,mountpoint", pool)
	if err != nil {
		return nil, fmt.Errorf("list datasets of pool %s: %w", pool, err)
	}
	return parseProperties(out)
}

// mount mounts all file systems of the pool, when one that Setup makes is not.
func (s *Storage) mount(ctx context.Context, pool string) error {
	sets, err := s.datasets(ctx, pool)
	if err != nil {
		return err
	}
	names := []string{pool}
	for _, d := range layoutDatasets {
		names = append(names, pool+"/"+d.name)
	}
	if !slices.ContainsFunc(names, func(n string) bool { return sets[n] != nil && sets[n]["mounted"] != "yes" }) {
		return nil
	}
	if _, err := s.run(ctx, "zfs", "mount", "-R", pool); err != nil {
		return fmt.Errorf("mount datasets of pool %s: %w", pool, err)
	}
	return nil
}

// configDir is where the pool's config dataset is mounted.
func (s *Storage) configDir(ctx context.Context, pool string) (string, error) {
	sets, err := s.datasets(ctx, pool)
	if err != nil {
		return "", err
	}
	d := sets[pool+"/"+configDataset]
	if d == nil || d["mounted"] != "yes" || !strings.HasPrefix(d["mountpoint"], "/") {
		return "", fmt.Errorf("dataset %s/%s is not mounted; run zfs mount %s/%s and see what it says", pool, configDataset, pool, configDataset)
	}
	return s.path(d["mountpoint"]), nil
}
