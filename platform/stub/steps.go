package stub

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"nereid/api"
	"nereid/images"
)

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

// stuck says that nothing got on for so long that the server had better restart.
func (s *Stub) stuck() bool { return s.Machine.Uptime()-s.good > giveUp }

// fetcher returns a Fetcher that shows cuts and progress of one file. It tries for
// as long as the stub does; stop ends it when that is over.
func (s *Stub) fetcher(what string, stop context.CancelCauseFunc) *images.Fetcher {
	return &images.Fetcher{
		Client: s.Client, Backoff: s.Backoff, Sleep: s.Sleep,
		Progress: func(p images.Progress) {
			if p.Bytes > s.best[what] { // the same bytes again are no progress
				s.best[what] = p.Bytes
				s.gotOn()
			}
			s.Console.Progress(what, p)
		},
		Retry: func(err error, wait time.Duration) {
			if s.stuck() {
				stop(errStuck)
				return
			}
			s.tell(explainGet(what, s.config, err), wait, false)
		},
	}
}

// getManifest gets the manifest and checks that it is what this boot was promised.
func (s *Stub) getManifest(ctx context.Context) (err error) {
	if s.manifest != nil {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c := s.config
	var signed api.SignedManifest
	get := func(name string, limit int64) ([]byte, error) {
		if s.disk != nil {
			return s.disk.small(name, limit)
		}
		b, err := s.fetcher(name, stop).Get(ctx, c.BootServer+"/platforms/"+c.Platform+"/"+name, limit)
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
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if fetch := s.fetcher(l.Name, stop); s.disk != nil {
		err = s.disk.layer(ctx, l, w, fetch.Progress)
	} else {
		err = fetch.Fetch(ctx, s.config.BootServer+"/files/"+l.SHA256+"/"+l.Name+"?boot="+s.config.BootID, l, w)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		_ = os.Remove(s.layerPath(l)) // its memory is wanted back
		if s.disk != nil {
			return explainDisk(l.Name, s.args.disk, err)
		}
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
	// What firmware calls the machine may be a placeholder that others have too.
	if err := leaveIdentity(s.root, cmp.Or(s.config.UUID, s.Machine.UUID()), s.config.Network.MAC, s.config.Hostname); err != nil {
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
	if err := leaveRun(s.Paths.Run, s.raw, s.signed.Manifest, s.config.Network, s.timings); err != nil {
		return problem("The notes for the agent could not be written", err.Error(), "", err)
	}
	s.Console.Say("Entering platform %s after %.1f s.", s.manifest.Stamp, s.timings.SwitchRoot)
	if err := s.Kernel.Enter(s.root); err != nil {
		return &final{problem("The root filesystem of platform "+s.manifest.Stamp+" could not be entered", err.Error(), "assign another platform", err)}
	}
	return errors.New("the root filesystem was entered and came back")
}
