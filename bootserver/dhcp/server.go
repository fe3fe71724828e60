package dhcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
)

// decideTimeout bounds one decision. A ROM asks again after 4 s at the latest
// (PXE 2.1, section 2.2.4), so a later answer is worth nothing.
const decideTimeout = 4 * time.Second

// Server answers DHCP on the sockets it is given.
type Server struct {
	Settings Settings
	Decider  Decider
	// Answered is called after each decided message, from several goroutines.
	Answered func(ctx context.Context, out Outcome)
	// Known reports whether a MAC, in lower case with colons, is one of a server of
	// the inventory, from memory. Known machines go before others. nil: none is.
	Known func(mac string) bool
	// Shed, when not nil, hears of the sender of each message that is dropped because
	// too many wait.
	Shed func(mac string)
	// Queue is the number of messages of a kind that may wait; 0 means 256.
	Queue int
	// Asked is the number of messages decided at once that only read, and Finished of
	// those that write, which share a commit; 0 means two for each CPU, and 512.
	Asked, Finished int
	Logger          *slog.Logger

	notices notices
}

// Serve answers until ctx ends, then closes the sockets and returns nil.
func (s *Server) Serve(ctx context.Context, conns ...*Conn) error {
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	g, ctx := errgroup.WithContext(ctx)
	q := newQueue(ctx, cmp.Or(s.Queue, 256))
	for _, c := range conns {
		g.Go(func() error { return s.read(ctx, c, q) })
		g.Go(func() error {
			<-ctx.Done()
			return c.Close()
		})
	}
	for range cmp.Or(s.Asked, 2*runtime.GOMAXPROCS(0)) {
		g.Go(func() error { return s.answer(ctx, q, q.popAsk) })
	}
	for range cmp.Or(s.Finished, 512) {
		g.Go(func() error { return s.answer(ctx, q, q.popFinish) })
	}
	return g.Wait()
}

// answer answers the messages that pop gives, one after another.
func (s *Server) answer(ctx context.Context, q *queue, pop func() (packet, bool)) error {
	for p, ok := pop(); ok; p, ok = pop() {
		s.work(ctx, p)
		q.done(p)
	}
	return nil
}

func (s *Server) read(ctx context.Context, c *Conn, q *queue) error {
	buf := make([]byte, 4096)
	for {
		udp := c.socket()
		n, from, err := udp.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && udp != c.socket() {
			continue // bound again
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("read DHCP socket %s: %w", c.Addr(), err)
			}
			// ICMP errors of earlier answers and a link that is down surface here.
			s.Logger.Warn("read DHCP socket", "socket", c.Addr().String(), "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		k, ok := retransmissionKey(buf[:n], c.bootService)
		if !ok {
			s.Logger.Debug("DHCP message dropped", "from", from.String(), "why", "shorter than a DHCP message", "bytes", n)
			continue
		}
		mac := net.HardwareAddr(k.mac[:]).String()
		p := packet{data: buf[:n], from: from, conn: c, key: k, lane: laneOf(k, s.Known != nil && s.Known(mac))}
		if _, shed := q.push(p); shed {
			if s.notices.first("overload", time.Now()) {
				s.Logger.Warn("more DHCP messages come than can be answered: the newest are dropped, their senders will ask again", "queue", q.size)
			}
			if s.Shed != nil {
				s.Shed(mac)
			}
		}
	}
}

func (s *Server) work(ctx context.Context, p packet) {
	dctx, cancel := context.WithTimeout(ctx, decideTimeout)
	defer cancel()
	out, err := s.Settings.Handle(dctx, s.Decider, p.data, p.from, p.conn.bootService)
	log := s.Logger.With("mac", out.Request.Boot.MAC)
	if out.Request.Message != nil {
		log = log.With("message", out.Request.Type.String())
	}
	if err != nil {
		s.logSilence(ctx, log, out, err)
	}
	if out.Request.Message == nil {
		return
	}
	if out.Reply != nil {
		if err := s.send(p.conn, out.Reply.ToBytes(), out.To); err != nil {
			log.Error("send DHCP answer", "to", out.To.String(), "err", err)
		} else {
			log.Info("DHCP answer", "answer", out.Reply.MessageType().String(), "address", ipText(out.Reply.YourIPAddr),
				"file", out.BootFile, "rule", out.Answer.Rule, "refused", out.Refused, "boot", out.Answer.BootID)
		}
	}
	if s.Answered != nil && (err == nil || out.Refused != "") {
		s.Answered(dctx, out)
	}
}

// logSilence logs why nobody was answered: an error of the decider always, a
// deliberate silence once a minute for each machine and reason.
func (s *Server) logSilence(ctx context.Context, log *slog.Logger, out Outcome, err error) {
	level := slog.LevelError
	if errors.Is(err, ErrDropped) {
		level = slog.LevelDebug
		if out.Request.Message != nil && s.notices.first(out.Request.Boot.MAC+err.Error(), time.Now()) {
			level = slog.LevelInfo
		}
	}
	log.Log(ctx, level, "DHCP message not answered", "why", err.Error())
}

// send sends from the server's own address, which matters where the interface
// has several.
func (s *Server) send(c *Conn, b []byte, to netip.AddrPort) error {
	cm := ipv4.ControlMessage{Src: s.Settings.Address.Addr().AsSlice()}
	_, _, err := c.socket().WriteMsgUDPAddrPort(b, cm.Marshal(), to)
	return err
}

// notices remembers what was said in the last minute, at most 1024 things.
type notices struct {
	mu   sync.Mutex
	said map[string]time.Time
}

func (n *notices) first(what string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t, ok := n.said[what]; ok && now.Sub(t) < time.Minute {
		return false
	}
	if n.said == nil || len(n.said) >= 1024 {
		n.said = map[string]time.Time{}
	}
	n.said[what] = now
	return true
}
