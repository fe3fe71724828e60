package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"nereid/api"
)

// Zone images that can be built.
const (
	ImageDebian = "debian" // a small Debian with systemd
	ImageTiny   = "tiny"   // BusyBox alone, for tests
)

// Files of a built zone image.
const (
	ImageFileName = "image.tar.zst"
	imageManifest = "manifest.json"
)

// ImageOptions says which image of a Linux zone to build. Kind and Out are required.
type ImageOptions struct {
	Kind    string // ImageDebian or ImageTiny
	Out     string // directory it is written to; replaced as a whole
	OCI     bool   // Out is an OCI image layout, and not manifest.json and image.tar.zst
	Cache   string // default: the user's cache directory + /nereid
	Suite   string // Debian suite; default trixie
	Mirror  string // base URL of a Debian mirror; default: from the machine's apt configuration
	Refresh bool   // ask the mirror for newer packages even when it was asked within a day

	Progress io.Writer        // lines for people; nil: none
	Live     bool             // Progress is a terminal: long steps rewrite one line
	Now      func() time.Time // clock; nil: time.Now
}

// ImageResult is what BuildImage made.
type ImageResult struct {
	Image  api.Image // as in manifest.json; of an OCI layout: of the same tree
	Stages []StageResult
}

// zoneKind is how an image of a kind is made.
type zoneKind struct {
	roots       []string // packages
	description string
	run         api.ImageRun
	memory      int // MiB that it needs
}

var zoneKinds = map[string]zoneKind{
	ImageDebian: {
		roots: []string{
			"systemd-sysv", "dbus", "iproute2", "iputils-ping", "procps", "netbase", "apt",
		},
		description: "Debian with systemd, for zones",
		run:         api.ImageRun{StopSignal: "SIGRTMIN+3"},
		memory:      64,
	},
	ImageTiny: {
		roots:       []string{"busybox-static"},
		description: "BusyBox alone, for tests of zones",
		run:         api.ImageRun{Init: []string{"/sbin/init"}, StopSignal: "SIGUSR2"}, // busybox init: power off
		memory:      16,
	},
}

// BuildImage builds the image of a Linux zone from Debian's packages, in the same stages
// and cache as a platform. The same packages give the same bytes.
func BuildImage(ctx context.Context, o ImageOptions) (ImageResult, error) {
	kind, known := zoneKinds[o.Kind]
	if !known {
		return ImageResult{}, fmt.Errorf("image build: kind %q: want %s or %s", o.Kind, ImageDebian, ImageTiny)
	}
	full, err := (Options{Out: o.Out, Cache: o.Cache, Suite: o.Suite, Mirror: o.Mirror, Refresh: o.Refresh, Progress: o.Progress, Live: o.Live, Now: o.Now}).image()
	if err != nil {
		return ImageResult{}, fmt.Errorf("image build: %w", err)
	}
	if err := checkMachine(); err != nil {
		return ImageResult{}, fmt.Errorf("image build: %w", err)
	}
	if err := os.MkdirAll(full.Cache, 0o755); err != nil {
		return ImageResult{}, fmt.Errorf("image build: make cache: %w", err)
	}
	show := &progress{w: full.Progress, live: full.Live, now: full.Now}
	b := &build{Options: full, show: show, stages: &stages{cache: full.Cache, show: show, now: full.Now}}
	res, err := b.zoneImage(ctx, o, kind)
	if err != nil {
		return res, fmt.Errorf("image build: %w", err)
	}
	return res, nil
}

// image completes the options that a zone image has in common with a platform.
func (o Options) image() (Options, error) {
	out := o.Out
	if out == "" {
		return o, errors.New("no output directory given; say --out DIR")
	}
	o.Out = filepath.Join(out, "platform") // judged below, by what an image's directory holds
	o, err := o.complete()
	if err != nil {
		return o, err
	}
	if o.Out, err = filepath.Abs(out); err != nil {
		return o, err
	}
	return o, replaceableImage(o.Out)
}

// replaceableImage refuses an output directory that holds something else than an image.
func replaceableImage(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read output directory: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{ImageFileName, imageManifest, "oci-layout", "index.json", "blobs"}, e.Name()) {
			return fmt.Errorf("%s holds %s, which is no part of an image; it would be replaced, so give another directory or empty it", dir, e.Name())
		}
	}
	return nil
}

func (b *build) zoneImage(ctx context.Context, o ImageOptions, kind zoneKind) (ImageResult, error) {
	pkgs, err := b.zonePackages(ctx, o.Kind, kind)
	if err != nil {
		return ImageResult{}, err
	}
	tree, err := b.zoneTree(ctx, o.Kind, kind, pkgs)
	if err != nil {
		return ImageResult{}, err
	}
	image, err := readImage(filepath.Join(tree.dir, imageManifest))
	if err != nil {
		return ImageResult{}, err
	}
	from := tree
	if o.OCI {
		if from, err = b.zoneOCI(ctx, o.Kind, image, tree); err != nil {
			return ImageResult{}, err
		}
	}
	if err := b.placeImage(from, o.OCI); err != nil {
		return ImageResult{}, err
	}
	return ImageResult{Image: image, Stages: b.stages.results}, nil
}

