package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	engine "github.com/pin/tftp/v3"
	"golang.org/x/sync/errgroup"

	"nereid/admit"
)

// Transfer is a file sent to a client, or the part of it that was.
type Transfer struct {
	Client netip.AddrPort
	File   string
	// Bytes of Size were acknowledged, or at least given to the network.
	Bytes, Size int64
	Duration    time.Duration
	// Err is nil when the client acknowledged the last block.
	Err error
}

// Server sends Files to whoever asks.
type Server struct {
	// Files are all there is, by name.
	Files map[string][]byte
	// MaxTransfers bounds the reads in progress; 0 means 256.
	MaxTransfers int
	// MaxPerClient bounds the reads of one address; 0 means 8.
	MaxPerClient int
	// BlockSize is the largest block, in bytes; 0 means 1468, which fills an
	// Ethernet frame of 1500.
	BlockSize int
	// Timeout is the wait for an acknowledgement before a block is sent again,
	// five times at most; 0 means 1 s.
	Timeout time.Duration
	// Known reports whether an address has a lease; nil means all have.
	Known func(netip.Addr) bool
	// Shed, when not nil, hears of reads that are dropped beyond a limit.
	Shed func(beyond string, client netip.Addr)
	// Done is called after each transfer, Refused after each refusal.
	Done    func(Transfer)
	Refused func(client netip.Addr, text string)
	Logger  *slog.Logger

	warned atomic.Int64 // unix seconds of the last overload warning
}

// Serve answers on conn until ctx ends, then closes it, lets transfers stop
// (within a few timeouts) and returns nil.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	g := &gate{UDPConn: conn, server: s, slots: s.newSlots()}
	block, timeout := s.BlockSize, s.Timeout
	if block <= 0 {
		block = 1468
	}
	if timeout <= 0 {
		timeout = time.Second
	}

	e := engine.NewServer(func(name string, rf io.ReaderFrom) error {
		return s.send(ctx, g, name, rf)
	}, nil)
	// The engine knows the MTU only of sockets it opened itself, so the largest
	// block is ours to say.
	e.SetBlockSizeNegotiation(false)
	e.SetBlockSize(block)
	e.SetTimeout(timeout)
	e.SetRetries(5)
	e.SetBackoff(func(int) time.Duration { return 0 }) // the timeout has passed already
	e.SetHook(hook{g})

	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := e.Serve(g); err != nil {
			return fmt.Errorf("serve TFTP on %s: %w", conn.LocalAddr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-gctx.Done()
		e.Shutdown()
		return nil
	})
	return group.Wait()
}

// send is one transfer.
func (s *Server) send(ctx context.Context, g *gate, name string, rf io.ReaderFrom) error {
	peer := rf.(engine.OutgoingTransfer).RemoteAddr()
	client := peer.AddrPort()
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	defer g.slots.release(client)
	data := s.Files[name]
	r := &source{Reader: bytes.NewReader(data), ctx: ctx}
	start := time.Now()
	n, err := rf.ReadFrom(r)
	t := Transfer{Client: client, File: name, Bytes: n, Size: int64(len(data)), Duration: time.Since(start), Err: err}
	log := s.log().With("client", client.String(), "file", name, "bytes", n, "seconds", t.Duration.Seconds())
	switch {
	case err == nil:
		log.Info("TFTP file sent")
	case n <= r.block:
		// Not one block was acknowledged: a client that asked for the size
		// only, or a half-open read.
		log.Debug("TFTP read ended before its first block was acknowledged", "err", err)
		return err
	default:
		log.Warn("TFTP transfer cut", "err", err)
	}
	if s.Done != nil {
		s.Done(t)
	}
	return err
}

// source is a file that ends with an error when the server stops. The engine
// reads it one block at a time, which tells the block size that was agreed on.
type source struct {
	*bytes.Reader
	ctx   context.Context
	block int64
}

func (r *source) Read(p []byte) (int, error) {
	r.block = max(r.block, int64(len(p)))
	if r.ctx.Err() != nil {
		return 0, errors.New("the boot server is stopping: try again")
	}
	return r.Reader.Read(p)
}

// hook hears of requests the engine could not start, for want of a socket.
type hook struct{ g *gate }

func (hook) OnSuccess(engine.TransferStats) {}

func (h hook) OnFailure(stats engine.TransferStats, err error) {
	if stats.RemoteAddr != nil || h.g.closed.Load() {
		return
	}
	h.g.slots.releaseLast()
	h.g.server.log().Error("start TFTP transfer", "err", err)
}

func (s *Server) has(name string) bool {
	_, ok := s.Files[name]
	return ok
}

// newSlots are the slots for reads. Clients that are not known may fill a quarter.
func (s *Server) newSlots() *slots {
	d := &admit.Door{Total: s.MaxTransfers, PerClient: s.MaxPerClient, Known: s.Known, Shed: s.Shed, Stay: true}
	if d.Total <= 0 {
		d.Total = 256
	}
	if d.PerClient <= 0 {
		d.PerClient = 8
	}
	if d.Strangers = max(1, d.Total/4); s.Known == nil {
		d.Strangers = d.Total
	}
	return &slots{door: d, active: map[netip.AddrPort]*admit.Place{}}
}

func (s *Server) refused(client netip.Addr, text string) {
	s.log().Info("TFTP request refused", "client", client.String(), "why", text)
	if s.Refused != nil {
		s.Refused(client, text)
	}
}

// overload says once in ten seconds that reads are dropped.
func (s *Server) overload(from netip.AddrPort, why string) {
	now := time.Now().Unix()
	last := s.warned.Load()
	if now-last >= 10 && s.warned.CompareAndSwap(last, now) {
		s.log().Warn("TFTP reads are dropped, clients will ask again", "client", from.String(), "why", why)
		return
	}
	s.log().Debug("TFTP read dropped", "client", from.String(), "why", why)
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}
