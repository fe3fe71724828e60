package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"nereid/api"
)

// State is what a simulated server does.
type State int32

// The states of a simulated server.
const (
	Off     State = iota
	Held          // the head node does not boot it now
	Booting       // from the first DHCP message to the agent
	Pending       // the agent asks to be let in
	Syncing       // the head node answered the last sync
	Away          // the head node did not
	states
)

func (s State) String() string {
	return [states]string{"off", "held", "booting", "pending", "syncing", "away"}[s]
}

// server is a simulated server. Its fields are its goroutine's, but for those below
// mu and state.
type server struct {
	f      *Fleet
	n      int
	mac    string
	info   api.Sysinfo
	digest string
	key    *ecdsa.PrivateKey
	state  atomic.Int32

	begun   time.Time // of this boot
	cfg     api.BootConfig
	agent   *api.Client // nil: no certificate
	renewAt time.Time
	uuid    string
	spec    string // revision that it has
	follow  *follower

	mu       sync.Mutex
	bootID   string
	address  netip.Addr
	approved bool       // by the fleet
	rep      api.Report // as it is now
	acked    api.Report // as the head node took it in last
	running  bool       // the head node has heard that it is set up
}

func newServer(f *Fleet, n int, captured api.Sysinfo) (*server, error) {
	s := &server{f: f, n: n, mac: macOf(n, 0), info: sysinfo(n, captured), follow: newFollower(f)}
	var err error
	if s.digest, err = digest(s.info); err != nil {
		return nil, err
	}
	s.key, err = keyOf(f.cfg.Seed, n)
	return s, err
}

func (s *server) enter(st State) {
	if old := State(s.state.Swap(int32(st))); old != st {
		s.f.seen.entered(old, st)
		s.f.event(st.String())
	}
}

// connect takes a certificate into service.
func (s *server) connect(uuid string, cert *tls.Certificate) {
	s.close()
	s.uuid = uuid
	s.agent = s.client(cert)
	s.renewAt = cert.Leaf.NotBefore.Add(cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore) / 2)
}

// client is one with the server's certificate, or with none. Its connections come from
// the leased address where this machine has it, as on loopback: a head node takes only
// so many from one address.
func (s *server) client(cert *tls.Certificate) *api.Client {
	c := &api.Client{Headnode: s.cfg.API, CASHA256: s.cfg.CASHA256, Certificate: cert}
	if l, err := net.ListenPacket("udp", net.JoinHostPort(s.address.String(), "0")); err == nil {
		_ = l.Close() // it was only tried
		c.From = s.address
	}
	return c
}

// close lets go of connections.
func (s *server) close() {
	if s.agent != nil {
		s.agent.Close()
	}
}

// run has the server live until ctx ends, or until it is shut down.
func (s *server) run(ctx context.Context) error {
	defer s.enter(Off)
	wait := backoff{min: time.Second, max: 30 * time.Second}
	for {
		s.enter(Booting)
		err := s.boot(ctx)
		if err == nil {
			err = s.live(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOff):
			s.enter(Off)
			<-ctx.Done() // until its power button is pressed
			return nil
		case errors.Is(err, errReboot):
			wait = backoff{min: wait.min, max: wait.max}
			continue
		}
		s.f.seen.again(err)
		s.f.log.Info("server boots again", "server", s.info.UUID, "why", err)
		if !pause(ctx, wait.next()) {
			return nil
		}
	}
}

// What a server does at the head node's order.
var (
	errReboot = errors.New("reboot")
	errOff    = errors.New("shut down")
)

// live enrols and syncs. It returns when the server has to boot again.
func (s *server) live(ctx context.Context) error {
	s.mu.Lock()
	up := time.Since(s.begun).Seconds()
	s.rep = api.Report{BootID: s.bootID, Platform: s.cfg.Platform, Hostname: s.cfg.Hostname, AgentVersion: "fleet",
		Pools: s.rep.Pools, Setup: s.rep.Setup, Boot: api.BootTimings{Stub: up, SwitchRoot: up, Systemd: up, Agent: up}}
	s.mu.Unlock()
	s.spec = ""
	for {
		if err := s.enrol(ctx); err != nil {
			return err
		}
		err := s.syncs(ctx)
		if codeOf(err) == "" {
			return err
		}
		s.f.seen.failed("certificate", err) // not accepted any more: enrol again
		if !pause(ctx, time.Second) {
			return ctx.Err()
		}
	}
}

