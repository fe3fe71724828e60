package admit

import (
	"cmp"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listener accepts the TCP connections that a Door lets in. The others are closed: a
// second later, because a client that is sent away at once comes back at once.
type Listener struct {
	*net.TCPListener
	Door *Door

	waiting lateClose
}

// lateBy is how long after a client came it is sent away; lateMost is how many
// connections wait for that at once.
const (
	lateBy   = time.Second
	lateMost = 1024
)

// Accept gives the next connection that is let in, as a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil { // the client went away already
			_ = c.Close()
			continue
		}
		if p, _ := l.Door.Enter(from.Addr(), func() { _ = c.Close() }); p != nil {
			return &Conn{TCPConn: c, Place: p}, nil
		}
		l.waiting.add(c)
	}
}

// Close ends the listener and closes the connections that it did not let in.
func (l *Listener) Close() error {
	err := l.TCPListener.Close()
	l.waiting.end()
	return err
}

// lateClose closes connections some time after they came. Of more than lateMost the
// others are closed at once.
type lateClose struct {
	by time.Duration // 0: lateBy

	mu    sync.Mutex
	conns map[*net.TCPConn]*time.Timer
	ended bool
}

func (w *lateClose) add(c *net.TCPConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || len(w.conns) >= lateMost {
		_ = c.Close()
		return
	}
	if w.conns == nil {
		w.conns = map[*net.TCPConn]*time.Timer{}
	}
	w.conns[c] = time.AfterFunc(cmp.Or(w.by, lateBy), func() {
		_ = c.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, c)
	})
}

func (w *lateClose) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for c, t := range w.conns {
		t.Stop()
		_ = c.Close()
	}
	clear(w.conns)
}

// Conn is a connection that was let in. It is a TCP connection with all its methods, so
// that files are sent to it by the kernel.
type Conn struct {
	*net.TCPConn
	Place *Place
}

// Close closes the connection and gives its place up.
func (c *Conn) Close() error {
	err := c.TCPConn.Close()
	c.Place.Leave()
	return err
}
