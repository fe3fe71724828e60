package bootserver

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"nereid/admit"
	"nereid/bootserver/dhcp"
)

// Ports are the ports the legs listen on. 0 is the protocol's own, -1 any free
// one, for tests.
type Ports struct {
	DHCP, BootService, TFTP, HTTP int
}

// Server boots machines. Its fields are its configuration and must not change
// after Run was called.
type Server struct {
	// Interface is the admin network's; empty means all, and no IPv6 router
	// advertisements.
	Interface string
	// Address is the boot server's own, with the admin network's prefix length.
	Address netip.Prefix
	Booter  Booter
	// Known reports, from memory, whether a MAC is one of a server of the inventory:
	// those go before others. nil: none is.
	Known func(mac string) bool
	Files Files
	// Shed, when not nil, hears of what is not done for a client because too much is
	// asked: what, in the plural, and of whom the last was.
	Shed func(what, who string)
	// IPXEDir holds iPXE's programs; empty means where Debian has them.
	IPXEDir string
	// Clients is whom DHCP answers: "pxe" (also when empty) or "all".
	Clients string
	Ports   Ports
	// Logger may be nil.
	Logger *slog.Logger

	readyOnce sync.Once
	readyCh   chan struct{}

	ipxe     map[string][]byte
	httpAddr netip.AddrPort
	tftpAddr netip.AddrPort
	dhcpAddr [2]netip.AddrPort
	leases   recent[netip.Addr, string] // address to boot id
	macs     recent[string, string]     // MAC to boot id
	boots    recent[string, *bootFiles]
	configs  inFlight
	deaf     deaf
}

// Ready is closed when all sockets are open and served.
func (s *Server) Ready() <-chan struct{} {
	s.readyOnce.Do(func() { s.readyCh = make(chan struct{}) })
	return s.readyCh
}

// Run serves until ctx ends and then returns nil. All sockets are opened before
// anything is served; when one cannot be, the others are closed again. It may be
// called once.
func (s *Server) Run(ctx context.Context) error {
	ls, err := s.open(ctx)
	if err != nil {
		return err
	}
	s.checkSource()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.dhcpServer().Serve(ctx, ls.dhcp...) })
	g.Go(func() error { return s.tftpServer(ctx).Serve(ctx, ls.tftp) })
	web := s.httpServer()
	web.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	g.Go(func() error {
		if err := web.Serve(&admit.Listener{TCPListener: ls.http, Door: s.door()}); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP on %s: %w", ls.http.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		// Transfers in progress get a moment; the clients resume the others.
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := web.Shutdown(sctx); err != nil {
			return web.Close()
		}
		return nil
	})
	if s.Interface != "" {
		g.Go(func() error { return s.follow(ctx, ls.dhcp) })
		g.Go(func() error { return s.advertise(ctx) })
	}
	s.log().Info("boot server ready", "interface", s.Interface, "address", s.Address.String(), "clients", s.clients(), "http", s.URL())
	s.Ready()
	close(s.readyCh)
	return g.Wait()
}

// listeners are the open sockets.
type listeners struct {
	dhcp []*dhcp.Conn
	tftp *net.UDPConn
	http *net.TCPListener
}

func (l *listeners) close() {
	for _, c := range l.dhcp {
		_ = c.Close()
	}
	if l.tftp != nil {
		_ = l.tftp.Close()
	}
	if l.http != nil {
		_ = l.http.Close()
	}
}

// open checks the configuration, reads iPXE and opens all sockets, or none.
func (s *Server) open(ctx context.Context) (_ *listeners, err error) {
	if !s.Address.Addr().Is4() {
		return nil, fmt.Errorf("start boot server: address %s is not IPv4; DHCPv4 needs one", s.Address)
	}
	if c := s.clients(); c != "pxe" && c != "all" {
		return nil, fmt.Errorf("start boot server: clients is %q; want pxe or all", c)
	}
	if s.ipxe, err = readIPXE(s.IPXEDir); err != nil {
		return nil, fmt.Errorf("start boot server: %w", err)
	}
	ls := &listeners{}
	defer func() {
		if err != nil {
			ls.close()
		}
	}()
	for i, p := range []int{port(s.Ports.DHCP, dhcp.ServerPort), port(s.Ports.BootService, dhcp.BootServicePort)} {
		c, err := dhcp.Listen(ctx, s.Interface, p, i == 1)
		if err != nil {
			return nil, fmt.Errorf("start boot server: %w", err)
		}
		ls.dhcp = append(ls.dhcp, c)
		s.dhcpAddr[i] = c.Addr()
	}
	host := s.Address.Addr().String()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp4", net.JoinHostPort(host, strconv.Itoa(port(s.Ports.TFTP, 69))))
	if err != nil {
		return nil, fmt.Errorf("start boot server: listen for TFTP: %w", err)
	}
	ls.tftp = pc.(*net.UDPConn)
	s.tftpAddr = ls.tftp.LocalAddr().(*net.UDPAddr).AddrPort()
	hl, err := lc.Listen(ctx, "tcp4", net.JoinHostPort(host, strconv.Itoa(port(s.Ports.HTTP, 80))))
	if err != nil {
		return nil, fmt.Errorf("start boot server: listen for HTTP: %w", err)
	}
	ls.http = hl.(*net.TCPListener)
	s.httpAddr = ls.http.Addr().(*net.TCPAddr).AddrPort()
	return ls, nil
}

// port is the port to listen on for a field of Ports.
func port(p, own int) int {
	switch {
	case p == 0:
		return own
	case p < 0:
		return 0
	}
	return p
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

func (s *Server) errorLog() *log.Logger {
	return slog.NewLogLogger(s.log().Handler(), slog.LevelDebug)
}
