package platform

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// build is one run of Build.
type build struct {
	Options
	show   *progress
	stages *stages
	debs   debs
	list   PackageList
	pkgs   map[string][]Package // by stage
	zfs    string               // upstream version
}

// Build makes a platform in o.Out. What an earlier build made of the same inputs
// is taken from the cache; cancelling ctx ends it at once and leaves o.Out as it was.
func Build(ctx context.Context, o Options) (Result, error) {
	o, err := o.complete()
	if err != nil {
		return Result{}, err
	}
	if err := checkMachine(); err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return Result{}, fmt.Errorf("platform build: make cache: %w", err)
	}
	show := &progress{w: o.Progress, live: o.Live, now: o.Now}
	b := &build{
		Options: o, show: show,
		stages: &stages{cache: o.Cache, show: show, now: o.Now},
	}
	res, err := b.all(ctx)
	if err != nil {
		return res, fmt.Errorf("platform build: %w", err)
	}
	return res, nil
}

// all runs the stages in order; each needs only those before it.
func (b *build) all(ctx context.Context) (Result, error) {
	if err := b.choose(ctx); err != nil {
		return Result{}, err
	}
	mods, err := b.modules(ctx)
	if err != nil {
		return Result{}, err
	}
	b.pkgs["modules"] = mods.Packages // those the modules were really made with
	tree, err := b.kernelTree(ctx, mods)
	if err != nil {
		return Result{}, err
	}
	kernel, err := b.kernelLayer(ctx, tree)
	if err != nil {
		return Result{}, err
	}
	base, err := b.base(ctx)
	if err != nil {
		return Result{}, err
	}
	parts := parts{tree: tree, layers: []made{base, kernel}}
	if b.Firmware {
		if parts.firmware, err = b.firmware(ctx, tree); err != nil {
			return Result{}, err
		}
		parts.layers = append(parts.layers, parts.firmware)
	}
	if b.QEMU {
		qemu, err := b.qemu(ctx, base)
		if err != nil {
			return Result{}, err
		}
		parts.layers = append(parts.layers, qemu)
	}
	drivers, err := b.drivers(ctx, tree, parts.firmware)
	if err != nil {
		return Result{}, err
	}
	if parts.initrd, err = b.initrd(ctx, drivers); err != nil {
		return Result{}, err
	}
	res, err := b.finish(ctx, parts, base)
	if err != nil {
		return res, err
	}
	return res, b.stages.prune()
}

