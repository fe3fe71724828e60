package agent

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"nereid/agent/clock"
	"nereid/agent/identity"
	"nereid/agent/storage"
	"nereid/api"
)

// Pools are the server's ZFS pools; *storage.Storage is one.
type Pools interface {
	Import(ctx context.Context) (storage.Imported, error)
	Pools(ctx context.Context) ([]api.Pool, error)
	Setup(ctx context.Context, spec api.SetupSpec, disks []api.Disk, progress func(api.SetupReport)) error
	Destroy(ctx context.Context, guid string) error
}

// Config is the system pool's config dataset; *storage.Storage is one. Without a
// system pool its errors wrap storage.ErrNoPool.
type Config interface {
	ReadConfig(ctx context.Context, name string) ([]byte, error)
	WriteConfig(ctx context.Context, name string, data []byte) error
	AppendConfig(ctx context.Context, name string, data []byte) error // to a file that is there
}

// Hardware is the inventory; *sysinfo.Reader is one.
type Hardware interface {
	Read(ctx context.Context) (api.Sysinfo, error)
	Forget()
}

// Power takes the server down, and says when it came up; power.Manager is one.
type Power interface {
	Reboot(ctx context.Context, force bool) error
	Shutdown(ctx context.Context, force bool) error
	Started(ctx context.Context) (float64, error) // when the service manager did, in seconds of Host.Monotonic
}

// Host is the operating system; OS is one.
type Host interface {
	Hostname() (string, error)
	SetHostname(ctx context.Context, name string) error
	Monotonic() time.Duration         // since the kernel started
	Settle(ctx context.Context) error // waits until the disks' device nodes are there
}

// Agent is one server's agent. Fields are set before Run and not changed after.
type Agent struct {
	Boot     api.BootConfig // from ReadBoot
	UUID     string         // of this server, from ServerUUID; empty: the head node will say it
	Dir      string         // run directory, in RAM
	Version  string
	Pools    Pools
	Config   Config
	Hardware Hardware
	Power    Power
	Net      Net
	Zones    Zones
	Entry    Entry // nil: there are no instances
	Host     Host
	Clock    *clock.Clock                                                         // nil: the system's
	NTP      func(ctx context.Context, servers []string) (clock.Sample, error)    // nil: clock.Best
	ProcRoot string                                                               // empty: /proc
	Console  io.Writer                                                            // sentences for people; nil: none
	Log      *slog.Logger                                                         // nil: discard
	Notify   func(state string) error                                             // service manager (sd_notify(3)); nil: none
	Watchdog time.Duration                                                        // the service manager's watchdog period; 0: none
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // nil: TCP

	key       atomic.Pointer[ecdsa.PrivateKey]
	cert      atomic.Pointer[identity.Certificate]
	board     *board
	health    *health
	say       *announcer
	poked     chan struct{} // one slot: the reconciler should look at the pools again
	hardware  *inspector
	ports     *follower[api.PortSpec]
	table     portTable // of ports
	copies    *copies
	nics      atomic.Pointer[nics] // nil: the network is left alone
	instances *instances           // nil: they are left alone
	ntpAt     atomic.Int64         // monotonic time a time server was heard last, plus 1 ns; 0: never
}

