package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nereid/agent/clock"
	"nereid/agent/storage"
	"nereid/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testUUID = "4c4c4544-0044-4b10-8052-b4c04f385931"

// world is one fake server: its disks, its pool and what the agent did to it.
// It outlives agents, as a server does, and can lose power at any point.
type world struct {
	mu       sync.Mutex
	hostname string
	pools    []api.Pool
	made     bool // the pool's setup is complete
	config   map[string][]byte
	log      []string // what was done, in order
	points   int      // points passed at which power can fail
	crashAt  int      // point at which it does; 0: never
	dead     bool
	off      func()                // ends the agent when the power fails
	setup    func(context.Context) // what a setup waits for; nil: nothing
	fails    map[string]error      // what does not work
	store    func(ctx context.Context, put func([]byte) error) error
	clockOff time.Duration // of the system's clock
	noStep   bool
	born     time.Time // when the kernel started
}

func newWorld() *world {
	return &world{hostname: "localhost", config: map[string][]byte{}, fails: map[string]error{}, born: time.Now(), off: func() {}}
}

var errDead = errors.New("no power")

// point is where the power can fail.
func (w *world) point(name string) error {
	w.points++
	if w.dead || w.points == w.crashAt {
		if !w.dead {
			w.log = append(w.log, "power fails at "+name)
		}
		w.dead = true
		w.off()
		return errDead
	}
	return nil
}

// do makes one change that is there or not there after a power cut.
func (w *world) do(name string, change func()) error {
	if err := w.point("before " + name); err != nil {
		return err
	}
	if err := w.fails[name]; err != nil {
		w.log = append(w.log, name+" fails")
		return err
	}
	w.log = append(w.log, name)
	change()
	return w.point("after " + name)
}

// did returns and forgets what was done.
func (w *world) did() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.log, "\n")
	w.log = nil
	return s
}

// String prints the server's state.
func (w *world) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "hostname %s\n", w.hostname)
	for _, p := range w.pools {
		fmt.Fprintf(&b, "pool %s %s setup=%s complete=%v\n", p.Name, p.GUID, p.SetupID, w.made)
	}
	for _, k := range slices.Sorted(maps.Keys(w.config)) {
		fmt.Fprintf(&b, "file %s\n", k)
	}
	return b.String()
}

func (w *world) Import(ctx context.Context) (storage.Imported, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return storage.Imported{}, errDead
	}
	if err := w.fails["import"]; err != nil {
		return storage.Imported{}, err
	}
	im := storage.Imported{Complete: w.made}
	if len(w.pools) > 0 {
		p := w.pools[0]
		im.System, im.SetupID = &p, p.SetupID
	}
	return im, ctx.Err()
}

func (w *world) Pools(ctx context.Context) ([]api.Pool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return nil, errDead
	}
	return slices.Clone(w.pools), ctx.Err()
}

func (w *world) Setup(ctx context.Context, s api.SetupSpec, disks []api.Disk, progress func(api.SetupReport)) error {
	plan := &api.PoolPlan{Layout: "single", Vdevs: []api.Vdev{{Type: "disk", Disks: []string{disks[0].Name}}}, Digest: "d"}
	progress(api.SetupReport{ID: s.ID, Phase: "creating pool", Plan: plan})
	w.mu.Lock()
	wait := w.setup
	w.mu.Unlock()
	if wait != nil {
		wait(ctx)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pools) == 0 {
		if err := w.do("create pool", func() {
			w.pools = []api.Pool{{Name: s.Pool, GUID: "77", Health: "ONLINE", System: true, SetupID: s.ID}}
		}); err != nil {
			return err
		}
	}
	progress(api.SetupReport{ID: s.ID, Phase: "creating datasets", Plan: plan})
	if w.store != nil {
		if err := w.store(ctx, func(b []byte) error {
			return w.do("store key", func() { w.config[keyFile] = b })
		}); err != nil {
			return err
		}
	}
	if !w.made {
		if err := w.do("complete setup", func() { w.made = true }); err != nil {
			return err
		}
	}
	progress(api.SetupReport{ID: s.ID, Phase: "complete", Complete: true, Plan: plan})
	return nil
}

func (w *world) Destroy(_ context.Context, guid string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.do("destroy "+guid, func() {
		w.pools = slices.DeleteFunc(w.pools, func(p api.Pool) bool { return p.GUID == guid })
		w.made, w.config = false, map[string][]byte{}
	})
}

