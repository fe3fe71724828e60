package dhcp

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// Conn is a socket DHCP is answered on. It is bound to an interface by the
// interface's number, so it hears nothing once that interface was removed, also when
// there is another of the same name; Rebind mends that.
type Conn struct {
	ifname      string
	bootService bool
	addr        netip.AddrPort

	mu     sync.Mutex
	closed bool
	udp    *net.UDPConn
	index  int // of the interface; 0 when it is bound to none
}

// Close closes the socket.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.udp.Close()
}

// Addr is the address the socket is bound to.
func (c *Conn) Addr() netip.AddrPort { return c.addr }

// socket is what is read from and written to now.
func (c *Conn) socket() *net.UDPConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.udp
}

// Rebind binds to the interface of the name where that has another number than
// before, and reports whether it had.
func (c *Conn) Rebind(ctx context.Context, index int) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.ifname == "" || index == c.index {
		return false, nil
	}
	udp, index, err := bind(ctx, c.ifname, int(c.addr.Port()))
	if err != nil {
		return false, err
	}
	old := c.udp
	c.udp, c.index = udp, index
	return true, old.Close()
}