// Run is the agent's life; it ends with ctx, or when the head node names the server
// by another UUID: run again it is that server. An error means that it could not
// begin.
func (a *Agent) Run(ctx context.Context) error {
	base, err := a.defaults()
	if err != nil {
		return err
	}
	started := a.Host.Monotonic()
	if err := os.MkdirAll(a.Dir, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := a.notify("READY=1\nSTATUS=Importing pools"); err != nil {
		a.Log.Warn("tell the service manager", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	begin(ctx, g, a.feeder())
	g.Go(func() error { return a.work(ctx, g, base, started) })
	if err = g.Wait(); errors.Is(err, errRenamed) {
		a.Log.Info("the agent starts again", "why", err)
		err = nil
	}
	if nerr := a.notify("STOPPING=1"); nerr != nil {
		a.Log.Warn("tell the service manager", "err", nerr)
	}
	return err
}

func (a *Agent) defaults() (*url.URL, error) {
	if a.Clock == nil {
		a.Clock = &clock.Clock{}
	}
	if a.NTP == nil {
		a.NTP = clock.Best
	}
	if a.ProcRoot == "" {
		a.ProcRoot = "/proc"
	}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	if a.Dial == nil {
		a.Dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	base, err := url.Parse(a.Boot.API)
	if err != nil {
		return nil, fmt.Errorf("start agent: API address: %w", err)
	}
	a.health = newHealth()
	a.say = &announcer{w: a.Console, log: a.Log}
	a.poked = make(chan struct{}, 1)
	a.board = newBoard(api.Report{BootID: a.Boot.BootID, Platform: a.Boot.Platform, AgentVersion: a.Version})
	a.hardware = newInspector(a, a.board)
	a.ports = newFollower(a, portKind())
	a.copies = newCopies(a)
	if a.Zones.Machines != nil {
		a.instances = newInstances(a, a.board)
	}
	return base, nil
}

func (a *Agent) notify(state string) error {
	if a.Notify == nil {
		return nil
	}
	return a.Notify(state)
}

// poke asks the reconciler to look at the pools again; it never blocks.
func (a *Agent) poke() {
	select {
	case a.poked <- struct{}{}:
	default:
	}
}

// work finds out who this server is, then starts the tasks.
func (a *Agent) work(ctx context.Context, g *errgroup.Group, base *url.URL, started time.Duration) error {
	done := a.health.busy("start", importLimit+stepLimit)
	defer done()
	a.startClock()
	t := a.timings(ctx, started)
	a.board.update(func(r *api.Report) bool { return put(&r.Boot, t) })
	im, _ := a.importPools(ctx, a.board)
	if ctx.Err() != nil {
		return nil
	}
	key, err := a.findKey(ctx, im)
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	a.key.Store(key)

	trust := identity.Trust{CASHA256: a.Boot.CASHA256, Host: base.Hostname(), Now: a.Clock.Now}
	s, ok := a.lastSpec(ctx)
	a.ports.start(ctx, portsOfSpec(s.Network))
	a.copies.serve(a.UUID)
	a.copies.start(ctx)
	s.Network = a.network(s.Network, nil)
	a.refollow()
	net := newNetworker(a, a.board)
	if a.Net.Links != nil {
		a.nics.Store(net.nics)
	}
	if a.instances != nil {
		a.instances.set.start(ctx, nil)
		a.instances.images.set.start(ctx, nil)
		a.instances.snapshots.set.start(ctx, nil)
		a.instances.snapshots.took(a.instances.snapshots.all())
		a.instances.down = a.taken() != nil
	}
	box := newMailbox()
	r := newReconciler(a, a.board, box, a.poked, key)
	r.imported(im)
	r.obs.taken = a.taken()
	r.obs.specKept = specName(a.specOnPool(ctx))
	if ok {
		a.Log.Info("last spec is applied until the head node says otherwise", "revision", s.Revision)
		r.spec, r.have = s, true
		if len(s.NTP) > 0 {
			r.ntp = s.NTP
		}
		net.put(s)
	}
	conversing := newSessions(a, base, trust)
	l := &link{
		a: a, board: a.board, box: box, net: net, sessions: conversing, say: a.say, base: base, key: key,
		uuid: a.UUID, trust: trust, first: t.FirstSync > 0, spec: s, stored: specName(s),
	}
	begin(ctx, g, a.tasks(r, l, net, conversing)...)
	return nil
}

// startClock makes the clock good enough for certificates before anything else:
// a machine with a dead battery starts years ago. The boot file says when it was
// made, which was about when the kernel started. Only the boot's first start of
// the agent looks at it.
func (a *Agent) startClock() {
	if _, err := os.Stat(filepath.Join(a.Dir, timingsFile)); err == nil || a.Boot.Time.IsZero() {
		return
	}
	a.adjust(a.Boot.Time.Add(a.Host.Monotonic()), time.Minute, "boot file")
}

// importPools imports what is there. What could not be is in the report.
func (a *Agent) importPools(ctx context.Context, b *board) (storage.Imported, bool) {
	ctx, cancel := context.WithTimeout(ctx, importLimit)
	defer cancel()
	if err := a.Host.Settle(ctx); err != nil {
		a.Log.Warn("wait for device nodes", "err", err)
	}
	im, err := a.Pools.Import(ctx)
	if err != nil {
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			a.Log.Error("import pools", "err", err)
			b.problem("import", "Pools could not be imported: "+err.Error()+"; reboot the server when its disks are in order.")
		}
		return im, false
	}
	for i := range 8 {
		s := ""
		if i < len(im.Problems) {
			s = im.Problems[i]
		}
		b.problem(fmt.Sprintf("import %d", i), s)
	}
	b.problem("import", "")
	if im.Reset {
		a.Log.Info("a factory reset that was cut short was finished")
	}
	return im, true
}

// findKey is the pool's key if there is one, else the run directory's, else a
// new one. A key the pool should have and cannot show is an error: a new one
// would only be refused.
func (a *Agent) findKey(ctx context.Context, im storage.Imported) (*ecdsa.PrivateKey, error) {
	if im.System != nil {
		k, err := a.poolKey(ctx)
		if err != nil {
			a.board.problem("key", fmt.Sprintf("The key on pool %s could not be read: %v; the head node will refuse any other until the server is reset.", im.System.Name, err))
			a.Log.Error("read the pool's key", "err", err)
		}
		if k != nil {
			return k, a.keepKey(k)
		}
	}
	path := filepath.Join(a.Dir, keyFile)
	data, err := readFile(path)
	if err == nil {
		k, err := identity.ParseKey(data)
		if err == nil {
			return k, nil
		}
		a.Log.Warn("the run directory's key is not used", "err", err)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	k, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	return k, a.keepKey(k)
}

// keepKey keeps the key in the run directory, so that a restarted agent has it
// whatever the pool is like.
func (a *Agent) keepKey(k *ecdsa.PrivateKey) error {
	data, err := identity.MarshalKey(k)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(a.Dir, keyFile), data)
}

// lastSpec is what the head node wanted last: of this boot, else of the pool.
func (a *Agent) lastSpec(ctx context.Context) (api.Spec, bool) {
	var s api.Spec
	ok, err := readJSON(filepath.Join(a.Dir, specFile), &s)
	if err != nil {
		a.Log.Warn("read last spec", "err", err)
	}
	if ok && err == nil && s.Revision != "" {
		s.Power = nil
		return s, true
	}
	s = a.specOnPool(ctx)
	return s, s.Revision != ""
}

// specOnPool is the spec kept on the pool, without revision when there is none.
func (a *Agent) specOnPool(ctx context.Context) api.Spec {
	var s api.Spec
	data, err := a.Config.ReadConfig(ctx, specFile)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrNoPool) {
			a.Log.Warn("read last spec of the pool", "err", err)
		}
		return api.Spec{}
	}
	s.Power = nil
	return s
}
