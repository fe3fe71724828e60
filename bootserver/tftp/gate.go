package tftp

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"nereid/admit"
)

// gate is the socket of port 69 as the protocol engine sees it: only reads that
// were admitted come out of it.
type gate struct {
	*net.UDPConn
	server *Server
	slots  *slots
	closed atomic.Bool
}

// Close closes the socket.
func (g *gate) Close() error {
	g.closed.Store(true)
	return g.UDPConn.Close()
}

// ReadFrom waits for the next admitted read request.
func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	buf := make([]byte, 2048)
	for {
		n, from, err := g.UDPConn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				// The engine asks again until it has noticed that it was stopped.
				time.Sleep(time.Millisecond)
				return 0, nil, err
			}
			g.server.log().Warn("read TFTP socket", "err", err)
			time.Sleep(100 * time.Millisecond) // an interface that is down answers at once
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		v := Decide(buf[:n], g.server.has)
		switch {
		case v.Text != "":
			// Errors are sent once and never asked for again (RFC 1350, section 7).
			_, _ = g.UDPConn.WriteToUDPAddrPort(errorPacket(v.Code, v.Text), from)
			g.server.refused(from.Addr(), v.Text)
		case v.File == "":
			g.server.log().Debug("TFTP datagram dropped", "from", from.String(), "bytes", n)
		case len(v.Read) > len(p):
			g.server.log().Debug("TFTP request dropped: too long", "from", from.String(), "bytes", n)
		default:
			if why := g.slots.take(from); why != "" {
				g.server.overload(from, why)
				continue
			}
			return copy(p, v.Read), net.UDPAddrFromAddrPort(from), nil
		}
	}
}

// slots are the reads in progress.
type slots struct {
	door *admit.Door

	mu     sync.Mutex
	active map[netip.AddrPort]*admit.Place
	last   netip.AddrPort
}

// take reserves a slot, or says why there is none.
func (s *slots) take(from netip.AddrPort) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[from] != nil {
		return "the same read is in progress"
	}
	place, beyond := s.door.Enter(from.Addr(), nil)
	if place == nil {
		return beyond
	}
	s.active[from], s.last = place, from
	return ""
}

func (s *slots) release(from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.active[from]; p != nil {
		p.Leave()
		delete(s.active, from)
	}
}

// releaseLast gives back the slot of a read the engine could not start.
func (s *slots) releaseLast() {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	s.release(last)
}
