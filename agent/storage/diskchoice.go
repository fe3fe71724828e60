package storage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"nereid/api"
)

// usable leaves out what must not be touched (rules 1 and 2).
func (p *planner) usable(disks []api.Disk) ([]api.Disk, error) {
	var use []api.Disk
	other, err := onePath(slices.DeleteFunc(slices.Clone(disks), func(d api.Disk) bool {
		return d.ReadOnly && d.InUseBy == "" || d.SizeBytes < MinDiskBytes
	}), p.opt)
	foreign := []error{err}
	for _, d := range disks {
		switch {
		case named(d, p.opt.Exclude):
			p.skip(d, "excluded")
		case d.Removable:
			p.skip(d, "removable")
		case d.Transport == "usb":
			p.skip(d, "attached by USB")
		case d.ReadOnly:
			p.skip(d, "read-only")
		case d.InUseBy != "":
			p.skip(d, "in use by %s", d.InUseBy)
		case other[d.Name] != "":
			p.skip(d, "%s", other[d.Name])
		case d.SizeBytes < MinDiskBytes:
			p.skip(d, "smaller than 1 GiB")
		case d.Content != "" && !named(d, p.opt.Wipe):
			foreign = append(foreign, fmt.Errorf("disk %s holds %s, which this setup did not make (%w); "+
				"add --wipe %s if that may be destroyed, or --exclude %s to leave the disk alone",
				d.Name, d.Content, ErrForeignData, d.Name, d.Name))
		default:
			use = append(use, d)
		}
	}
	if err := errors.Join(foreign...); err != nil {
		return nil, err
	}
	if len(use) == 0 {
		var why []string
		for _, s := range p.plan.Skipped {
			why = append(why, s.Disk+": "+s.Reason)
		}
		if len(why) == 0 {
			why = []string{"the server has no disks"}
		}
		return nil, fmt.Errorf("%w: %s; add a disk of at least 1 GiB that is neither removable nor in use",
			ErrNoDisks, strings.Join(why, ", "))
	}
	if n := len(p.plan.Skipped); n > 0 {
		p.why("%s left alone: excluded, removable, read-only, in use or too small", api.Plural(n, "disk"))
	}
	return use, nil
}

// split tells data disks from faster ones beside them (rule 3).
func (p *planner) split(disks []api.Disk) (data laid, fast []api.Disk, solid bool, err error) {
	var ssd, hdd []api.Disk
	for _, d := range disks {
		if d.SolidState {
			ssd = append(ssd, d)
		} else {
			hdd = append(hdd, d)
		}
	}
	onHDD, errHDD := p.kind(hdd, "hdd", "rotational disk")
	onSSD, errSSD := p.kind(ssd, "ssd", "solid-state disk")
	switch {
	case errHDD != nil && errSSD != nil:
		// The kind there is, and that may carry data, says why it does not.
		if p.opt.DataOn == "ssd" || p.opt.DataOn == "" && len(hdd) == 0 {
			return laid{}, nil, false, errSSD
		}
		return laid{}, nil, false, errHDD
	case len(ssd) == 0:
		p.why("all %s rotational", does(len(hdd), "disk", "is", "are"))
		return onHDD, nil, false, nil
	case len(hdd) == 0:
		p.why("all %s solid-state: no separate log or cache devices", does(len(ssd), "disk", "is", "are"))
		return onSSD, nil, true, nil
	}
	switch {
	case p.opt.DataOn != "":
		p.why("data on %s was asked for", p.opt.DataOn)
	case errHDD != nil:
		p.why("the layout is not possible with the rotational disks")
	case errSSD != nil:
		p.why("the layout is not possible with the solid-state disks")
	default:
		p.why("rotational disks give a pool of %s, solid-state disks one of %s", size(onHDD.capacity), size(onSSD.capacity))
	}
	if errSSD != nil || errHDD == nil && onHDD.capacity >= onSSD.capacity {
		p.why("%s the data, %s log and cache", does(len(hdd), "rotational disk", "carries", "carry"), does(len(ssd), "solid-state disk", "becomes", "become"))
		return onHDD, ssd, false, nil
	}
	for _, d := range hdd {
		p.skip(d, "rotational, and the pool is made of solid-state disks")
	}
	p.why("%s the data; rotational disks are too slow to serve them", does(len(ssd), "solid-state disk", "carries", "carry"))
	return onSSD, nil, true, nil
}

