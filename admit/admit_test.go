package admit

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// room is a door, whose clients from 1000 on are known, and what became of its places.
type room struct {
	*Door
	t    *testing.T
	shed []string
	left map[*Place]bool
	of   map[netip.Addr][]*Place
}

func newRoom(t *testing.T, d *Door) *room {
	r := &room{Door: d, t: t, left: map[*Place]bool{}, of: map[netip.Addr][]*Place{}}
	r.Known = func(a netip.Addr) bool { return a.As4()[2] >= 3 }
	r.Shed = func(beyond string, who netip.Addr) { r.shed = append(r.shed, fmt.Sprint(who, " ", beyond)) }
	return r
}

func (r *room) enter(n int) string {
	a := addr(n)
	var p *Place
	p, beyond := r.Enter(a, func() {
		r.left[p] = true
		r.of[a] = slices.DeleteFunc(r.of[a], func(x *Place) bool { return x == p })
	})
	if p != nil {
		r.of[a] = append(r.of[a], p)
	}
	return beyond
}

func (r *room) want(what string, n int, beyond string) {
	r.t.Helper()
	if got := r.enter(n); got != beyond {
		r.t.Errorf("%s: %q, want %q", what, got, beyond)
	}
}

func (r *room) has(n, want int) {
	r.t.Helper()
	if got := len(r.of[addr(n)]); got != want {
		r.t.Errorf("client %d has %d places, want %d", n, got, want)
	}
}

// TestDoor: who is let in when, and who gives way.
func TestDoor(t *testing.T) {
	r := newRoom(t, &Door{Total: 10, Strangers: 6, PerClient: 4})
	for range 4 {
		r.want("one client", 1, "")
	}
	r.want("one client", 1, "beyond 4 of one client")
	r.want("another stranger", 2, "")
	r.want("another stranger", 2, "")
	r.want("one with none when strangers are full", 3, "")
	r.has(1, 3)
	r.want("one with one, where another has three", 3, "")
	r.has(1, 2)
	r.want("one with two, where nobody has four", 3, "beyond 6 of strangers")
	for n := range 3 {
		r.want("one with none", 4+n, "")
	}
	for n := range 6 {
		r.has(1+n, 1)
	}
	r.want("one with none, where all have one", 7, "beyond 6 of strangers")
	for n := range 4 {
		r.want("a known one has room of its own", 1000+n/2, "")
	}
	if r.Held() != 10 {
		t.Errorf("%d places of 10 are held", r.Held())
	}
	for range 4 { // strangers give way to known ones, down to nothing
		r.want("a known one", 1002, "")
	}
	r.want("a known one", 1003, "")
	r.want("a known one", 1003, "")
	r.want("a known one with none, of a known one with many", 1004, "")
	r.has(1002, 3)
	r.want("strangers when known ones have all", 8, "beyond 10 at once")
	if want := "10.0.0.1 beyond 4 of one client"; r.shed[0] != want || len(r.shed) != 16 {
		t.Errorf("told %d: %q", len(r.shed), r.shed)
	}
	if gone := "10.0.0.1 that gave way to other clients"; r.shed[1] != gone {
		t.Errorf("told %q, want %q", r.shed[1], gone)
	}
}

// TestProof: who proved to be known keeps its place when strangers fill theirs.
func TestProof(t *testing.T) {
	r := newRoom(t, &Door{Total: 4, PerClient: 4})
	r.want("a stranger", 1, "")
	r.want("the same", 1, "")
	r.of[addr(1)][0].Prove()
	r.of[addr(1)][0].Prove()
	for n := range 2 {
		r.want("strangers", 2+n, "")
	}
	r.want("no stranger has two", 9, "beyond 4 at once")
	r.has(1, 2)
	for _, p := range r.of[addr(1)] {
		p.Leave()
		p.Leave()
	}
	r.of[addr(1)][0].Prove() // too late to count
	if r.Held() != 2 {
		t.Errorf("%d places are held", r.Held())
	}
	r.want("a place that was given up", 9, "")
}

