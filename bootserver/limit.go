package bootserver

import (
	"net"
	"sync"
)

// limitListener accepts at most a number of connections at once. Its connections
// are TCP connections with all their methods: netutil.LimitListener hides
// ReadFrom, and with it sendfile.
type limitListener struct {
	*net.TCPListener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newLimitListener(l *net.TCPListener, n int) *limitListener {
	return &limitListener{TCPListener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept waits for a slot, then for a connection.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptTCP()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{TCPConn: c, release: func() { <-l.slots }}, nil
}

// Close stops Accept; open connections stay.
func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.TCPListener.Close()
}

type limitedConn struct {
	*net.TCPConn
	release func()
	once    sync.Once
}

func (c *limitedConn) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(c.release)
	return err
}
