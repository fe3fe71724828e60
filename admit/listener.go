package admit

import (
	"net"
	"net/netip"
)

// Listener accepts the TCP connections that a Door lets in and closes the others.
type Listener struct {
	*net.TCPListener
	Door *Door
}

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
		_ = c.Close()
	}
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