// TestStay: where nobody can be sent away, who comes late has to.
func TestStay(t *testing.T) {
	r := newRoom(t, &Door{Total: 4, Strangers: 2, PerClient: 4, Stay: true})
	r.want("a stranger", 1, "")
	r.want("a stranger", 1, "")
	r.want("a stranger", 2, "beyond 2 of strangers")
	r.want("a known one", 1000, "")
	r.want("a known one", 1000, "")
	r.want("a known one", 1001, "beyond 4 at once")
}

// TestTurns: where strangers hold one place each, the first of them gives it to one
// that has none.
func TestTurns(t *testing.T) {
	r := newRoom(t, &Door{Total: 4, Strangers: 2, PerClient: 2, Turns: true})
	for n := range 4 {
		r.want("strangers", n, "")
	}
	r.has(1, 0)
	r.has(2, 1)
	r.want("one that has one", 3, "beyond 2 of strangers")
	r.want("a known one", 1000, "")
	r.want("a known one", 1000, "")
	r.want("a stranger", 4, "")
	r.has(2, 0)
	r.has(1000, 2)
}

// TestCounts: whatever comes and goes, the bounds hold and the counts are right.
func TestCounts(t *testing.T) {
	r := newRoom(t, &Door{Total: 30, Strangers: 20, PerClient: 5})
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		n := rnd.IntN(20)
		if n >= 12 {
			n += 1000
		}
		switch ps := r.of[addr(n)]; {
		case rnd.IntN(3) > 0:
			r.enter(n)
		case len(ps) > 0:
			ps[0].Leave()
			r.of[addr(n)] = ps[1:]
		}
		all, strangers := 0, 0
		for a, ps := range r.of {
			if all += len(ps); !r.Known(a) {
				strangers += len(ps)
			}
			if len(ps) > 5 {
				t.Fatalf("%s has %d places", a, len(ps))
			}
		}
		if all != r.Held() || all > 30 || strangers > 20 || strangers != r.kinds[stranger].places {
			t.Fatalf("%d places, %d of strangers; the door has %d and %d", all, strangers, r.Held(), r.kinds[stranger].places)
		}
	}
	for _, ps := range r.of {
		for _, p := range ps {
			p.Leave()
		}
	}
	if r.Held() != 0 || len(r.clients) != 0 {
		t.Errorf("%d places and %d clients are left", r.Held(), len(r.clients))
	}
}

// TestListener: one address has its bound, another comes in beside it, and a
// connection that is closed gives its place back.
func TestListener(t *testing.T) {
	inner, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l := &Listener{TCPListener: inner, Door: &Door{Total: 2, PerClient: 1}, waiting: lateClose{by: time.Millisecond}}
	accepted := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	dial := func(from byte) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
		c, err := d.DialContext(t.Context(), "tcp4", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	closed := func(c net.Conn) {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection is open: %v", err)
		}
	}
	dial(1)
	first := <-accepted
	if _, ok := first.(io.ReaderFrom); !ok {
		t.Error("the connection has no ReadFrom, so files would be copied through memory")
	}
	closed(dial(1))
	dial(2)
	(<-accepted).Close()
	dial(3)
	<-accepted
	closed(dial(4))
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	_ = first.Close() // gives no second place back
	dial(1)
	<-accepted
	closed(dial(4))
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// TestLateClose: a connection that is not let in stays open for a while, and is closed
// at once when there are too many of them, or with the listener.
func TestLateClose(t *testing.T) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	w := &lateClose{by: time.Hour}
	var ours *net.TCPConn // the last one's other end
	for range lateMost + 1 {
		if ours, err = net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr)); err != nil {
			t.Fatal(err)
		}
		c, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		w.add(c)
	}
	if n, err := ours.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("one too many: %v, want it closed", err)
	}
	if len(w.conns) != lateMost {
		t.Errorf("%d connections wait, want %d", len(w.conns), lateMost)
	}
	for c := range w.conns {
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatalf("a connection that waits is closed: %v", err)
		}
	}
	w.end()
	late, err := net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	c, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	w.add(c)
	if n, err := late.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v, want it closed", err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}
