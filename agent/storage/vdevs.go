package storage

import (
	"cmp"
	"fmt"
	"slices"

	"nereid/api"
)

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

// maxWidth bounds the vdevs an operator may ask for.
const maxWidth = 24

// widths are the shape of a layout's vdevs as the options want them.
func widths(layout string, width int) (shape, error) {
	sh, raidz := shapes(layout)
	switch {
	case !raidz && layout == "mirror":
		width = cmp.Or(width, 2)
		return shape{width - 1, width, width}, nil
	case !raidz && width > 1:
		return shape{}, fmt.Errorf("%w: layout single uses one disk; leave out --width", ErrImpossible)
	case !raidz:
		return shape{0, 1, 1}, nil
	case width != 0 && width < sh.min:
		return shape{}, fmt.Errorf("%w: %s needs vdevs of at least %d disks; want --width %d to %d", ErrImpossible, layout, sh.min, sh.min, maxWidth)
	case width != 0:
		return shape{sh.parity, width, width}, nil
	}
	return sh, nil
}

// arrangement is how a number of like disks becomes vdevs.
type arrangement struct {
	layout               string
	parity, width, vdevs int
	spares, idle         int
}

func (a arrangement) data() int { return a.vdevs * (a.width - a.parity) }

// survives is how many disks may fail, whichever they are.
func (a arrangement) survives() int { return a.parity }

// iops are those of random reads and writes, as a multiple of one disk's: each
// disk of a mirror reads by itself, a raidz vdev acts as one disk.
func (a arrangement) iops() (reads, writes int) {
	if a.layout == "mirror" {
		return a.vdevs * a.width, a.vdevs
	}
	return a.vdevs, a.vdevs
}

// leastSpares is how many hot spares n disks get when nobody says how many.
// Narrow vdevs are cheaper to widen by a parity disk than to give a spare.
func leastSpares(layout string, n int) int {
	switch {
	case layout == "mirror" && n >= 8:
		return (n + 15) / 16
	case layout == "raidz1" && n >= 7, (layout == "raidz2" || layout == "raidz3") && n >= 12:
		return (n + 23) / 24
	}
	return 0
}

// arrange makes vdevs of one layout of n disks. When the number of spares is not
// given, what no vdev takes is a spare. Otherwise: an automatic plan takes the
// width that leaves the fewest disks idle, a layout that was asked for the one
// that gives the most data disks.
func arrange(layout string, n int, o Options) (arrangement, error) {
	sh, err := widths(layout, o.Width)
	if err != nil {
		return arrangement{}, err
	}
	least, most := leastSpares(layout, n), n-sh.min
	if o.Spares != nil {
		least, most = *o.Spares, *o.Spares
	} else {
		least = min(least, max(most, 0))
	}
	if n-least < sh.min {
		return arrangement{}, fmt.Errorf("%w: %s needs at least %s, and %s less %s leave too few; ask for fewer spares, a narrower layout, or add disks",
			ErrImpossible, layout, api.Plural(sh.min, "disk"), api.Plural(n, "disk"), api.Plural(least, "spare"))
	}
	var best arrangement
	for s := least; s <= most; s++ {
		for w := sh.min; w <= sh.max && w <= n-s; w++ {
			a := arrangement{layout: layout, parity: sh.parity, width: w, vdevs: (n - s) / w, spares: s, idle: (n - s) % w}
			if o.Spares == nil && a.idle > 0 {
				continue
			}
			better := cmp.Or(cmp.Compare(a.data(), best.data()), cmp.Compare(best.idle, a.idle))
			if o.Layout == "" {
				better = cmp.Or(cmp.Compare(best.idle, a.idle), cmp.Compare(a.data(), best.data()))
			}
			if best.vdevs == 0 || better > 0 {
				best = a
			}
		}
	}
	return best, nil
}

// bigDisk is the size over which a rebuild takes so long that a second failure
// has to be survived.
const bigDisk = 1500 * 1000 * 1000 * 1000

// preferences are the layouts for n disks that are not spares, the best first:
// redundancy weighed as Triton does since 2019.
func preferences(n int, solid bool, size int64) (layouts []string, why string) {
	switch {
	case n == 1:
		return []string{"single"}, "one disk: single, without redundancy"
	case n == 2:
		return []string{"mirror"}, "two disks: a mirror"
	case n <= 4:
		return []string{"raidz1", "mirror", "raidz2"}, "3 or 4 disks: raidz1"
	case n <= 7:
		return []string{"raidz2", "raidz3", "mirror", "raidz1"}, "5 to 7 disks: raidz2, which survives two failures"
	case solid:
		return []string{"raidz2", "raidz3", "mirror", "raidz1"}, "8 or more solid-state disks: raidz2, wide sets split"
	case size > bigDisk:
		return []string{"raidz2", "raidz3", "mirror", "raidz1"}, "8 or more disks over 1.5 TB, slow to rebuild: raidz2, wide sets split"
	}
	return []string{"mirror", "raidz2", "raidz3", "raidz1"}, "8 or more rotational disks up to 1.5 TB: mirrors with spares"
}

