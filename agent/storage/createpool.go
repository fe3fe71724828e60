package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"nereid/api"
)

// create plans and makes the pool.
func (u *setup) create(ctx context.Context, disks []api.Disk) error {
	disks = slices.Clone(disks)
	for i, d := range disks {
		if d.InUseBy != "" || d.Removable || d.SizeBytes < MinDiskBytes {
			continue
		}
		text, err := u.Content(ctx, d.Name)
		if err != nil {
			text = "something that cannot be read (" + err.Error() + ")"
		}
		disks[i].Content = text
	}
	plan, err := Plan(u.spec, disks)
	if err != nil {
		return fmt.Errorf("plan pool: %w", err)
	}
	plan.Alternatives = nil // They were for whoever chose.
	u.phase("planning", &plan)
	if u.spec.PlanDigest != "" && plan.Digest != u.spec.PlanDigest {
		return fmt.Errorf("plan pool: %w: it is %s now (digest %.12s), and %.12s was approved; look at it with nereid server setup --plan and ask again",
			ErrPlanChanged, describe(plan), plan.Digest, u.spec.PlanDigest)
	}
	u.phase("creating pool", nil)
	chosen := planDisks(plan)
	// Every disk is checked before the first is written to.
	for _, name := range chosen {
		if err := u.take(ctx, name, disks, nil); err != nil {
			return err
		}
	}
	m := mark{Kind: markSetup, ID: u.spec.ID, Server: u.UUID, Pool: u.spec.Pool}
	for _, name := range chosen {
		if err := u.step(ctx, "mark "+name); err != nil {
			return err
		}
		m.Disk = name
		if err := u.take(ctx, name, disks, func(d *device, _ found) error { return d.writeMark(m) }); err != nil {
			return err
		}
	}
	if err := u.apart(ctx, chosen, disks); err != nil {
		return errors.Join(err, u.clearMarks(ctx, chosen))
	}
	for try := 1; ; try++ {
		err := u.makePool(ctx, plan, disks)
		if err == nil {
			return u.clearMarks(ctx, chosen)
		}
		if !transient(err) || try == createTries || ctx.Err() != nil {
			return err
		}
		u.log().WarnContext(ctx, "the disks were not free yet; trying again", "try", try, "error", err)
	}
}

