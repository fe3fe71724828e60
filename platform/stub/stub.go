package stub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"nereid/api"
	"nereid/images"
)

// Kernel is what the stub asks of the operating system. Steps that fail are
// called again.
type Kernel interface {
	// Drivers loads drivers for all devices, and what a root filesystem is made of.
	Drivers(ctx context.Context) error
	// Network waits for the NIC with that MAC and for its link, and configures it.
	Network(ctx context.Context, n api.BootNetwork) error
	// Assemble stacks the layer files (lowest first) into a root filesystem whose
	// writable top takes at most upper bytes, and returns where it is.
	Assemble(ctx context.Context, layers []string, upper int64) (root string, err error)
	// Enter makes root the root filesystem and becomes its init. It returns only
	// when that went wrong.
	Enter(root string) error
	// Reboot restarts the server.
	Reboot() error
}

// Machine is what the stub learns of the server. The functions may be called at any time.
type Machine struct {
	Uptime   func() float64          // seconds of the kernel's clock since it started
	Meminfo  func() (string, error)  // /proc/meminfo
	UUID     func() string           // SMBIOS UUID; empty: none
	SetClock func(time.Time) error   // set the system's clock
	Space    func(bytes int64) error // make a directory for layers (Paths.Layers) that holds so much
	OpenDisk func(path string) (Disk, error)
}

// Disk is a block device of Size bytes.
type Disk struct {
	io.ReaderAt
	io.Closer
	Size int64
}

// Paths are where things are in the initrd.
type Paths struct {
	Config string // /nereid/boot.json
	Layers string // where layer files are kept
	Run    string // /run/nereid
}

// Stub is one boot. Its fields are set before Run.
type Stub struct {
	Kernel  Kernel
	Machine Machine
	Paths   Paths
	Cmdline string // /proc/cmdline
	Console *Console
	Client  *http.Client
	Sleep   func(context.Context, time.Duration) error // nil: wait on a timer
	Backoff images.Backoff

	timings  Timings
	report   *reporter
	args     cmdline
	config   api.BootConfig
	raw      []byte // of config
	disk     *tarball
	online   bool
	signed   api.SignedManifest
	manifest *api.Manifest
	have     map[string]bool // layers that are there and verified
	root     string
	rooted   bool
	good     float64 // uptime when something last got on
}

// Times of a boot that does not get on.
const (
	giveUp     = 10 * 60.0        // seconds without any progress until the server restarts
	finalPause = 30 * time.Second // to read the sentence of a failure that a retry cannot mend
	lastReport = 3 * time.Second  // for the last events to leave before the root is switched
)

// Run boots. It returns only when ctx ends or the server restarts.
func (s *Stub) Run(ctx context.Context) error {
	s.timings.Stub = s.Machine.Uptime()
	s.good = s.timings.Stub
	s.have = map[string]bool{}
	if s.Client == nil {
		s.Client = http.DefaultClient
	}
	rctx, stop := context.WithCancel(ctx)
	s.report = startReporter(rctx, s.Client)
	defer s.report.done.Wait()
	defer stop()

	back := s.Backoff
	for {
		err := s.boot(ctx, &back)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait := back.Next()
		var fin *final
		stuck := s.Machine.Uptime()-s.good > giveUp
		if errors.As(err, &fin) {
			stuck, wait = true, finalPause
		}
		s.tell(err, wait, stuck)
		if serr := s.pause(ctx, wait); serr != nil {
			return serr
		}
		if stuck {
			if err := s.Kernel.Reboot(); err != nil {
				s.Console.Say("%s", sentence(problem("The server could not be restarted", err.Error(), "switch it off and on", err)))
				continue
			}
			return fmt.Errorf("restarted: %w", err)
		}
	}
}

// tell puts a failure on the consoles and into the boot record.
func (s *Stub) tell(err error, wait time.Duration, restart bool) {
	text := sentence(err)
	if restart {
		s.Console.Say("%s The server restarts in %.0f s.", text, wait.Seconds())
	} else {
		s.Console.Say("%s Trying again in %.0f s.", text, wait.Seconds())
	}
	if s.online {
		s.report.send(s.eventURL(), api.BootEvent{Stage: api.StageFailed, Detail: clean(text), Seconds: s.Machine.Uptime()})
	}
}