// choose is the arrangement of n like disks: of the layout that is asked for, or
// of the best that leaves no disk idle which another would use.
func choose(n int, solid bool, size int64, o Options) (best arrangement, why string, err error) {
	if o.Layout != "" {
		best, err = arrange(o.Layout, n, o)
		return best, fmt.Sprintf("layout %s was asked for", o.Layout), err
	}
	use := n
	if o.Spares != nil {
		use = n - *o.Spares
	}
	if o.Spares != nil && *o.Spares > 0 && use < 2 {
		_, err := arrange("mirror", n, o)
		return arrangement{}, "", cmp.Or(err, fmt.Errorf("%w: %s of %s leave nothing a spare could rebuild from", ErrImpossible,
			api.Plural(*o.Spares, "spare"), api.Plural(n, "disk")))
	}
	order, why := preferences(use, solid, size)
	for i, layout := range order {
		a, e := arrange(layout, n, o)
		switch {
		case e != nil:
			err = cmp.Or(err, e)
		case best.vdevs == 0 || a.idle < best.idle:
			if best = a; i > 0 {
				why = fmt.Sprintf("%s: %s leaves fewer disks idle than %s", api.Plural(use, "disk"), layout, order[0])
				if o.Width > 0 {
					why = fmt.Sprintf("vdevs of %d disks were asked for: %s", o.Width, layout)
				}
			}
		}
	}
	if best.vdevs == 0 {
		return best, "", err
	}
	return best, why, nil
}

// laid is the data part of a pool: its vdevs and spares.
type laid struct {
	arrangement
	members  []api.Vdev
	spare    []api.Disk
	capacity int64
	skipped  []api.Skip
	why      []string
}

func (l *laid) say(format string, args ...any) { l.why = append(l.why, fmt.Sprintf(format, args...)) }

func (l *laid) skip(d api.Disk, format string, args ...any) {
	l.skipped = append(l.skipped, api.Skip{Disk: d.Name, Reason: fmt.Sprintf(format, args...)})
}

// add makes a vdev; disks come smallest first.
func (l *laid) add(disks []api.Disk) {
	kind := l.layout
	if kind == "single" {
		kind = "disk"
	}
	l.members = append(l.members, api.Vdev{Type: kind, Disks: byName(disks)})
	l.capacity += int64(l.width-l.parity) * disks[0].SizeBytes
	l.vdevs = len(l.members)
}

// lay makes the data part of a pool of disks of one kind: of those that are of
// like size, and of more vdevs of the same width from the others; or of mirrors
// of like disks, where these give no smaller a pool and use more disks.
func lay(disks []api.Disk, o Options) (laid, error) {
	disks = slices.Clone(disks)
	slices.SortStableFunc(disks, func(a, b api.Disk) int { return cmp.Compare(a.SizeBytes, b.SizeBytes) })
	if o.Layout == "single" {
		return single(disks, o)
	}
	like, first := similar(disks)
	a, why, err := choose(len(like), like[0].SolidState, like[0].SizeBytes, o)
	var l laid
	if err == nil {
		l = layLike(disks, like, first, a, why)
	}
	if len(like) == len(disks) || o.Layout != "" && o.Layout != "mirror" {
		return l, err
	}
	if o.Layout == "" {
		why = "mirrors of like disks use more of them and give no smaller a pool"
	}
	m := layMirrors(disks, o, why)
	if a, e := arrange("mirror", len(like), o); e == nil {
		if w := layLike(disks, like, first, a, why); w.capacity >= m.capacity {
			m = w
		}
	}
	if len(m.members) > 0 && (err != nil || m.capacity >= l.capacity && len(m.skipped) < len(l.skipped)) {
		return m, nil
	}
	return l, err
}

func single(disks []api.Disk, o Options) (laid, error) {
	if o.Spares != nil && *o.Spares > 0 {
		return laid{}, fmt.Errorf("%w: layout single uses one disk and has nothing a spare could rebuild from; use mirror", ErrImpossible)
	}
	sh, err := widths("single", o.Width)
	l := laid{arrangement: arrangement{layout: "single", width: sh.max}}
	if err != nil {
		return l, err
	}
	l.say("layout single was asked for")
	largest := disks[len(disks)-1]
	for _, d := range disks {
		if d.SizeBytes == largest.SizeBytes {
			largest = d // the first by name
			break
		}
	}
	for _, d := range disks {
		if d.Name != largest.Name {
			l.skip(d, "layout single uses one disk, the largest")
		}
	}
	l.add([]api.Disk{largest})
	return l, nil
}