func (w *world) ReadConfig(_ context.Context, name string) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pools) == 0 {
		return nil, storage.ErrNoPool
	}
	b, ok := w.config[name]
	if !ok {
		return nil, fmt.Errorf("read config: %w", fs.ErrNotExist)
	}
	return bytes.Clone(b), nil
}

func (w *world) WriteConfig(_ context.Context, name string, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pools) == 0 {
		return storage.ErrNoPool
	}
	return w.do("write "+name, func() { w.config[name] = bytes.Clone(data) })
}

func (w *world) AppendConfig(_ context.Context, name string, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pools) == 0 {
		return storage.ErrNoPool
	}
	old, ok := w.config[name]
	if !ok {
		return fmt.Errorf("append config: %w", fs.ErrNotExist)
	}
	return w.do("append "+name, func() { w.config[name] = slices.Concat(old, data) })
}

// hardware is the world's inventory.
type hardware struct{ *world }

func (h hardware) Read(context.Context) (api.Sysinfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.fails["hardware"]; err != nil {
		return api.Sysinfo{}, err
	}
	return api.Sysinfo{UUID: testUUID, MemoryBytes: 1 << 30, Disks: []api.Disk{{Name: "vda", SizeBytes: 1 << 34, Content: strings.Repeat("pool", len(h.pools))}}}, nil
}

func (h hardware) Forget() {}

// power is the world's power switch: it ends the agent, as systemd does.
type powerSwitch struct{ *world }

func (p powerSwitch) Reboot(_ context.Context, force bool) error   { return p.act("reboot", force) }
func (p powerSwitch) Shutdown(_ context.Context, force bool) error { return p.act("shutdown", force) }
func (powerSwitch) Started(context.Context) (float64, error)       { return 4.5, nil }

func (p powerSwitch) act(name string, force bool) error {
	if force {
		name += ", forced"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.do(name, func() {})
}

// Host.
func (w *world) Hostname() (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hostname, nil
}

func (w *world) SetHostname(_ context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.do("hostname "+name, func() { w.hostname = name })
}

func (w *world) Monotonic() time.Duration     { return time.Since(w.born) + 10*time.Second }
func (w *world) Settle(context.Context) error { return nil }

// systemClock is the world's clock; real time is the bubble's.
type systemClock struct{ *world }

func (c systemClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.clockOff)
}

func (c systemClock) Step(by time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noStep {
		return errors.ErrUnsupported
	}
	c.clockOff += by
	return nil
}

func (c systemClock) Slew(time.Duration) error { return nil }

// console gathers what people see.
type console struct {
	mu sync.Mutex
	b  strings.Builder
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// running is an agent at work.
type running struct {
	*Agent
	console *console
	notes   *console // what the service manager heard
	stop    func()   // and wait
	done    chan error
}

// start starts an agent on the world. dir is its run directory; one that is used
// again makes it a restart.
func start(t *testing.T, w *world, h *fakeHead, dir string, change func(*Agent)) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{console: &console{}, notes: &console{}, done: make(chan error, 1)}
	r.Agent = &Agent{
		Boot: h.bootConfig(), UUID: testUUID, Dir: dir, Version: "test",
		Pools: w, Config: w, Hardware: hardware{w}, Power: powerSwitch{w}, Host: w,
		Clock:    &clock.Clock{System: systemClock{w}},
		NTP:      func(context.Context, []string) (clock.Sample, error) { return clock.Sample{}, errors.New("no answer") },
		ProcRoot: filepath.Join(dir, "proc"),
		Console:  r.console,
		Dial:     h.dial,
		Notify:   func(s string) error { _, err := r.notes.Write([]byte(s + "\n")); return err },
	}
	w.mu.Lock()
	w.dead, w.points, w.off = false, 0, cancel
	w.store = func(ctx context.Context, put func([]byte) error) error {
		tmp := t.TempDir()
		if old, ok := w.config[keyFile]; ok {
			if err := writeFile(filepath.Join(tmp, keyFile), old); err != nil {
				return err
			}
		}
		if err := r.StoreKey(ctx, tmp); err != nil {
			return err
		}
		b, err := readFile(filepath.Join(tmp, keyFile))
		if err != nil {
			return err
		}
		if bytes.Equal(b, w.config[keyFile]) {
			return nil
		}
		return put(b)
	}
	w.mu.Unlock()
	if change != nil {
		change(r.Agent)
	}
	go func() { r.done <- r.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-r.done; err != nil && !errors.Is(err, errDead) {
				t.Errorf("agent: %v", err)
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}