// choose fixes the packages of every stage: from the list given, or by asking apt.
func (b *build) choose(ctx context.Context) error {
	b.show.begin("packages", "which packages, from which mirror")
	logs := filepath.Join(b.Cache, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	path := filepath.Join(logs, "packages.log")
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	defer log.Close()
	r := &runner{log: log, path: path, tick: b.show.tick}

	arch, err := b.archives(ctx, r)
	if err != nil {
		return err
	}
	if b.From != "" {
		if err := b.chooseFrom(); err != nil {
			return err
		}
	} else {
		unlock, err := b.stages.lock(ctx, "apt") // one apt at a time in our directory
		if err != nil {
			return err
		}
		err = b.chooseNew(ctx, r, arch)
		unlock()
		if err != nil {
			return err
		}
	}
	n := 0
	for _, p := range b.pkgs {
		n += len(p)
	}
	b.show.end(fmt.Sprintf("Debian %s, Linux %s, %d packages in %d stages", b.Suite, b.list.Kernel, n, len(b.pkgs)))
	return nil
}

// archives finds the mirrors, and the cache of what comes from them.
func (b *build) archives(ctx context.Context, r *runner) (archives, error) {
	arch := archives{archiveMain: b.Mirror}
	if b.Mirror == "" {
		var err error
		if arch, err = machineArchives(ctx, r); err != nil {
			return nil, err
		}
	} else if b.Mirror[len(b.Mirror)-1] != '/' {
		arch[archiveMain] += "/"
	}
	b.debs = debs{dir: filepath.Join(b.Cache, "debs"), arch: arch, now: b.Now}
	return arch, nil
}

func (b *build) chooseFrom() error {
	list, err := readPackageList(b.From)
	if err != nil {
		return err
	}
	if list.Flavour != b.Flavour || list.Suite != b.Suite {
		b.show.say("%-12s   %s says suite %s, flavour %s: building that", "", b.From, list.Suite, list.Flavour)
	}
	b.Flavour, b.Suite, b.list = list.Flavour, list.Suite, list
	b.pkgs = map[string][]Package{}
	for _, name := range b.stageNames() {
		if b.pkgs[name], err = list.stage(name); err != nil {
			return err
		}
	}
	return nil
}

// stageNames lists the stages that are made of packages.
func (b *build) stageNames() []string {
	names := []string{"modules", "kernel", "base"}
	if b.Firmware {
		names = append(names, "firmware")
	}
	if b.QEMU {
		names = append(names, "qemu")
	}
	return names
}

func (b *build) chooseNew(ctx context.Context, r *runner, arch archives) error {
	apt, err := newApt(ctx, r, b.Cache, arch, b.Suite, b.Refresh, b.Now(), b.show)
	if err != nil {
		return err
	}
	b.debs.env = slices.Clone(r.env)
	image, err := apt.kernelPackage(ctx, "linux-image", b.Flavour)
	if err != nil {
		return err
	}
	release := image[len("linux-image-"):]
	b.list = PackageList{Suite: b.Suite, Arch: debArch, Flavour: b.Flavour, Kernel: release}
	b.pkgs = map[string][]Package{}
	if b.pkgs["kernel"], err = apt.fetchOnly(ctx, image); err != nil {
		return err
	}
	want := map[string][]string{
		"modules": moduleRoots("linux-headers-" + release),
		"base":    baseRoots,
	}
	if b.QEMU {
		want["qemu"] = append(slices.Clone(baseRoots), qemuRoots...)
	}
	for name, roots := range want {
		if b.pkgs[name], err = apt.resolve(ctx, append([]string{essential}, roots...)...); err != nil {
			return err
		}
	}
	if b.QEMU {
		b.pkgs["qemu"] = without(b.pkgs["qemu"], b.pkgs["base"])
	}
	if b.Firmware {
		if b.pkgs["firmware"], err = apt.fetchOnly(ctx, firmwarePackages...); err != nil {
			return err
		}
	}
	return nil
}

// essential is apt's pattern for what every Debian system has, but for apt, which
// a platform has no use for: nothing is installed on a node, it boots another image.
const essential = "?and(?essential,?not(?exact-name(apt)))"

// without returns the packages of a that b has not.
func without(a, b []Package) []Package {
	return slices.DeleteFunc(slices.Clone(a), func(p Package) bool {
		return slices.ContainsFunc(b, func(q Package) bool { return q.Name == p.Name })
	})
}

// epochOf fetches nothing; the packages of that stage must be in the cache.
func (b *build) epochOf(stage string) (int64, error) {
	e, err := b.debs.epoch(b.pkgs[stage])
	if err != nil && errors.Is(err, os.ErrNotExist) {
		// The stage came from the cache and its packages were cleaned away.
		return 0, fmt.Errorf("%w; remove %s and build again", err, filepath.Join(b.Cache, "stages"))
	}
	return e, err
}

// parts are the stages a platform is put together from.
type parts struct {
	tree, firmware, initrd made
	layers                 []made // lowest first, without nereid
}

// packageList is packages.json of this build.
func (b *build) packageList() PackageList {
	l := b.list
	l.Stages = nil
	for _, name := range b.stageNames() {
		l.Stages = append(l.Stages, StagePackages{Stage: name, Packages: b.pkgs[name]})
	}
	return l
}
