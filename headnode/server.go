package headnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"nereid/admit"
	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/answers"
	"nereid/headnode/boots"
	"nereid/headnode/events"
	"nereid/headnode/fabric"
	"nereid/headnode/inventory"
	"nereid/headnode/journal"
	"nereid/headnode/networks"
	"nereid/headnode/store"
	"nereid/headnode/trust"
	"nereid/images"
)

// Bounds of what is kept in memory for machines nobody knows yet.
const (
	maxOffers  = 4096
	maxPending = 4096
)

// Config is what a Server is opened with. Only Dir must be given.
type Config struct {
	Dir     string // data directory
	Socket  string // Unix socket; empty: headnode.sock in Dir
	Shared  string // Unix socket where the CLI looks, which another head node may have; empty: none
	Version string

	// Listen is the HTTPS address; zero: the admin address, port 8443. Port 0 is
	// any free port.
	Listen netip.AddrPort
	// BootServer is the boot server's URL; empty: http:// and the admin address.
	BootServer string
	// Hold is how long a poll without news is held; 0: api.SyncHold.
	Hold time.Duration

	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
}

// Server is a head node.
type Server struct {
	// Explain answers POST /v1/explain; cmd joins it with the boot server's. Set
	// it before Run.
	Explain func(context.Context, api.BootRequest) (api.Explanation, error)
	// BootAlerts, when not nil, gives the boot server's alerts. Set it before Run.
	BootAlerts func() []string

	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	started time.Time
	answers answers.Answers

	adminNet networks.AdminCache

	store  store.Store
	images *images.Store
	disks  *images.Store // files of instances' images, by the image's UUID
	checks chan struct{} // held by who reads a whole image
	ca     *trust.CA

	offers   *addresses.Offers
	pending  *boots.Pending
	live     live
	known    atomic.Pointer[known]
	door     *admit.Door // of HTTPS
	waiting  *admit.Door // of enrolments
	probes   probes
	sessions sessions
	events   *events.Log
	watch    watchers
	shed     shed
	news     chan api.Event // of machines that have not enrolled; one waits to be told
	reports  buckets

	drawMAC func() uint32 // networks.DrawMAC, but in tests

	// imageOf gives an image that a new instance of an account may use, by UUID or name.
	imageOf func(tx store.Tx, owner, id string) (api.Image, error)

	hosts   hosts
	sets    *journal.Hub
	encoded *journal.Shared[encodedDelta] // of sets that many servers follow
	files   sync.RWMutex                  // read: an upload; written: a collection

	rangeFull struct {
		sync.Mutex
		since time.Time // zero: it is not
		text  string
	}

	ready chan struct{}
	https netip.AddrPort // set before ready is closed
}

