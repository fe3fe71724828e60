package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"nereid/api"
)

// MaxServers is how many servers one fleet has at most: their number is in their MACs
// and UUIDs.
const MaxServers = 50_000

// perClient is how many requests share an operator's client, which keeps so many
// connections; clients is how many there are.
const (
	perClient = 4
	clients   = 16
)

// Config says what a fleet is. Headnode, Token and CASHA256 are as in api.Client.
type Config struct {
	Headnode, Token, CASHA256 string

	Servers int
	Seed    []byte        // that the servers' keys are made from; servers that come again need the same
	Within  time.Duration // the servers are powered on one after the other within this time; 0: all at once
	Approve bool          // the fleet lets its servers in
	SetUp   bool          // and has them set up

	// Event, when not nil, is called for each new state of a server, with its name; for
	// each boot's first sync that was answered ("up"); for each server whose report of a
	// complete setup was ("running"); and for each NIC that was acknowledged ("NIC").
	Event func(what string)

	Log *slog.Logger // nil: none
}

// Fleet is simulated servers.
type Fleet struct {
	cfg       Config
	log       *slog.Logger
	operators chan *api.Client // as many times as they may be used at once
	servers   []*server
	seen      seen
}

// New makes a fleet whose servers are off.
func New(cfg Config) (*Fleet, error) {
	if cfg.Servers < 1 || cfg.Servers > MaxServers {
		return nil, fmt.Errorf("a fleet of %d servers: want 1 to %d", cfg.Servers, MaxServers)
	}
	if len(cfg.Seed) < 16 {
		return nil, errors.New("the seed of the servers' keys has fewer than 16 bytes")
	}
	f := &Fleet{cfg: cfg, log: cfg.Log, operators: make(chan *api.Client, perClient*clients)}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	for range clients {
		c := api.NewClient(cfg.Headnode)
		c.Token, c.CASHA256 = cfg.Token, cfg.CASHA256
		if err := c.Check(); err != nil {
			return nil, err
		}
		for range perClient {
			f.operators <- c
		}
	}
	info, err := hardware()
	if err != nil {
		return nil, err
	}
	for n := range cfg.Servers {
		s, err := newServer(f, n, info)
		if err != nil {
			return nil, err
		}
		f.servers = append(f.servers, s)
	}
	return f, nil
}

// WaitRunning waits until the head node sees all servers running, and asks it once a
// second.
func (f *Fleet) WaitRunning(ctx context.Context) error {
	for {
		known, err := f.known(ctx)
		running := 0
		for _, s := range f.servers {
			if known[s.info.UUID].State == api.StateRunning {
				running++
			}
		}
		if err != nil && ctx.Err() == nil {
			f.seen.failed("list", err)
		}
		if running == len(f.servers) {
			return nil
		}
		if !pause(ctx, time.Second) {
			return ctx.Err()
		}
	}
}

func (f *Fleet) event(what string) {
	if f.cfg.Event != nil {
		f.cfg.Event(what)
	}
}

// Close lets go of connections. Run must have returned.
func (f *Fleet) Close() {
	for range cap(f.operators) {
		(<-f.operators).Close()
	}
	for _, s := range f.servers {
		s.close()
	}
}

// Run powers the servers on and has them live until ctx ends. It returns nil then.
func (f *Fleet) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range f.servers {
		after := f.cfg.Within * time.Duration(i) / time.Duration(len(f.servers))
		g.Go(func() error {
			if !pause(ctx, after) {
				return nil
			}
			return s.run(ctx)
		})
	}
	return g.Wait()
}

// operator makes a request of an operator, when its turn has come.
func (f *Fleet) operator(ctx context.Context, do func(*api.Client) error) error {
	select {
	case c := <-f.operators:
		defer func() { f.operators <- c }()
		return do(c)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// insist repeats a request for as long as the head node is away or cannot answer now.
// What it refuses is the caller's.
func (f *Fleet) insist(ctx context.Context, what string, do func(*api.Client) error) error {
	wait := backoff{min: 100 * time.Millisecond, max: 5 * time.Second}
	for {
		err := f.operator(ctx, do)
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		f.seen.failed(what, err)
		if !pause(ctx, wait.next()) {
			return ctx.Err()
		}
	}
}

// passing says whether a request that failed may succeed when it is made again.
func passing(err error) bool {
	var p *api.Problem
	if !errors.As(err, &p) {
		return true
	}
	return p.Status/100 == 5 || p.Status == 429
}

// codeOf is the code of a refusal; empty: err is none.
func codeOf(err error) api.Code {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// backoff is how long to wait before the next try.
type backoff struct {
	min, max, last time.Duration
}

func (b *backoff) next() time.Duration {
	b.last = min(b.max, cmp.Or(2*b.last, b.min))
	return b.last/2 + rand.N(b.last/2+1)
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
