package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"nereid/api"
)

// Limits of what Layout accepts. A pool needs room for its labels and
// datasets; a gigabyte keeps the disks of a lab and leaves out the virtual
// floppies and card readers of management controllers.
const (
	MinDiskBytes = 1 << 30
	maxDiskBytes = 1 << 52
	maxDisks     = 1024
)

// Reasons for which Layout refuses, for errors.Is.
var (
	ErrForeignData = errors.New("disk carries foreign data")
	ErrNoDisks     = errors.New("no usable disk")
	ErrImpossible  = errors.New("layout is not possible with these disks")
	ErrDiskList    = errors.New("list of disks is not valid")
)

// Options say how Layout may use the disks. Disks are named by kernel name, id,
// or either as a path below /dev.
type Options struct {
	Layout  string   // single, mirror, raidz1, raidz2 or raidz3; empty: chosen
	Width   int      // disks of a vdev; 0: chosen
	Spares  *int     // hot spares; nil: chosen
	DataOn  string   // hdd or ssd: the kind of disk that carries the data; empty: chosen
	NoCache bool     // no cache devices
	Exclude []string // disks to leave alone
	Wipe    []string // disks whose foreign data may be destroyed
	// Distinct are disks that are different ones, whatever their WWN, model and serial number say.
	Distinct []string
}

// Plan is the plan Setup follows for spec: Layout with the options of spec.
func Plan(spec api.SetupSpec, disks []api.Disk) (api.PoolPlan, error) {
	return Layout(disks, Options{
		Layout: spec.Layout, Width: spec.Width, Spares: spec.Spares, DataOn: spec.DataOn, NoCache: spec.NoCache,
		Exclude: spec.Exclude, Wipe: spec.Wipe, Distinct: spec.Distinct,
	})
}

// RunLayout reads a JSON list of api.Disk from in and writes the api.PoolPlan as
// indented JSON to out.
func RunLayout(in io.Reader, o Options, out io.Writer) error {
	dec := json.NewDecoder(io.LimitReader(in, 4<<20))
	var disks []api.Disk
	if err := dec.Decode(&disks); err != nil {
		return fmt.Errorf("read list of disks: %w; want a JSON list as [{\"name\":\"sda\",\"size_bytes\":1000204886016}]", err)
	}
	plan, err := Layout(disks, o)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(plan); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return nil
}

// Layout chooses which disks make up a pool, and how, and shows the two next
// best. It is a pure function and does not depend on the order of disks. The
// rules, in order:
//
//  1. Excluded, removable, USB, read-only, in-use disks and those under
//     MinDiskBytes are left alone.
//  2. Two paths to one disk refuse the plan, and so does a disk with foreign
//     data that is not in Options.Wipe.
//  3. The kind of disk that gives the larger pool carries the data, even without
//     redundancy. Solid-state disks beside rotational ones become log (two
//     smallest, mirrored) and cache devices; rotational disks beside solid-state
//     ones that carry the data are left alone.
//  4. Disks of similar size (within 10 %) make up a vdev. Those that have the
//     most capacity together decide the layout, the others add vdevs of the same
//     width; mirrors of like pairs are taken instead where they give no smaller
//     a pool and use more disks. When no two are similar, the two largest.
//  5. The layout is that of preferences, or the next of them that leaves fewer
//     disks idle.
//  6. Spares: see leastSpares, and what makes the vdevs equally wide.
func Layout(disks []api.Disk, o Options) (api.PoolPlan, error) {
	plan, solid, err := layout(disks, o)
	if err != nil {
		return api.PoolPlan{}, err
	}
	plan.Alternatives = alternatives(disks, o, plan, solid)
	return plan, nil
}

// layout is Layout without the alternatives; solid: solid-state disks carry the data.
func layout(disks []api.Disk, o Options) (plan api.PoolPlan, solid bool, err error) {
	p := planner{opt: o}
	if err := p.check(disks); err != nil {
		return api.PoolPlan{}, false, err
	}
	disks = slices.Clone(disks)
	slices.SortFunc(disks, func(a, b api.Disk) int { return naturalCompare(a.Name, b.Name) })
	usable, err := p.usable(disks)
	if err != nil {
		return api.PoolPlan{}, false, err
	}
	data, fast, solid, err := p.split(usable)
	if err != nil {
		return api.PoolPlan{}, false, err
	}
	p.data(data)
	p.fast(fast)
	slices.SortFunc(p.plan.Skipped, func(a, b api.Skip) int { return naturalCompare(a.Disk, b.Disk) })
	p.plan.Digest = planDigest(p.plan)
	return p.plan, solid, nil
}