// Open opens the data directory and makes the CA at the first start.
func Open(ctx context.Context, cfg Config) (s *Server, err error) {
	if _, err := os.Stat(filepath.Join(cfg.Dir, storeFile)); errors.Is(err, os.ErrNotExist) {
		return nil, notInitialised(cfg.Dir)
	}
	s = &Server{cfg: cfg, log: cfg.Logger, now: cfg.Now, drawMAC: networks.DrawMAC, ready: make(chan struct{}), news: make(chan api.Event, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.cfg.Hold <= 0 {
		s.cfg.Hold = api.SyncHold
	}
	if s.cfg.Socket == "" {
		s.cfg.Socket = filepath.Join(cfg.Dir, SocketFile)
	}
	s.started = s.now()
	if s.store, err = openStore(ctx, cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.store.Close())
		}
	}()
	err = s.store.View(ctx, func(tx store.Tx) error {
		a, found, err := store.Lookup[answers.Answers](tx, answersKey)
		if err == nil && !found {
			err = notInitialised(cfg.Dir)
		}
		s.answers = a
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.ca, err = trust.LoadCA(filepath.Join(cfg.Dir, caFile), s.answers.Datacenter, s.now()); err != nil {
		return nil, err
	}
	s.ca.Now = s.now
	if s.images, err = images.OpenStore(filepath.Join(cfg.Dir, imagesDir)); err != nil {
		return nil, err
	}
	if s.disks, err = images.OpenNamed(filepath.Join(cfg.Dir, diskImages)); err != nil {
		return nil, err
	}
	s.checks = make(chan struct{}, maxChecks)
	ad := s.answers.Admin
	if !s.cfg.Listen.IsValid() {
		s.cfg.Listen = netip.AddrPortFrom(ad.Address.Addr(), 8443)
	}
	if s.cfg.BootServer == "" {
		s.cfg.BootServer = "http://" + ad.Address.Addr().String()
	}
	s.offers = addresses.NewOffers(maxOffers)
	s.pending = boots.NewPending(maxPending)
	s.pending.Dropped = dropBoot
	s.live.seen = map[string]liveServer{}
	s.door = &admit.Door{Total: maxConns, Strangers: maxConns / 2, PerClient: maxClient, Known: s.knownAddress,
		Shed: func(beyond string, who netip.Addr) { s.Shed("HTTPS connections "+beyond, who.String()) }}
	s.waiting = &admit.Door{Total: maxEnrols, Strangers: maxEnrols / 4, PerClient: maxClientEnrols, Turns: true, Known: s.knownAddress,
		Shed: func(beyond string, who netip.Addr) { s.Shed("enrolments "+beyond, who.String()) }}
	s.events = events.New(events.Kept, s.now)
	s.sets = journal.NewHub(s.store)
	s.sets.Also = s.setsChanged
	s.encoded = journal.NewShared[encodedDelta]()
	s.imageOf = usableImage
	if err := fabric.TakeOver(ctx, s.store); err != nil {
		return nil, err
	}
	if err := s.store.Update(ctx, inventory.Migrate); err != nil {
		return nil, fmt.Errorf("bring the inventory into its present form: %w", err)
	}
	if err := s.store.Update(ctx, trust.IndexBoots); err != nil {
		return nil, fmt.Errorf("index the tokens of boots: %w", err)
	}
	if err := networks.TakeOverPorts(ctx, s.store); err != nil {
		return nil, err
	}
	if err := networks.TakeOverAllowed(ctx, s.store); err != nil {
		return nil, err
	}
	if err := networks.TakeOverPlaces(ctx, s.store); err != nil {
		return nil, err
	}
	var told []string
	err = s.store.Update(ctx, func(tx store.Tx) (err error) {
		if err := journal.Begin(tx); err != nil {
			return err
		}
		if told, err = s.takeOverAdmin(tx); err != nil {
			return err
		}
		return takeOverCounters(tx)
	})
	if err != nil {
		return nil, err
	}
	if err := networks.TakeOverOwned(ctx, s.store); err != nil {
		return nil, err
	}
	if err := networks.TakeOverFabrics(ctx, s.store); err != nil {
		return nil, err
	}
	if err := s.store.Update(ctx, takeOverNAT); err != nil {
		return nil, err
	}
	if err := s.publishRules(ctx); err != nil {
		return nil, err
	}
	for _, text := range told {
		s.log.Warn("the admin network is one of the networks now, named admin", "note", text)
	}
	if err := s.store.Update(ctx, upgradeBoots); err != nil {
		return nil, err
	}
	s.hosts.follow(ctx, s.store)
	return s, nil
}

// Close closes the store. Run must have returned.
func (s *Server) Close() error { return s.store.Close() }

// Answers are what the head node was initialised with.
func (s *Server) Answers() answers.Answers { return s.answers }

// Files gives a boot server the platform files.
func (s *Server) Files() *images.Store { return s.images }

// Ready is closed when both listeners are open and served.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// HTTPS is the address of the HTTPS listener, once Ready is closed.
func (s *Server) HTTPS() netip.AddrPort { return s.https }

// CASHA256 is the digest agents and clients pin.
func (s *Server) CASHA256() string { return s.ca.SHA256() }

// Alive reports whether the store answers within five seconds and still takes
// writes; the watchdog is fed by it. It writes nothing.
func (s *Server) Alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.store.Update(ctx, func(tx store.Tx) error {
		_, err := store.Has(tx, answersKey)
		return err
	})
}

// apiURL is where agents find the API.
func (s *Server) apiURL() string {
	port := s.cfg.Listen.Port()
	if port == 0 {
		port = s.https.Port()
	}
	return "https://" + s.answers.Admin.Address.Addr().String() + ":" + strconv.Itoa(int(port))
}

// ntp is the time servers as they travel.
func (s *Server) ntp() []string {
	var out []string
	for _, a := range s.answers.Admin.NTP {
		out = append(out, a.String())
	}
	return out
}

// BootServer says where the boot server of this head node is, when that is not
// port 80 of the admin address. Call it before Run.
func (s *Server) BootServer(addr netip.Addr, port int) {
	s.cfg.BootServer = "http://" + addr.String()
	if port != 80 {
		s.cfg.BootServer = "http://" + netip.AddrPortFrom(addr, uint16(port)).String()
	}
}
