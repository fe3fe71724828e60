package agent

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// window is how many bytes a half of a pipe holds.
const window = 64 << 10

// half is one direction of a pipe. As in a socket, and other than in net.Pipe, what fits
// in is written before anybody reads it: two ends that take leave of each other at once
// do not wait for each other. Who waits here lets the clock of testing/synctest go on.
type half struct {
	mu         sync.Mutex
	changed    sync.Cond
	held       []byte
	ended      bool // nothing more is written
	deaf       bool // nothing more is read
	read, sent time.Time
}

// pipe is a connection within this process, with two ends.
func pipe() (a, b net.Conn) {
	to, from := &half{}, &half{}
	to.changed.L, from.changed.L = &to.mu, &from.mu
	return &end{in: from, out: to}, &end{in: to, out: from}
}

// end is an end of a pipe.
type end struct{ in, out *half }

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (e *end) Read(b []byte) (int, error) {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.deaf:
			return 0, net.ErrClosed
		case past(h.read):
			return 0, os.ErrDeadlineExceeded
		case len(h.held) > 0:
			n := copy(b, h.held)
			h.held = h.held[n:]
			h.changed.Broadcast()
			return n, nil
		case h.ended:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (e *end) Write(b []byte) (n int, err error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(b) > 0 {
		switch room := window - len(h.held); {
		case h.ended, h.deaf:
			return n, io.ErrClosedPipe
		case past(h.sent):
			return n, os.ErrDeadlineExceeded
		case room > 0:
			part := b[:min(room, len(b))]
			h.held = append(h.held, part...)
			n, b = n+len(part), b[len(part):]
			h.changed.Broadcast()
		default:
			h.changed.Wait()
		}
	}
	return n, nil
}

func (h *half) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.changed.Broadcast()
}

// until sets a deadline, at which those who wait look again.
func (h *half) until(deadline *time.Time, t time.Time) {
	h.set(func() { *deadline = t })
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		time.AfterFunc(wait, func() { h.set(func() {}) })
	}
}

func (e *end) Close() error {
	e.out.set(func() { e.out.ended = true })
	e.in.set(func() { e.in.deaf, e.in.held = true, nil })
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error  { e.in.until(&e.in.read, t); return nil }
func (e *end) SetWriteDeadline(t time.Time) error { e.out.until(&e.out.sent, t); return nil }
func (e *end) SetDeadline(t time.Time) error {
	_, _ = e.SetReadDeadline(t), e.SetWriteDeadline(t)
	return nil
}

func (*end) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
func (*end) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