// planDigest covers what decides where data goes, not the words about it.
func planDigest(p api.PoolPlan) string {
	b, err := json.Marshal(struct {
		Layout string
		Vdevs  []api.Vdev
		Log    []api.Vdev
		Cache  []string
		Spares []string
	}{p.Layout, p.Vdevs, p.Log, p.Cache, p.Spares})
	if err != nil {
		return "" // strings always marshal
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

type planner struct {
	opt  Options
	plan api.PoolPlan
}

func (p *planner) why(format string, args ...any) {
	p.plan.Why = append(p.plan.Why, fmt.Sprintf(format, args...))
}

func (p *planner) skip(d api.Disk, format string, args ...any) {
	p.plan.Skipped = append(p.plan.Skipped, api.Skip{Disk: d.Name, Reason: fmt.Sprintf(format, args...)})
}

// check refuses lists and options that cannot be meant.
func (p *planner) check(disks []api.Disk) error {
	if len(disks) > maxDisks {
		return fmt.Errorf("%w: it has %d disks, at most %d can be planned", ErrDiskList, len(disks), maxDisks)
	}
	seen := make(map[string]bool, len(disks))
	for _, d := range disks {
		switch {
		case d.Name == "" || strings.ContainsAny(d.Name, "/ \t\n"):
			return fmt.Errorf("%w: disk name %q; want a kernel name as sda", ErrDiskList, d.Name)
		case seen[d.Name]:
			return fmt.Errorf("%w: disk %s is listed twice", ErrDiskList, d.Name)
		case d.SizeBytes < 0 || d.SizeBytes > maxDiskBytes:
			return fmt.Errorf("%w: disk %s has a size of %d bytes", ErrDiskList, d.Name, d.SizeBytes)
		}
		seen[d.Name] = true
	}
	for _, list := range []struct {
		what  string
		names []string
	}{{"exclude", p.opt.Exclude}, {"wipe", p.opt.Wipe}, {"distinct", p.opt.Distinct}} {
		for _, n := range list.names {
			if !slices.ContainsFunc(disks, func(d api.Disk) bool { return isDisk(d, n) }) {
				return fmt.Errorf("%w: %s names disk %q, which this server does not have; its disks are %s",
					ErrDiskList, list.what, n, strings.Join(diskNames(disks), ", "))
			}
		}
	}
	if p.opt.Spares != nil && *p.opt.Spares < 0 {
		return fmt.Errorf("%w: %d spares; want 0 or more", ErrImpossible, *p.opt.Spares)
	}
	if p.opt.Width != 0 && (p.opt.Width < 2 || p.opt.Width > maxWidth) {
		return fmt.Errorf("%w: vdevs of %d disks; want a width of 2 to %d", ErrImpossible, p.opt.Width, maxWidth)
	}
	if !slices.Contains([]string{"", "hdd", "ssd"}, p.opt.DataOn) {
		return fmt.Errorf("%w: data on %q; want hdd, ssd or none for the automatic choice", ErrImpossible, p.opt.DataOn)
	}
	if _, ok := shapes(p.opt.Layout); !ok && !slices.Contains([]string{"", "single", "mirror"}, p.opt.Layout) {
		return fmt.Errorf("%w: there is no layout %q; want single, mirror, raidz1, raidz2, raidz3 or none for the automatic choice",
			ErrImpossible, p.opt.Layout)
	}
	return nil
}

// isDisk reports whether an operator who wrote name means d.
func isDisk(d api.Disk, name string) bool {
	id := strings.TrimPrefix(d.ID, "/dev/disk/by-id/")
	name = strings.TrimPrefix(name, "/dev/")
	name = strings.TrimPrefix(name, "disk/by-id/")
	return name == d.Name || id != "" && name == id
}

func named(d api.Disk, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return isDisk(d, n) })
}
