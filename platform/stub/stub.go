package stub

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	Client  images.Doer                                // plain HTTP to the boot server
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
	have     map[string]bool  // layers that are there and verified
	best     map[string]int64 // most bytes that ever came of a file
	root     string
	rooted   bool
	good     float64 // uptime when something last got on
}

// errStuck ends a transfer when the server is to restart.
var errStuck = errors.New("nothing got on for ten minutes")

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
	s.have, s.best = map[string]bool{}, map[string]int64{}
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
		stuck := s.stuck()
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
