package storage

import (
	"cmp"
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

// mirrorsUpTo is the number of bulk disks up to which mirrors are chosen;
// beyond it a pool is made of raidz2 vdevs. Triton draws the same line.
const mirrorsUpTo = 15

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
	Spares  *int     // hot spares; nil: chosen
	Exclude []string // disks to leave alone
	Wipe    []string // disks whose foreign data may be destroyed
	// Distinct are disks that are different ones, whatever their WWN, model and serial number say.
	Distinct []string
}

// shape is what a redundancy layout needs.
type shape struct {
	parity   int // disks of a vdev that hold no data
	min, max int // disks of a vdev
}

// shapes lists the raidz layouts. The least width leaves two data disks: with
// one a mirror of the same safety is faster. The greatest keeps a resilver short.
func shapes(layout string) (shape, bool) {
	switch layout {
	case "raidz1":
		return shape{1, 3, 6}, true
	case "raidz2":
		return shape{2, 4, 12}, true
	case "raidz3":
		return shape{3, 5, 14}, true
	}
	return shape{}, false
}

// Plan is the plan Setup follows for spec: Layout with the options of spec.
func Plan(spec api.SetupSpec, disks []api.Disk) (api.PoolPlan, error) {
	return Layout(disks, Options{
		Layout: spec.Layout, Spares: spec.Spares,
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

// Layout chooses which disks make up a pool, and how. It is a pure function and
// does not depend on the order of disks. The rules, in order:
//
//  1. Excluded, removable, USB, read-only, in-use disks and those under
//     MinDiskBytes are left alone.
//  2. A disk with foreign data that is not in Options.Wipe refuses the plan.
//  3. The kind of disk there is more of carries the data; with equal numbers
//     the kind with more capacity. Solid-state disks beside rotational ones
//     become log (two smallest, mirrored) and cache devices; rotational disks
//     beside solid-state ones are left alone.
//  4. Of the data disks those of similar size (within 10 %) that give the most
//     capacity are used; when no two are similar, the two largest.
//  5. One disk: single. 2 to 15: mirrors of two. More: raidz2.
//  6. Spares: the odd one of a mirror pool, two from ten disks on; with raidz
//     one per 24 disks, and what makes the vdevs equally wide.
func Layout(disks []api.Disk, o Options) (api.PoolPlan, error) {
	p := planner{opt: o}
	if err := p.check(disks); err != nil {
		return api.PoolPlan{}, err
	}
	disks = slices.Clone(disks)
	slices.SortFunc(disks, func(a, b api.Disk) int { return naturalCompare(a.Name, b.Name) })
	usable, err := p.usable(disks)
	if err != nil {
		return api.PoolPlan{}, err
	}
	bulk, fast := p.split(usable)
	if o.Layout != "single" {
		bulk = p.similar(bulk)
	}
	if err := p.bulk(bulk); err != nil {
		return api.PoolPlan{}, err
	}
	p.fast(fast)
	slices.SortFunc(p.plan.Skipped, func(a, b api.Skip) int { return naturalCompare(a.Disk, b.Disk) })
	p.plan.Digest = planDigest(p.plan)
	return p.plan, nil
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
		p.why("%s left alone: excluded, removable, read-only, in use or too small", count(n, "disk"))
	}
	return use, nil
}

// split tells data disks from faster ones beside them (rule 3).
func (p *planner) split(disks []api.Disk) (bulk, fast []api.Disk) {
	var ssd, hdd []api.Disk
	for _, d := range disks {
		if d.SolidState {
			ssd = append(ssd, d)
		} else {
			hdd = append(hdd, d)
		}
	}
	switch {
	case len(ssd) == 0:
		p.why("all %s rotational", are(len(hdd), "disk"))
		return hdd, nil
	case len(hdd) == 0:
		p.why("all %s solid-state: no separate log or cache devices", are(len(ssd), "disk"))
		return ssd, nil
	case len(hdd) > len(ssd) || len(hdd) == len(ssd) && total(hdd) > total(ssd):
		p.why("%s carry the data, %s become log and cache", count(len(hdd), "rotational disk"), count(len(ssd), "solid-state disk"))
		return hdd, ssd
	default:
		for _, d := range hdd {
			p.skip(d, "rotational, and the pool is made of solid-state disks")
		}
		p.why("%s carry the data, %s left alone as too slow beside them", count(len(ssd), "solid-state disk"), count(len(hdd), "rotational disk"))
		return ssd, nil
	}
}

// similar picks the disks that are used together (rule 4).
func (p *planner) similar(disks []api.Disk) []api.Disk {
	slices.SortStableFunc(disks, func(a, b api.Disk) int { return cmp.Compare(a.SizeBytes, b.SizeBytes) })
	first, n := max(len(disks)-2, 0), min(len(disks), 2)
	found := len(disks) < 2
	var best int64
	for i, d := range disks {
		j := i
		for j < len(disks) && disks[j].SizeBytes <= d.SizeBytes+d.SizeBytes/10 {
			j++
		}
		if c := int64(j-i) * d.SizeBytes; j-i >= 2 && c > best {
			first, n, best, found = i, j-i, c, true
		}
	}
	if n == len(disks) && found {
		if n > 1 {
			p.why("%s of similar size (within 10 %%)", are(n, "data disk"))
		}
		return disks
	}
	use := slices.Clone(disks[first : first+n])
	if found {
		p.why("%s of similar size (within 10 %%) give the most capacity", count(n, "disk"))
	} else {
		p.why("no two disks are of similar size: the two largest, at the size of the smaller")
	}
	for i, d := range disks {
		if i < first || i >= first+n {
			p.skip(d, "its size (%s) does not match the others (%s)", size(d.SizeBytes), size(use[0].SizeBytes))
		}
	}
	return use
}

// bulk lays out the data disks, which come smallest first.
func (p *planner) bulk(disks []api.Disk) error {
	n := len(disks)
	layout := p.opt.Layout
	if layout == "" {
		switch {
		case n == 1:
			layout = "single"
			p.why("one disk: single, without redundancy")
		case n <= mirrorsUpTo:
			layout = "mirror"
			p.why("2 to %d disks: mirrors of two", mirrorsUpTo)
		default:
			layout = "raidz2"
			p.why("more than %d disks: raidz2", mirrorsUpTo)
		}
	} else {
		p.why("layout %s was asked for", layout)
	}
	p.plan.Layout = layout
	switch layout {
	case "single":
		return p.single(disks)
	case "mirror":
		return p.mirrors(disks)
	}
	return p.raidz(disks, layout)
}

func (p *planner) single(disks []api.Disk) error {
	if p.opt.Spares != nil && *p.opt.Spares > 0 {
		return fmt.Errorf("%w: layout single uses one disk and has nothing a spare could rebuild from; use mirror", ErrImpossible)
	}
	d := disks[0]
	for _, c := range disks[1:] {
		if c.SizeBytes > d.SizeBytes {
			d = c
		}
	}
	for _, c := range disks {
		if c.Name != d.Name {
			p.skip(c, "layout single uses one disk, the largest")
		}
	}
	p.plan.Vdevs = []api.Vdev{{Type: "disk", Disks: []string{d.Name}}}
	p.plan.CapacityBytes = d.SizeBytes
	return nil
}

func (p *planner) mirrors(disks []api.Disk) error {
	n := len(disks)
	var spares int
	switch {
	case p.opt.Spares != nil:
		spares = *p.opt.Spares
	case n%2 == 1:
		spares = 1
	case n >= 10:
		spares = 2
	}
	if n-spares < 2 {
		return fmt.Errorf("%w: a mirror needs 2 disks, and %s less %s leave too few; ask for fewer spares, for layout single, or add disks",
			ErrImpossible, count(n, "disk"), count(spares, "spare"))
	}
	p.place(disks, "mirror", 2, 1, spares)
	return nil
}

func (p *planner) raidz(disks []api.Disk, layout string) error {
	sh, _ := shapes(layout)
	n := len(disks)
	least, most := 0, n-sh.min
	if p.opt.Spares != nil {
		least, most = *p.opt.Spares, *p.opt.Spares
	} else if n >= 5 {
		least = min((n+23)/24, most)
	}
	if n-least < sh.min {
		return fmt.Errorf("%w: %s needs at least %d disks, and %s less %s leave too few; ask for fewer spares, a narrower layout, or add disks",
			ErrImpossible, layout, sh.min, count(n, "disk"), count(least, "spare"))
	}
	best, spares, width, left := 0, 0, 0, 0
	for s := least; s <= most; s++ {
		for w := sh.min; w <= sh.max && w <= n-s; w++ {
			vdevs := (n - s) / w
			rest := (n - s) % w
			if rest > 0 && p.opt.Spares == nil {
				continue
			}
			// More data disks win, then fewer left over, then narrower vdevs.
			if c := vdevs * (w - sh.parity); c > best || c == best && rest < left {
				best, spares, width, left = c, s, w, rest
			}
		}
	}
	p.place(disks, layout, width, sh.parity, spares)
	return nil
}

// place fills vdevs of the given width from disks, smallest first, so that each
// holds disks of like size and the spares, which must be able to stand in for
// any disk, are the largest.
func (p *planner) place(disks []api.Disk, layout string, width, parity, spares int) {
	vdevs := (len(disks) - spares) / width
	left := (len(disks) - spares) % width
	for _, d := range disks[:left] {
		p.skip(d, "too few are left for another %s of %d disks", layout, width)
	}
	disks = disks[left:]
	for i := range vdevs {
		part := disks[i*width : (i+1)*width]
		p.plan.Vdevs = append(p.plan.Vdevs, api.Vdev{Type: layout, Disks: byName(part)})
		p.plan.CapacityBytes += int64(width-parity) * part[0].SizeBytes
	}
	p.plan.Spares = byName(disks[vdevs*width:])
	p.why("%s of %d disks, %s", count(vdevs, layout+" vdev"), width, count(spares, "spare"))
}

// fast places solid-state disks beside a rotational pool.
func (p *planner) fast(disks []api.Disk) {
	slices.SortStableFunc(disks, func(a, b api.Disk) int { return cmp.Compare(a.SizeBytes, b.SizeBytes) })
	switch n := len(disks); {
	case n == 0:
	case n == 1:
		p.plan.Log = []api.Vdev{{Type: "disk", Disks: diskNames(disks)}}
		p.why("one solid-state disk: log device, not mirrored")
	default:
		p.plan.Log = []api.Vdev{{Type: "mirror", Disks: byName(disks[:2])}}
		p.plan.Cache = byName(disks[2:])
		p.why("%s: the two smallest a mirrored log, %s", count(n, "solid-state disk"), count(n-2, "cache device"))
	}
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

func total(disks []api.Disk) (n int64) {
	for _, d := range disks {
		n += d.SizeBytes
	}
	return n
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func are(n int, what string) string {
	if n == 1 {
		return "1 " + what + " is"
	}
	return fmt.Sprintf("%d %ss are", n, what)
}

func size(n int64) string {
	if n < 1e12 {
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.1f TB", float64(n)/1e12)
}