// layLike lays out the disks of like size, which begin at first, and what of the
// others makes vdevs of the same width.
func layLike(disks, like []api.Disk, first int, a arrangement, why string) laid {
	l := laid{arrangement: a}
	l.spare = like[len(like)-a.spares:]
	for _, d := range like[:a.idle] {
		l.skip(d, "too few are left for another %s of %d disks", a.layout, a.width)
	}
	for part := range slices.Chunk(like[a.idle:len(like)-a.spares], a.width) {
		l.add(part)
	}
	// A spare has to be able to stand in for any disk.
	larger := disks[first+len(like):]
	others := slices.Clone(disks[:first])
	if a.spares == 0 {
		others = append(others, larger...)
		larger = nil
	}
	more, left := parts(others, a.width)
	if a.width < 2 {
		more, left = nil, others
	}
	for _, part := range more {
		l.add(part)
	}
	for _, d := range append(left, larger...) {
		l.skip(d, "its size (%s) does not match the others (%s)", size(d.SizeBytes), size(like[0].SizeBytes))
	}
	alike := len(like) < 2 || like[len(like)-1].SizeBytes <= tenth(like[0])
	switch {
	case !alike:
		l.say("no two disks are of similar size: the two largest, at the size of the smaller")
	case len(more) > 0:
		l.say("disks of similar size (within 10 %%) go together in vdevs of %d", a.width)
	case len(like) < len(disks):
		l.say("%s of similar size (within 10 %%) give the most capacity", api.Plural(len(like), "disk"))
	case len(like) > 1:
		l.say("%s of similar size (within 10 %%)", does(len(like), "data disk", "is", "are"))
	}
	l.say("%s", why)
	l.sayVdevs()
	return l
}

func (l *laid) sayVdevs() {
	if l.layout != "single" {
		l.say("%s of %d disks, %s", api.Plural(l.vdevs, l.layout+" vdev"), l.width, api.Plural(len(l.spare), "spare"))
	}
}

// layMirrors makes mirrors of disks of like size, whatever sizes there are; none
// when no two are alike.
func layMirrors(disks []api.Disk, o Options, why string) laid {
	width := cmp.Or(o.Width, 2)
	l := laid{arrangement: arrangement{layout: "mirror", width: width, parity: width - 1}}
	spares := leastSpares("mirror", len(disks))
	if o.Spares != nil {
		spares = *o.Spares
	}
	if spares >= len(disks) {
		return l
	}
	use := disks[:len(disks)-spares]
	groups, left := parts(use, width)
	if len(groups) == 0 {
		return l
	}
	for _, g := range groups {
		l.add(g)
	}
	l.spare = slices.Clone(disks[len(use):])
	for _, d := range left {
		if o.Spares == nil && d.SizeBytes >= groups[0][0].SizeBytes {
			l.spare = append(l.spare, d)
			continue
		}
		l.skip(d, "there is no disk of similar size (%s) to mirror it", size(d.SizeBytes))
	}
	l.say("disks of similar size (within 10 %%) are mirrored")
	l.say("%s", why)
	l.sayVdevs()
	return l
}

// parts cuts disks, smallest first, into groups of width disks of similar size.
func parts(disks []api.Disk, width int) (groups [][]api.Disk, left []api.Disk) {
	for len(disks) > 0 {
		if width > 0 && len(disks) >= width && disks[width-1].SizeBytes <= tenth(disks[0]) {
			groups, disks = append(groups, disks[:width]), disks[width:]
			continue
		}
		left, disks = append(left, disks[0]), disks[1:]
	}
	return groups, left
}

// tenth is a disk's size and a tenth of it.
func tenth(d api.Disk) int64 { return d.SizeBytes + d.SizeBytes/10 }

// similar are the disks, smallest first, of one size that have the most capacity
// together, and where they begin; the two largest when no two are of similar size.
func similar(disks []api.Disk) (like []api.Disk, first int) {
	first, n := max(len(disks)-2, 0), min(len(disks), 2)
	var best int64
	for i, d := range disks {
		j := i
		for j < len(disks) && disks[j].SizeBytes <= tenth(d) {
			j++
		}
		if c := int64(j-i) * d.SizeBytes; j-i >= 2 && c > best {
			first, n, best = i, j-i, c
		}
	}
	return disks[first : first+n], first
}