// zonePackages lets apt choose.
func (b *build) zonePackages(ctx context.Context, name string, kind zoneKind) ([]Package, error) {
	b.show.begin("packages", "which packages, from which mirror")
	logs := filepath.Join(b.Cache, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(logs, "image-packages.log")
	log, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r := &runner{log: log, path: path, tick: b.show.tick}
	arch, err := b.archives(ctx, r)
	if err != nil {
		return nil, err
	}
	unlock, err := b.stages.lock(ctx, "apt") // one apt at a time in our directory
	if err != nil {
		return nil, err
	}
	defer unlock()
	apt, err := newApt(ctx, r, b.Cache, arch, b.Suite, b.Refresh, b.Now(), b.show)
	if err != nil {
		return nil, err
	}
	b.debs.env = slices.Clone(r.env)
	var pkgs []Package
	if name == ImageTiny {
		pkgs, err = apt.fetchOnly(ctx, kind.roots...)
	} else {
		pkgs, err = apt.resolve(ctx, append([]string{essential}, kind.roots...)...)
	}
	if err != nil {
		return nil, err
	}
	b.show.end(fmt.Sprintf("Debian %s, %d packages", b.Suite, len(pkgs)))
	return pkgs, nil
}

// zoneTree makes the tree, packs it, and writes its manifest.
func (b *build) zoneTree(ctx context.Context, name string, kind zoneKind, pkgs []Package) (made, error) {
	inputs := []string{"recipe 1", "suite " + b.Suite, "roots " + strings.Join(kind.roots, " "), "excludes " + strings.Join(excludes, " "), "removed " + strings.Join(zoneRemoved, " ")}
	inputs = append(inputs, digests(pkgs)...)
	inputs = append(inputs, "programs "+strings.Join(zonePrograms, " "))
	for _, f := range zoneFiles[name] {
		inputs = append(inputs, "file "+f.path+"\n"+f.link+"\n"+f.text)
	}
	inputs = append(inputs, zoneTarOptions...)
	inputs = append(inputs, zoneZstd...)
	run, err := json.Marshal(kind.run)
	if err != nil {
		return made{}, err
	}
	inputs = append(inputs, string(run), kind.description)
	st := stage{name: "image-" + name, what: fmt.Sprintf("%s: %s, %d packages", ImageFileName, name, len(pkgs)), inputs: inputs, packages: pkgs}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		if err := b.debs.fetch(ctx, r, pkgs); err != nil {
			return err
		}
		epoch, err := b.debs.epoch(pkgs)
		if err != nil {
			return err
		}
		root := filepath.Join(scratch, "root")
		if name == ImageTiny {
			err = b.tinyTree(ctx, r, root, pkgs)
		} else {
			err = b.debs.bootstrap(ctx, r, b.Suite, scratch, root, pkgs, kind.roots, excludes)
		}
		if err != nil {
			return err
		}
		if err := furnishZone(name, root); err != nil {
			return fmt.Errorf("furnish root filesystem: %w", err)
		}
		file, err := packZone(ctx, r, root, filepath.Join(out, ImageFileName), epoch)
		if err != nil {
			return err
		}
		return writeJSON(filepath.Join(out, imageManifest), zoneManifest(name, b.Suite, kind, file, epoch), 0o644)
	}
	return b.stages.do(ctx, st)
}

// zoneManifest is the manifest of a built image. Its UUID is made from its digest, so
// that the same bytes are the same image wherever they were built.
func zoneManifest(name, suite string, kind zoneKind, file api.ImageFile, epoch int64) api.Image {
	at := time.Unix(epoch, 0).UTC()
	return api.Image{
		V: 2, UUID: uuidOf(file.UncompressedDigest), Name: name, Version: suite + "-" + at.Format("20060102"),
		Type: api.ImageLXDataset, OS: "linux", Description: kind.description, PublishedAt: at, Public: true,
		Files: []api.ImageFile{file}, Run: kind.run,
		Requirements: api.ImageRequirements{Brand: api.BrandLX, MinMemory: kind.memory},
	}
}

// uuidOf is a UUID of version 8 (RFC 9562, section 5.8) made from a digest, sha256: and
// 64 hexadecimal digits.
func uuidOf(digest string) string {
	d := strings.TrimPrefix(digest, "sha256:")
	return d[:8] + "-" + d[8:12] + "-8" + d[13:16] + "-a" + d[17:20] + "-" + d[20:32]
}

func readImage(path string) (api.Image, error) {
	var i api.Image
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &i)
	}
	if err == nil && len(i.Files) != 1 {
		err = errors.New("it has not one file")
	}
	if err != nil {
		return i, fmt.Errorf("read manifest: %w", err)
	}
	return i, nil
}

// placeImage copies a stage's output to Out, which then holds nothing else.
func (b *build) placeImage(from made, oci bool) error {
	if err := os.MkdirAll(filepath.Dir(b.Out), 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(b.Out), "."+filepath.Base(b.Out)+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if err := os.Chmod(scratch, 0o755); err != nil {
		return err
	}
	for _, f := range from.Files {
		to := filepath.Join(scratch, f.Name)
		if oci && sha256RE.MatchString(f.Name) {
			to = filepath.Join(scratch, "blobs", "sha256", f.Name)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := linkOrCopy(from.file(f.Name), to); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(b.Out); err != nil {
		return err
	}
	return os.Rename(scratch, b.Out)
}