// syncs is the long poll, again and again. A refusal that enrolling may mend, and the
// reasons to boot again, are returned.
func (s *server) syncs(ctx context.Context) error {
	wait := backoff{min: 500 * time.Millisecond, max: 10 * time.Second}
	inventory := false
	for {
		if time.Now().After(s.renewAt) {
			s.renewAt = time.Now().Add(time.Minute) // where it fails
			if cert, err := s.renew(ctx); err != nil {
				s.f.seen.failed("renew", err)
			} else {
				s.connect(s.uuid, cert)
			}
		}
		s.mu.Lock()
		rep := s.rep
		s.mu.Unlock()
		req := api.SyncRequest{Seen: s.spec, InventoryDigest: s.digest, Report: rep, Usage: s.usage(), Follow: s.follow.sets(s.uuid)}
		if inventory {
			req.Inventory = &s.info
		}
		out, err := s.agent.Sync(ctx, s.uuid, req)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			var p *api.Problem
			if errors.As(err, &p) && (p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden || p.Status == http.StatusNotFound) {
				return err
			}
			s.enter(Away)
			s.f.seen.failed("sync", err)
			if !pause(ctx, wait.next()) {
				return ctx.Err()
			}
			continue
		}
		wait = backoff{min: wait.min, max: wait.max}
		s.enter(Syncing)
		s.took(rep)
		if own := s.follow.take(out); own || out.Revision != "" && out.Revision != s.spec {
			s.f.seen.news()
		}
		if out.Spec == nil {
			inventory = false
			continue
		}
		inventory = out.NeedInventory
		if out.Revision != s.spec {
			s.spec = out.Revision
			s.apply(*out.Spec)
		}
		if err := s.power(ctx, out.Spec.Power); err != nil {
			return err
		}
		if s.f.cfg.SetUp {
			s.setUp(ctx, out.Spec.Setup)
		}
	}
}

// renew asks for another certificate with the present one.
func (s *server) renew(ctx context.Context) (*tls.Certificate, error) {
	request, err := CSR(s.key, s.uuid)
	if err != nil {
		return nil, err
	}
	out, err := s.agent.Renew(ctx, s.uuid, request)
	if err != nil {
		return nil, err
	}
	return Certificate(out.Certificate, s.key)
}

// took notes that the head node has a report.
func (s *server) took(rep api.Report) {
	s.mu.Lock()
	up, runs := s.acked.BootID != rep.BootID, rep.Setup != nil && rep.Setup.Complete
	news := runs && !s.running
	s.acked, s.running = rep, runs
	s.mu.Unlock()
	if up {
		s.f.seen.up(time.Since(s.begun))
		s.f.event("up")
	}
	if news {
		s.f.event("running")
	}
}

// apply does what a spec wants, at once and without an error.
func (s *server) apply(sp api.Spec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rep
	r.Hostname, r.AppliedSpec, r.AppliedNetwork = sp.Hostname, sp.Revision, sp.Revision
	if u := sp.Setup; u != nil && (r.Setup == nil || r.Setup.ID != u.ID) {
		r.Setup = &api.SetupReport{ID: u.ID, Phase: "complete", Complete: true}
		r.Pools = []api.Pool{{Name: u.Pool, GUID: fmt.Sprintf("%d", 1_000_000+s.n), Health: "ONLINE", SizeBytes: 8 << 40, System: true, SetupID: u.ID}}
	}
	s.rep = r
}

// power takes a power order of this boot.
func (s *server) power(ctx context.Context, p *api.PowerSpec) error {
	s.mu.Lock()
	taken := p == nil || p.BootID != s.bootID || s.rep.Power != nil && s.rep.Power.ID == p.ID
	if !taken {
		s.rep.Power = &api.PowerReport{ID: p.ID}
		if p.Action == "reset" {
			s.rep.Power.Error = "a simulated server has nothing to destroy"
		}
	}
	rep := s.rep
	s.mu.Unlock()
	if taken || p.Action == "reset" {
		return nil
	}
	// Without an answer, which would be held for as long as there is no other order.
	tctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := s.agent.Sync(tctx, s.uuid, api.SyncRequest{Seen: s.spec, InventoryDigest: s.digest, Report: rep, Usage: s.usage(), Follow: s.follow.sets(s.uuid)}); err != nil && tctx.Err() == nil {
		s.f.seen.failed("sync", err)
	}
	if p.Action == "shutdown" {
		return errOff
	}
	return errReboot
}

// setUp asks for a pool, as an operator, where the head node wants none yet.
func (s *server) setUp(ctx context.Context, wanted *api.SetupSpec) {
	s.mu.Lock()
	done := wanted != nil || s.rep.Setup != nil
	s.mu.Unlock()
	if done {
		return
	}
	err := s.f.insist(ctx, "setup", func(c *api.Client) error { return c.SetupServer(ctx, s.uuid, api.SetupSpec{}) })
	if err != nil && ctx.Err() == nil && codeOf(err) != api.CodeConflict { // it was asked for already
		s.f.seen.failed("setup", err)
	}
}

// usage is what changes all the time.
func (s *server) usage() api.Usage {
	return api.Usage{UptimeSeconds: time.Since(s.begun).Seconds(), MemoryFreeBytes: s.info.MemoryBytes / 2, Load1: 0.1,
		AgentRSSBytes: 24 << 20, Network: &api.NetworkReport{Applied: true, Maps: s.follow.versions(), Ports: s.follow.portsAt(), Sets: s.follow.setsAt()}}
}
