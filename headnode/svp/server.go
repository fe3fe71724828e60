package svp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"nereid/admit"
)

// Port is the TCP port that SmartOS nodes connect to.
const Port = 1296

// Limits that a Server has unless it is told others.
const (
	DefaultMaxConns     = 4096
	DefaultMaxPerClient = 16
	DefaultIdle         = 2 * time.Minute // varpd asks for its log every 10 s or sooner
	DefaultTimeout      = 10 * time.Second
)

// Sizes of a connection's buffers, in bytes. Only LOG_RM and LOG_ACK can be larger
// than a small message.
const (
	bufferSize   = 4096
	smallMessage = 256
)

// Server answers SmartOS nodes. Its fields are not to be changed once it serves.
type Server struct {
	Lookup Lookup
	Allow  func(netip.Addr) bool                // whether an address is a node's: of a peer, and of the log it asks for; nil: none is
	Log    *slog.Logger                         // nil: nothing is logged
	Shed   func(beyond string, peer netip.Addr) // hears of connections beyond a limit; nil: nobody does

	MaxConns     int           // 0: DefaultMaxConns
	MaxPerClient int           // connections from one address; 0: DefaultMaxPerClient
	Idle         time.Duration // a connection that is silent for so long is closed; 0: DefaultIdle
	Timeout      time.Duration // for the rest of a message, a look-up, and a write; 0: DefaultTimeout

	counters counters
	once     sync.Once
	entrance *admit.Door
}

// Serve answers the connections of l until ctx ends. It closes l, lets requests in
// work end, waits for all connections, and then returns nil; an error is that of a
// listener that broke.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || isExhausted(err) {
				s.log().Warn("cannot accept a SmartOS node's connection", "err", err)
				if wait(ctx, 100*time.Millisecond) {
					continue
				}
				return nil
			}
			return fmt.Errorf("accept SVP connection: %w", err)
		}
		place, peer := s.admit(c)
		if place == nil {
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer place.Leave()
			s.serve(ctx, c, peer)
		})
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// wait is false when ctx ended meanwhile.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// allowed says whether an address may be a node's.
func (s *Server) allowed(a netip.Addr) bool { return s.Allow != nil && s.Allow(a.Unmap()) }

// door is who may have how many connections.
func (s *Server) door() *admit.Door {
	s.once.Do(func() {
		s.entrance = &admit.Door{Total: or(s.MaxConns, DefaultMaxConns), PerClient: or(s.MaxPerClient, DefaultMaxPerClient),
			Shed: func(beyond string, peer netip.Addr) {
				s.counters.refused.Add(1)
				s.log().Debug("SVP connection refused", "peer", peer.String(), "why", beyond)
				if s.Shed != nil {
					s.Shed(beyond, peer)
				}
			}}
	})
	return s.entrance
}

// admit lets a connection in; without a place it is refused.
func (s *Server) admit(c net.Conn) (*admit.Place, netip.Addr) {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	peer := ap.Addr().Unmap().WithZone("")
	if err != nil || !s.allowed(peer) {
		s.counters.refused.Add(1)
		return nil, peer
	}
	p, _ := s.door().Enter(peer, func() { _ = c.Close() })
	return p, peer
}

func or[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// serve answers one connection's requests in their order, and closes it.
func (s *Server) serve(ctx context.Context, c net.Conn, peer netip.Addr) {
	defer c.Close()
	// A read that waits for the next request ends when ctx does.
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.converse(ctx, c)
	switch {
	case err == nil, errors.Is(err, io.EOF), ctx.Err() != nil:
	case errors.Is(err, ErrCRC):
		s.counters.badCRC.Add(1)
		s.log().Warn("SVP connection closed", "peer", peer.String(), "err", err)
	default:
		s.log().Debug("SVP connection closed", "peer", peer.String(), "err", err)
	}
}

func (s *Server) converse(ctx context.Context, c net.Conn) error {
	timeout := or(s.Timeout, DefaultTimeout)
	r, w := bufio.NewReaderSize(c, bufferSize), bufio.NewWriterSize(deadlineWriter{ctx, c, timeout}, bufferSize)
	in, out := make([]byte, smallMessage), make([]byte, 0, smallMessage)
	for {
		if err := readWithin(ctx, c, or(s.Idle, DefaultIdle)); err != nil {
			return err
		}
		if _, err := r.Peek(1); err != nil {
			return err
		}
		if err := readWithin(ctx, c, timeout); err != nil {
			return err
		}
		f, err := Read(r, in)
		if err != nil && !errors.Is(err, ErrFormat) {
			return err
		}
		reply, last, err := s.answerWithin(ctx, timeout, f)
		if err != nil {
			s.log().Error("answer SmartOS node", "peer", c.RemoteAddr().String(), "err", err)
		}
		if reply != nil {
			if _, err := w.Write(Append(out, f.ID, reply)); err != nil {
				return fmt.Errorf("write answer: %w", err)
			}
		}
		if last || !hasMessage(r) {
			if err := w.Flush(); err != nil {
				return fmt.Errorf("write answer: %w", err)
			}
		}
		if last {
			return nil
		}
	}
}

// hasMessage says whether the next message is there as a whole, so that the answer
// to it can be sent with the one before.
func hasMessage(r *bufio.Reader) bool {
	if r.Buffered() < HeaderSize {
		return false
	}
	header, err := r.Peek(HeaderSize)
	if err != nil {
		return false
	}
	size, err := payloadSize(header)
	return err == nil && r.Buffered() >= HeaderSize+size
}

// readWithin gives the next read its time, unless ctx has ended.
func readWithin(ctx context.Context, c net.Conn, d time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	return ctx.Err() // looked at after: at its end the deadline is set too
}

// answerWithin bounds the time of a look-up. One that has begun is not broken off
// by the end of the server.
func (s *Server) answerWithin(ctx context.Context, d time.Duration, f Frame) (Message, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	defer cancel()
	return s.answer(ctx, f)
}

// deadlineWriter gives each write the same time, and less when the server stops.
type deadlineWriter struct {
	ctx context.Context
	c   net.Conn
	d   time.Duration
}

func (w deadlineWriter) Write(p []byte) (int, error) {
	d := w.d
	if w.ctx.Err() != nil {
		d = min(d, time.Second)
	}
	if err := w.c.SetWriteDeadline(time.Now().Add(d)); err != nil {
		return 0, err
	}
	return w.c.Write(p)
}