// kind lays out the disks of one kind, when there are any and they may carry data.
func (p *planner) kind(disks []api.Disk, kind, what string) (laid, error) {
	switch {
	case p.opt.DataOn != "" && p.opt.DataOn != kind:
		return laid{}, fmt.Errorf("%w: data on %s was asked for", ErrImpossible, p.opt.DataOn)
	case len(disks) == 0:
		return laid{}, fmt.Errorf("%w: data on %s was asked for, and there is no usable %s; leave out --data-on", ErrImpossible, kind, what)
	}
	return lay(disks, p.opt)
}

// data puts the data part into the plan.
func (p *planner) data(l laid) {
	if l.survives() == 0 {
		p.plan.Why = slices.Insert(p.plan.Why, 0, "this pool survives no failure: all data is on one disk, without redundancy")
	}
	p.plan.Layout, p.plan.Vdevs, p.plan.Spares, p.plan.CapacityBytes = l.layout, l.members, byName(l.spare), l.capacity
	p.plan.Survives = l.survives()
	p.plan.ReadIOPS, p.plan.WriteIOPS = l.iops()
	p.plan.Skipped = append(p.plan.Skipped, l.skipped...)
	p.plan.Why = append(p.plan.Why, l.why...)
}

// fast places solid-state disks beside a rotational pool.
func (p *planner) fast(disks []api.Disk) {
	slices.SortStableFunc(disks, func(a, b api.Disk) int { return cmp.Compare(a.SizeBytes, b.SizeBytes) })
	n := min(len(disks), 2)
	log, rest := disks[:n], disks[n:]
	switch n {
	case 0:
		return
	case 1:
		p.plan.Log = []api.Vdev{{Type: "disk", Disks: diskNames(log)}}
		p.why("one solid-state disk: log device, not mirrored")
		return
	}
	p.plan.Log = []api.Vdev{{Type: "mirror", Disks: byName(log)}}
	switch {
	case len(rest) == 0:
		p.why("the two solid-state disks are a mirrored log")
		return
	case p.opt.NoCache:
		for _, d := range rest {
			p.skip(d, "solid-state, and no cache devices were asked for")
		}
		p.why("the two smallest solid-state disks are a mirrored log, and none is cache")
		return
	}
	p.plan.Cache = byName(rest)
	p.why("the two smallest solid-state disks are a mirrored log, the others cache")
}

// alternatives are the two next best pools of the same disks, mirrors first,
// since they are the fastest. One that is in nothing better than the plan is none.
func alternatives(disks []api.Disk, o Options, plan api.PoolPlan, solid bool) []api.PoolOption {
	type ask struct {
		layout, kind string
		width        int
		words        string
	}
	kind, other := "hdd", "ssd"
	if solid {
		kind, other = other, kind
	}
	order := []string{"raidz2", "raidz3", "raidz1"}
	if n := len(planDisks(plan)); n < 8 {
		order = []string{"raidz2", "raidz1", "raidz3"}
	}
	asks := []ask{{"mirror", kind, 0, "--layout mirror"}}
	if plan.Survives == 0 && o.DataOn == "" {
		asks = slices.Insert(asks, 0, ask{o.Layout, other, o.Width, "--data-on " + other})
	}
	for _, l := range order {
		asks = append(asks, ask{l, kind, 0, "--layout " + l})
	}
	asks = append(asks, ask{"mirror", kind, 3, "--layout mirror --width 3"})
	var out []api.PoolOption
	seen := map[string]bool{plan.Digest: true}
	for _, a := range asks {
		with := o
		with.Layout, with.Width, with.DataOn = a.layout, a.width, a.kind
		p, _, err := layout(disks, with)
		if err != nil || seen[p.Digest] || len(out) == 2 || p.CapacityBytes <= plan.CapacityBytes && p.Survives <= plan.Survives && p.ReadIOPS <= plan.ReadIOPS {
			continue
		}
		seen[p.Digest] = true
		out = append(out, api.PoolOption{
			Ask: a.words, Layout: p.Layout, Width: len(p.Vdevs[0].Disks), Vdevs: len(p.Vdevs), Spares: len(p.Spares), CapacityBytes: p.CapacityBytes,
			Survives: p.Survives, ReadIOPS: p.ReadIOPS, WriteIOPS: p.WriteIOPS,
		})
	}
	return out
}

func diskNames(disks []api.Disk) []string {
	var names []string
	for _, d := range disks {
		names = append(names, d.Name)
	}
	return names
}

func byName(disks []api.Disk) []string {
	names := diskNames(disks)
	slices.SortFunc(names, naturalCompare)
	return names
}

// does is a number of things and what they do: "1 disk is", "2 disks are".
func does(n int, what, one, many string) string {
	if n == 1 {
		many = one
	}
	return api.Plural(n, what) + " " + many
}

func size(n int64) string {
	if n < 1e12 {
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.1f TB", float64(n)/1e12)
}