// apart refuses when two of the marked disks are one: each has to show the mark
// that was written by its own name. It finds what no WWN and no serial number says.
func (u *setup) apart(ctx context.Context, chosen []string, disks []api.Disk) error {
	for _, name := range chosen {
		if err := u.take(ctx, name, disks, func(_ *device, f found) error {
			switch {
			case f.mark == nil:
				return fmt.Errorf("mark disk %s: the mark that was written to it is not read back; replace the disk, or ask again with --exclude %s", name, name)
			case f.mark.Disk != name:
				return fmt.Errorf("mark disks: what was written to %s is read from %s: they are paths to one disk, and %w; ask again with --exclude %s",
					f.mark.Disk, name, ErrOneDisk, name)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// createTries is how often zpool create is tried while udev holds a disk.
const createTries = 4

// transient reports whether zpool create failed because something had a disk or
// its new partition open at that moment, as udev does after each change.
func transient(err error) bool {
	return strings.Contains(err.Error(), "one or more devices is currently unavailable") || strings.Contains(err.Error(), "busy")
}

// makePool wipes the edges of the marked disks and creates the pool on them. A
// create that failed leaves partitions behind, which the marks say are ours.
func (u *setup) makePool(ctx context.Context, plan api.PoolPlan, disks []api.Disk) error {
	for _, name := range planDisks(plan) {
		if err := u.step(ctx, "wipe "+name); err != nil {
			return err
		}
		if err := u.take(ctx, name, disks, func(d *device, f found) error {
			if f.blank {
				return nil
			}
			err := d.wipe(f)
			d.reread()
			return err
		}); err != nil {
			return err
		}
	}
	// udev opens each disk once more after it was written; zpool create wants
	// them for itself. When udev does not settle, zpool create says what is busy.
	if _, err := u.Storage.run(ctx, "udevadm", "settle", "--timeout=30"); err != nil {
		u.log().WarnContext(ctx, "wait for udev", "error", err)
	}
	if err := u.step(ctx, "create pool"); err != nil {
		return err
	}
	if _, err := u.Storage.run(ctx, "zpool", u.createArgs(plan, disks)...); err != nil {
		return fmt.Errorf("create pool %s: %w", u.spec.Pool, err)
	}
	return nil
}

// take opens a disk for itself alone, looks again at what it holds, and calls do.
func (u *setup) take(ctx context.Context, name string, disks []api.Disk, do func(*device, found) error) (err error) {
	d, err := u.open(name, exclusive)
	if err != nil {
		return fmt.Errorf("take disk for pool: %w; it is in use by something else", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	f, err := examine(d, d.size)
	if err != nil {
		return fmt.Errorf("look into disk %s: %w", name, err)
	}
	i := slices.IndexFunc(disks, func(d api.Disk) bool { return d.Name == name })
	if text := f.foreign(u.UUID); text != "" && (i < 0 || !named(disks[i], u.spec.Wipe)) {
		return fmt.Errorf("take disk for pool: disk %s holds %s (%w); ask for the setup again with --wipe %s if that may be destroyed",
			name, text, ErrForeignData, name)
	}
	if do == nil {
		return ctx.Err()
	}
	return do(d, f)
}

func (u *setup) clearMarks(ctx context.Context, disks []string) error {
	for _, name := range disks {
		if err := u.step(ctx, "clear mark of "+name); err != nil {
			return err
		}
		d, err := u.open(name, marking)
		if err != nil {
			return fmt.Errorf("clear mark: %w", err)
		}
		if err := errors.Join(d.clearMark(u.UUID), d.Close()); err != nil {
			return fmt.Errorf("clear mark: %w", err)
		}
	}
	return nil
}

// createArgs are the arguments of zpool create. Choices: ashift=12, because
// disks that say 512 bytes and mean 4096 are common and a disk that replaces one
// may; autotrim where all data disks are solid-state; the features of OpenZFS
// 2.2, so that an older platform can import the pool after a fallback; no cache
// file, because the root file system does not outlive the boot.
func (u *setup) createArgs(plan api.PoolPlan, disks []api.Disk) []string {
	byName := map[string]api.Disk{}
	for _, d := range disks {
		byName[d.Name] = d
	}
	autotrim := "on"
	for _, v := range plan.Vdevs {
		for _, name := range v.Disks {
			if !byName[name].SolidState {
				autotrim = "off"
			}
		}
	}
	args := []string{"create"}
	if uneven(plan, byName) {
		// zpool wants force for vdevs of disks that differ in size. What else it
		// then skips, looking for data on the disks, was done above.
		args = append(args, "-f")
	}
	args = append(args,
		"-o", "ashift=12", "-o", "autotrim="+autotrim, "-o", "cachefile=none", "-o", "compatibility=openzfs-2.2",
		"-O", "atime=off", "-O", "compression=lz4", "-O", "acltype=posixacl", "-O", "xattr=sa", "-O", "mountpoint=/"+u.spec.Pool,
		"-O", propSystem+"=on", "-O", propSetup+"="+u.spec.ID, "-O", propServer+"="+u.UUID, "-O", propPlan+"="+plan.Digest,
		u.spec.Pool,
	)
	paths := func(names []string) {
		for _, name := range names {
			args = append(args, diskPath(byName[name]))
		}
	}
	vdevs := func(list []api.Vdev) {
		for _, v := range list {
			if v.Type != "disk" {
				args = append(args, v.Type)
			}
			paths(v.Disks)
		}
	}
	vdevs(plan.Vdevs)
	if len(plan.Log) > 0 {
		args = append(args, "log")
		vdevs(plan.Log)
	}
	if len(plan.Cache) > 0 {
		args = append(args, "cache")
		paths(plan.Cache)
	}
	if len(plan.Spares) > 0 {
		args = append(args, "spare")
		paths(plan.Spares)
	}
	return args
}

// uneven reports whether disks of one vdev differ in size.
func uneven(plan api.PoolPlan, disks map[string]api.Disk) bool {
	return slices.ContainsFunc(slices.Concat(plan.Vdevs, plan.Log), func(v api.Vdev) bool {
		return slices.ContainsFunc(v.Disks, func(name string) bool { return disks[name].SizeBytes != disks[v.Disks[0]].SizeBytes })
	})
}

// diskPath is the most stable path of a disk.
func diskPath(d api.Disk) string {
	if d.ID == "" {
		return "/dev/" + d.Name
	}
	if strings.HasPrefix(d.ID, "/") {
		return d.ID
	}
	return "/dev/disk/by-id/" + d.ID
}

// planDisks lists the disks of a plan.
func planDisks(p api.PoolPlan) []string {
	var names []string
	for _, v := range slices.Concat(p.Vdevs, p.Log) {
		names = append(names, v.Disks...)
	}
	return slices.Concat(names, p.Cache, p.Spares)
}

func describe(p api.PoolPlan) string {
	var names []string
	for _, v := range p.Vdevs {
		names = append(names, strings.TrimSpace(strings.TrimPrefix(v.Type, "disk")+" "+strings.Join(v.Disks, "+")))
	}
	return strings.Join(names, ", ")
}