func (s *Stub) pause(ctx context.Context, d time.Duration) error {
	if s.Sleep != nil {
		return s.Sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// boot does the steps in order; those that are done are passed over. It returns
// an error and never nil.
func (s *Stub) boot(ctx context.Context, back *images.Backoff) error {
	for _, step := range []func(context.Context) error{
		s.readArgs, s.Kernel.Drivers, s.readDisk, s.readBoot, s.setClock, s.network,
		s.getManifest, s.getLayers, s.assemble,
	} {
		before := s.good
		if err := step(ctx); err != nil {
			return err
		}
		if s.good != before {
			back.Reset()
		}
	}
	return s.enter(ctx)
}

// gotOn notes progress: the time until the server restarts starts again.
func (s *Stub) gotOn() { s.good = s.Machine.Uptime() }

func (s *Stub) readArgs(context.Context) error {
	args, err := parseCmdline(s.Cmdline)
	if err != nil {
		return &final{err}
	}
	s.args = args
	return nil
}

// readDisk opens the tar of nereid.root=disk:NAME.
func (s *Stub) readDisk(context.Context) error {
	if s.args.disk == "" || s.disk != nil {
		return nil
	}
	d, err := s.Machine.OpenDisk(s.args.disk)
	if err != nil {
		return problem("The disk "+s.args.disk+" cannot be read", err.Error(), "is it attached, and is its driver in the initrd?", err)
	}
	t, err := readTarball(d, d.Size)
	if err != nil {
		return errors.Join(problem("The disk "+s.args.disk+" holds no platform", err.Error(), "it has to be a plain tar", err), d.Close())
	}
	s.disk = t
	s.gotOn()
	return nil
}

// readBoot reads the configuration of this boot.
func (s *Stub) readBoot(context.Context) (err error) {
	if s.raw != nil {
		return nil
	}
	if s.disk != nil {
		if s.raw, err = s.disk.small("boot.json", maxConfig); err == nil {
			s.config, err = parseConfig(s.raw)
		}
	} else {
		s.config, s.raw, err = readConfig(s.Paths.Config)
	}
	if err != nil {
		s.raw = nil
		return &final{err}
	}
	s.gotOn()
	return nil
}

// setClock mends a clock that is behind the time the configuration was made at.
func (s *Stub) setClock(context.Context) error {
	if t := s.config.Time; time.Now().Before(t) {
		if err := s.Machine.SetClock(t); err != nil {
			s.Console.Say("The clock could not be set to %s: %v.", t.UTC().Format(time.DateTime), err)
		}
	}
	return nil
}

func (s *Stub) network(ctx context.Context) error {
	if s.online {
		return nil
	}
	if err := s.Kernel.Network(ctx, s.config.Network); err != nil {
		return err
	}
	s.online = true
	s.gotOn()
	s.report.send(s.eventURL(), api.BootEvent{Stage: api.StageStub, Seconds: s.timings.Stub})
	return nil
}

func (s *Stub) eventURL() string { return s.config.BootServer + "/boot/" + s.config.BootID + "/event" }

// fetcher returns a Fetcher that shows cuts and progress of one file.
func (s *Stub) fetcher(what string) *images.Fetcher {
	return &images.Fetcher{
		Client: s.Client, Backoff: s.Backoff, Sleep: s.Sleep, Attempts: 5,
		Progress: func(p images.Progress) {
			s.gotOn()
			s.Console.Progress(what, p)
		},
		Retry: func(err error, wait time.Duration) { s.tell(explainGet(what, s.config, err), wait, false) },
	}
}

// getManifest gets the manifest and checks that it is what this boot was promised.
func (s *Stub) getManifest(ctx context.Context) (err error) {
	if s.manifest != nil {
		return nil
	}
	c := s.config
	var signed api.SignedManifest
	get := func(name string, limit int64) ([]byte, error) {
		if s.disk != nil {
			return s.disk.small(name, limit)
		}
		b, err := s.fetcher(name).Get(ctx, c.BootServer+"/platforms/"+c.Platform+"/"+name, limit)
		if err != nil {
			err = explainGet(name, c, err)
		}
		return b, err
	}
	if signed.Manifest, err = get("manifest.json", images.MaxManifest); err != nil {
		return err
	}
	if signed.Signature, err = get("manifest.sig", 4096); err != nil {
		return err
	}
	key, err := images.ParsePublicKey(c.PlatformKey)
	if err != nil {
		return &final{err}
	}
	m, err := images.VerifyManifest(signed, key)
	if err != nil {
		return explainManifest(c, err)
	}
	if m.Stamp != c.Platform {
		return problem("The manifest is of platform "+m.Stamp+", but this boot was promised "+c.Platform,
			"the boot server's files are mixed up", "import platform "+c.Platform+" again", nil)
	}
	text, err := s.Machine.Meminfo()
	if err != nil {
		return err
	}
	mem, err := parseMeminfo(text)
	if err != nil {
		return err
	}
	if err := mem.fits(m.Stamp, m.Layers); err != nil {
		return err
	}
	// Room to spare is for the files' own blocks.
	if err := s.Machine.Space(layerBytes(m.Layers) + int64(len(m.Layers)+1)*64<<10); err != nil {
		return problem("No directory for the layers could be made", err.Error(), "", err)
	}
	s.signed, s.manifest = signed, &m
	s.gotOn()
	return nil
}

func (s *Stub) layerPath(f api.File) string { return filepath.Join(s.Paths.Layers, f.SHA256) }

// getLayers gets what is missing of the layers, one after the other.
func (s *Stub) getLayers(ctx context.Context) error {
	for _, l := range s.manifest.Layers {
		if s.have[l.SHA256] {
			continue
		}
		if err := s.getLayer(ctx, l); err != nil {
			return err
		}
		s.have[l.SHA256] = true
		s.gotOn()
	}
	return nil
}

func (s *Stub) getLayer(ctx context.Context, l api.File) (err error) {
	w, err := os.OpenFile(s.layerPath(l), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return explainGet(l.Name, s.config, err)
	}
	if s.disk != nil {
		err = s.disk.layer(ctx, l, w, s.fetcher(l.Name).Progress)
	} else {
		err = s.fetcher(l.Name).Fetch(ctx, s.config.BootServer+"/files/"+l.SHA256+"/"+l.Name+"?boot="+s.config.BootID, l, w)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		_ = os.Remove(s.layerPath(l)) // its memory is wanted back
		return explainGet(l.Name, s.config, err)
	}
	return nil
}

// assemble makes the root filesystem and puts the server's identity there.
func (s *Stub) assemble(ctx context.Context) error {
	if s.rooted {
		return nil
	}
	var layers []string
	for _, l := range s.manifest.Layers {
		layers = append(layers, s.layerPath(l))
	}
	text, err := s.Machine.Meminfo()
	if err != nil {
		return err
	}
	mem, err := parseMeminfo(text)
	if err != nil {
		return err
	}
	if s.root == "" {
		if s.root, err = s.Kernel.Assemble(ctx, layers, mem.upper(layerBytes(s.manifest.Layers))); err != nil {
			s.root = ""
			return problem("The layers of platform "+s.manifest.Stamp+" do not make a root filesystem", err.Error(), "", err)
		}
	}
	if err := leaveIdentity(s.root, s.Machine.UUID(), s.config.Network.MAC, s.config.Hostname); err != nil {
		return problem("The server's identity could not be written into the root filesystem", err.Error(), "", err)
	}
	s.rooted = true
	s.timings.Root = s.Machine.Uptime()
	s.gotOn()
	s.report.send(s.eventURL(), api.BootEvent{Stage: api.StageRoot, Seconds: s.timings.Root, Bytes: layerBytes(s.manifest.Layers)})
	return nil
}

// enter leaves the notes for the agent and the initrd for good.
func (s *Stub) enter(ctx context.Context) error {
	s.timings.SwitchRoot = s.Machine.Uptime()
	s.report.flush(ctx, s.eventURL(), api.BootEvent{Stage: api.StageSwitchRoot, Seconds: s.timings.SwitchRoot}, lastReport)
	if err := leaveRun(s.Paths.Run, s.raw, s.signed.Manifest, s.timings); err != nil {
		return problem("The notes for the agent could not be written", err.Error(), "", err)
	}
	s.Console.Say("Entering platform %s after %.1f s.", s.manifest.Stamp, s.timings.SwitchRoot)
	if err := s.Kernel.Enter(s.root); err != nil {
		return &final{problem("The root filesystem of platform "+s.manifest.Stamp+" could not be entered", err.Error(), "assign another platform", err)}
	}
	return errors.New("the root filesystem was entered and came back")
}
