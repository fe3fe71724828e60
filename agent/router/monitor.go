package router

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// path is what Monitor watches for one router: gateway servers on its transit
// VNI.
type path struct {
	owner, space, link string
	from               netip.Addr   // the router's own
	via                []netip.Addr // best first
	active             netip.Addr   // the default route's
}

// same reports whether a and b differ in nothing but the route.
func (a path) same(b path) bool {
	return a.owner == b.owner && a.space == b.space && a.link == b.link && a.from == b.from && slices.Equal(a.via, b.via)
}

// pinger asks from a router's namespace. Answer blocks until one comes, and fails
// after Close.
type pinger interface {
	Ask(to netip.Addr, seq uint16) error
	Answer() (from netip.Addr, err error)
	Close() error
}

// ground is where paths are: the kernel, or the tests' fake of it.
type ground interface {
	Ping(p path) (pinger, error)
	Use(ctx context.Context, p path, via netip.Addr) error // makes the default route
}

// Monitor watches the gateway servers of the routers whose server does not
// provide the external NIC tag, and makes their default route lead to one that
// answers: another after three of its probes, one each 500 ms, had no answer; a better one
// again after that was good for 5 s, or up to 2 min if it comes and goes. Each
// router has its own probes, because what they see is the way from there.
type Monitor struct {
	dir, host string
	logger    *slog.Logger
	ground    ground // nil: the kernel
	changed   chan struct{}

	mu     sync.Mutex
	paths  []path
	status map[string]GatewayStatus
}

// NewMonitor makes the monitor of the routers in dir and host, which are those of
// Routers. logger may be nil.
func NewMonitor(host, dir string, logger *slog.Logger) *Monitor {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Monitor{host: host, dir: dir, logger: logger, changed: make(chan struct{}, 1), status: map[string]GatewayStatus{}}
}

// GatewayStatus is what a router's probes see.
type GatewayStatus struct {
	Owner string
	Via   []netip.Addr // best first
	Up    []bool       // of each
	Used  netip.Addr
	Since time.Time // when the route was last changed; zero: not since the monitor began
}

// Status is of each router that has gateway servers, by owner.
func (m *Monitor) Status() []GatewayStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []GatewayStatus
	for _, owner := range slices.Sorted(maps.Keys(m.status)) {
		s := m.status[owner]
		s.Via, s.Up = slices.Clone(s.Via), slices.Clone(s.Up)
		list = append(list, s)
	}
	return list
}

// watch says what is to be watched from now on.
func (m *Monitor) watch(paths []path) {
	m.mu.Lock()
	m.paths = slices.Clone(paths)
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default: // Run has not seen the last change yet, and will see this one with it
	}
}

// follower is the goroutine of a path.
type follower struct {
	path   path
	check  chan struct{} // the route may not be the chosen one
	cancel context.CancelFunc
	done   chan struct{}
}

func (f *follower) stop() {
	f.cancel()
	<-f.done
}

// Run watches until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	running := map[string]*follower{}
	defer func() {
		for _, f := range running {
			f.cancel()
		}
		for _, f := range running {
			f.stop()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
		}
		m.mu.Lock()
		paths := m.paths
		m.mu.Unlock()
		wanted := map[string]bool{}
		for _, p := range paths {
			wanted[p.owner] = true
			f := running[p.owner]
			if f != nil && f.path.same(p) {
				select {
				case f.check <- struct{}{}:
				default:
				}
				continue
			}
			if f != nil {
				f.stop()
			}
			running[p.owner] = m.start(ctx, p)
		}
		for owner, f := range running {
			if !wanted[owner] {
				f.stop()
				delete(running, owner)
				m.mu.Lock()
				delete(m.status, owner)
				m.mu.Unlock()
			}
		}
	}
}

func (m *Monitor) start(ctx context.Context, p path) *follower {
	ctx, cancel := context.WithCancel(ctx)
	f := &follower{path: p, check: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		p := f.path // Run reads the other
		said := ""
		for ctx.Err() == nil {
			err := m.follow(ctx, &p, f.check)
			if err == nil || ctx.Err() != nil {
				continue
			}
			if err.Error() != said {
				said = err.Error()
				m.logger.WarnContext(ctx, "gateway servers are not watched; trying again each second", "owner", p.owner, "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return f
}

// follow probes until ctx ends or the probes cannot be sent any more. It changes
// what p says is the route, to be known to the next call.
func (m *Monitor) follow(ctx context.Context, p *path, check <-chan struct{}) error {
	g := m.ground
	if g == nil {
		g = kernelGround{m.host, m.dir}
	}
	conn, err := g.Ping(*p)
	if err != nil {
		return fmt.Errorf("open probe socket: %w", err)
	}
	answers, failed := make(chan netip.Addr, 16), make(chan error, 1)
	ended := make(chan struct{})
	readerDone := make(chan struct{})
	go func() {
		defer close(readerDone)
		for {
			from, err := conn.Answer()
			if err != nil {
				failed <- err
				return
			}
			select {
			case answers <- from:
			case <-ended:
			}
		}
	}()
	defer func() {
		close(ended)
		_ = conn.Close() // wakes the reader
		<-readerDone
	}()

	h := newHealth(len(p.via), max(slices.Index(p.via, p.active), 0), time.Now())
	changed := time.Time{}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var seq uint16
	probe := func() {
		h.probed(time.Now())
		seq++
		for _, v := range p.via {
			// What cannot be sent is not answered either.
			_ = conn.Ask(v, seq)
		}
	}
	probe()
	for {
		use := false
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("read answers to probes: %w", err)
		case <-check:
			use = true
		case from := <-answers:
			if i := slices.Index(p.via, from); i >= 0 {
				h.answered(i, time.Now())
			}
		case <-tick.C:
			probe()
		}
		i, other := h.choose(time.Now())
		if other {
			changed = time.Now()
			m.logger.WarnContext(ctx, "another gateway server", "owner", p.owner, "via", p.via[i].String(), "before", p.active.String())
		}
		if other || use {
			if err := g.Use(ctx, *p, p.via[i]); err != nil {
				return fmt.Errorf("change default route to %s: %w", p.via[i], err)
			}
			p.active = p.via[i]
		}
		m.note(*p, h, changed)
	}
}

func (m *Monitor) note(p path, h *health, changed time.Time) {
	s := GatewayStatus{Owner: p.owner, Via: p.via, Used: p.via[h.active], Since: changed}
	for _, v := range h.via {
		s.Up = append(s.Up, v.up)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status[p.owner] = s
}
