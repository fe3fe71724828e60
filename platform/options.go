package platform

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"nereid/api"
)

// Flavours of Debian's kernel a platform can be built with.
const (
	FlavourGeneric = "amd64"       // drivers for real hardware
	FlavourCloud   = "cloud-amd64" // virtual machines only: about half the size
)

// Options says what to build. Out is required; the zero value of the rest is a
// generic platform of the default suite from the machine's own mirror.
type Options struct {
	Out      string // directory the platform is written to; replaced as a whole
	Cache    string // default: the user's cache directory + /nereid
	Module   string // directory of the Go module nereid, for building stub and agent; default: the working directory
	Suite    string // Debian suite; default trixie
	Flavour  string // FlavourGeneric (default) or FlavourCloud
	Mirror   string // base URL of a Debian mirror; default: from the machine's apt configuration
	From     string // packages.json of an earlier build: use exactly those packages
	Key      string // PEM file of the signing key, made when missing; default: platform.key in Cache
	Stamp    string // name of the platform, YYYYMMDDTHHMMSSZ; default: now, or that of Out when nothing changed
	QEMU     bool   // with the qemu layer
	Firmware bool   // with the firmware layer
	Refresh  bool   // ask the mirror for newer packages even when it was asked within a day

	Agent   string // path of a built nereid-agent; empty: built from Module
	Stub    string // path of a built nereid-stub; empty: built from Module
	Zone    string // path of a built nereid-zone; empty: built from Module
	Unit    string // the agent's systemd unit; default: agent/nereid-agent.service in Module
	Version string // agent version for the manifest; default: the stamp

	Progress io.Writer        // lines for people; nil: none
	Live     bool             // Progress is a terminal: long steps rewrite one line
	Now      func() time.Time // clock; nil: time.Now
}

// Result is what a build made.
type Result struct {
	Manifest  api.Manifest
	Signed    api.SignedManifest
	PublicKey string // base64, as in api.BootConfig.PlatformKey
	Unchanged bool   // Out already held exactly this platform
	Stages    []StageResult
	LayerSum  int64 // compressed bytes of all layers, which stay in the node's RAM
}

// StageResult says how a stage went.
type StageResult struct {
	Name    string
	Key     string
	Cached  bool
	Elapsed time.Duration
	Files   []api.File
}

var (
	stampRE = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)
	suiteRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,40}$`)
)

// complete fills in defaults and refuses what cannot be built.
func (o Options) complete() (Options, error) {
	if o.Out == "" {
		return o, errors.New("platform build: no output directory given; say --out DIR")
	}
	if o.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("platform build: no cache directory (say --cache DIR): %w", err)
		}
		o.Cache = filepath.Join(dir, "nereid")
	}
	for _, p := range []*string{&o.Out, &o.Cache} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return o, fmt.Errorf("platform build: %w", err)
		}
		*p = abs
	}
	setDefault(&o.Module, ".")
	setDefault(&o.Suite, "trixie")
	setDefault(&o.Flavour, FlavourGeneric)
	setDefault(&o.Key, filepath.Join(o.Cache, "platform.key"))
	setDefault(&o.Unit, filepath.Join(o.Module, "agent", "nereid-agent.service"))
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	switch {
	case o.Flavour != FlavourGeneric && o.Flavour != FlavourCloud:
		return o, fmt.Errorf("platform build: flavour %q: want %s (real hardware) or %s (virtual machines)", o.Flavour, FlavourGeneric, FlavourCloud)
	case !suiteRE.MatchString(o.Suite):
		return o, fmt.Errorf("platform build: suite %q: want the name of a Debian suite, as trixie", o.Suite)
	case o.Stamp != "" && !stampRE.MatchString(o.Stamp):
		return o, fmt.Errorf("platform build: stamp %q: want YYYYMMDDTHHMMSSZ", o.Stamp)
	}
	return o, replaceable(o.Out)
}

func setDefault(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

// replaceable refuses an output directory that holds something else than a platform.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("platform build: read output directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err != nil {
		return fmt.Errorf("platform build: %s is not empty and holds no platform; it would be replaced, so give another directory or empty it", dir)
	}
	return nil
}
