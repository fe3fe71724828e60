package dhcp

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/goleak"

	"nereid/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestQueueSheds: what finds its lane full goes before anything is spent on it, and
// takes nobody's place: neither of those that wait, nor in another lane.
func TestQueueSheds(t *testing.T) {
	q := newQueue(t.Context(), 2)
	for i := range 4 {
		added, shed := q.push(packet{key: key{xid: dhcpv4.TransactionID{byte(i)}}, lane: ask})
		if added != (i < 2) || shed != (i >= 2) {
			t.Errorf("push %d: added %v, shed %v", i, added, shed)
		}
	}
	for _, l := range []lane{knownAsk, finish, knownFinish} {
		if added, shed := q.push(packet{key: key{kind: byte(l) + 1}, lane: l}); !added || shed {
			t.Errorf("lane %d: added %v, shed %v", l, added, shed)
		}
	}
	if len(q.pending) != 5 {
		t.Errorf("%d pending, want 5", len(q.pending))
	}
}

// TestQueueOrder: servers of the inventory go first, then what finishes an exchange;
// a stranger's question waits until nothing waits to be finished.
func TestQueueOrder(t *testing.T) {
	const request, discover = byte(dhcpv4.MessageTypeRequest), byte(dhcpv4.MessageTypeDiscover)
	q := newQueue(t.Context(), 8)
	for i, p := range []struct {
		kind  byte
		known bool
	}{{discover, false}, {request, false}, {request, false}, {discover, true}, {request, true}} {
		k := key{kind: p.kind, xid: dhcpv4.TransactionID{byte(i)}}
		q.push(packet{key: k, lane: laneOf(k, p.known)})
	}
	if p, ok := q.takeAsk(); ok {
		t.Errorf("message %d is asked while a server's REQUEST waits", p.key.xid[0])
	}
	want := func(take func() (packet, bool), n byte) {
		t.Helper()
		if p, ok := take(); !ok || p.key.xid[0] != n {
			t.Errorf("got %d %v, want %d", p.key.xid[0], ok, n)
		}
	}
	want(q.popFinish, 4)
	want(q.popAsk, 3)
	if p, ok := q.takeAsk(); ok {
		t.Errorf("message %d is asked while REQUESTs wait", p.key.xid[0])
	}
	want(q.popFinish, 1)
	want(q.popFinish, 2)
	want(q.popAsk, 0)
}

// TestLanes: the messages that write are those that finish what another began.
func TestLanes(t *testing.T) {
	for kind, want := range map[dhcpv4.MessageType]lane{
		dhcpv4.MessageTypeDiscover: ask, dhcpv4.MessageTypeInform: ask,
		dhcpv4.MessageTypeRequest: finish, dhcpv4.MessageTypeRelease: finish, dhcpv4.MessageTypeDecline: finish,
	} {
		for _, boot := range []bool{false, true} {
			k, ok := retransmissionKey(message(kind, class(pxe)).ToBytes(), boot)
			if !ok {
				t.Fatalf("%s has no key", kind)
			}
			if boot {
				want = ask // port 4011 leases nothing
			}
			if got := laneOf(k, false); got != want {
				t.Errorf("%s, boot service %v: lane %d, want %d", kind, boot, got, want)
			}
		}
	}
}

func TestQueueCoalesces(t *testing.T) {
	q := newQueue(t.Context(), 4)
	p := packet{key: key{kind: 1}, lane: ask}
	if added, _ := q.push(p); !added {
		t.Fatal("first was not added")
	}
	if added, shed := q.push(p); added || shed {
		t.Error("the same message is queued twice")
	}
	got, _ := q.popAsk()
	if added, _ := q.push(p); added {
		t.Error("the same message is queued while it is worked on")
	}
	q.done(got)
	if added, _ := q.push(p); !added {
		t.Error("a later retransmission is not answered")
	}
}

// slowDecider blocks until it is told to go on.
type slowDecider struct {
	mu     sync.Mutex
	calls  map[string]int
	called chan string
	goOn   chan struct{}
}

func (d *slowDecider) Boot(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	d.mu.Lock()
	d.calls[r.MAC]++
	d.mu.Unlock()
	d.called <- r.MAC
	select {
	case <-d.goOn:
	case <-ctx.Done():
		return api.BootAnswer{}, ctx.Err()
	}
	a := full()
	a.Address = netip.MustParsePrefix("127.0.0.9/8")
	return a, nil
}

// TestServerCoalesces sends one message many times over a real socket while the
// first is being decided; it must be decided once.
func TestServerCoalesces(t *testing.T) {
	conn, err := Listen(t.Context(), "", 0, false)
	if err != nil {
		t.Fatal(err)
	}
	d := &slowDecider{calls: map[string]int{}, called: make(chan string, 8), goOn: make(chan struct{})}
	answered := make(chan Outcome, 8)
	s := &Server{Settings: Settings{Address: netip.MustParsePrefix("127.0.0.1/8"), Clients: "all", URL: "http://127.0.0.1"},
		Decider: d, Answered: func(_ context.Context, o Outcome) { answered <- o }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()

	c, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), conn.Addr().Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(m *dhcpv4.DHCPv4) {
		if _, err := c.Write(m.ToBytes()); err != nil {
			t.Fatal(err)
		}
	}
	// ciaddr, so that the answer goes to an address and not to a broadcast.
	m := message(dhcpv4.MessageTypeRequest, class(pxe), ciaddr("127.0.0.9"))
	other := message(dhcpv4.MessageTypeRequest, class(pxe), ciaddr("127.0.0.9"))
	other.ClientHWAddr = []byte{0x52, 0x54, 0, 0, 0, 1}
	for range 20 {
		send(m)
	}
	send(other)
	for range 2 { // the first of 20 and the other
		select {
		case <-d.called:
		case <-time.After(5 * time.Second):
			t.Fatal("a message was not decided")
		}
	}
	close(d.goOn)
	for range 2 {
		select {
		case <-answered:
		case <-time.After(5 * time.Second):
			t.Fatal("a message was not answered")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if d.calls[testMAC] != 1 || d.calls["52:54:00:00:00:01"] != 1 {
		t.Errorf("decided %v times", d.calls)
	}
}

// TestShedIsTold: with one DISCOVER being decided and one waiting, a third is dropped
// undecided, and its sender is named.
func TestShedIsTold(t *testing.T) {
	conn, err := Listen(t.Context(), "", 0, false)
	if err != nil {
		t.Fatal(err)
	}
	d := &slowDecider{calls: map[string]int{}, called: make(chan string, 8), goOn: make(chan struct{})}
	answered, shed := make(chan Outcome, 8), make(chan string, 8)
	s := &Server{Settings: Settings{Address: netip.MustParsePrefix("127.0.0.1/8"), Clients: "all", URL: "http://127.0.0.1"},
		Decider: d, Queue: 1, Asked: 1, Answered: func(_ context.Context, o Outcome) { answered <- o }, Shed: func(mac string) { shed <- mac }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	c, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), conn.Addr().Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(n byte) {
		m := message(dhcpv4.MessageTypeDiscover, class(pxe))
		m.ClientHWAddr = []byte{0x52, 0x54, 0, 0, 0, n}
		if _, err := c.Write(m.ToBytes()); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(from <-chan string, want string) {
		t.Helper()
		select {
		case mac := <-from:
			if mac != want {
				t.Errorf("%s, want %s", mac, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing of %s", want)
		}
	}
	send(1)
	wait(d.called, "52:54:00:00:00:01")
	send(2)
	send(3)
	wait(shed, "52:54:00:00:00:03")
	close(d.goOn)
	wait(d.called, "52:54:00:00:00:02")
	for range 2 {
		<-answered
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if len(d.called)+len(shed) > 0 {
		t.Errorf("%d more were decided, %d more shed", len(d.called), len(shed))
	}
}

// writesWait is a Decider whose REQUESTs wait to be written, as for a slow disk.
type writesWait struct {
	begun chan string
	goOn  chan struct{}
}

func (d writesWait) Boot(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	a := full()
	a.Address = netip.MustParsePrefix("127.0.0.9/8")
	if r.Kind == api.KindRequest {
		d.begun <- r.MAC
		select {
		case <-d.goOn:
		case <-ctx.Done():
			return api.BootAnswer{}, ctx.Err()
		}
	}
	return a, nil
}

// TestReadsDoNotWait: hundreds of REQUESTs wait for the disk at once, so that they
// share a commit, and a DISCOVER is answered meanwhile.
func TestReadsDoNotWait(t *testing.T) {
	conn, err := Listen(t.Context(), "", 0, false)
	if err != nil {
		t.Fatal(err)
	}
	d := writesWait{begun: make(chan string), goOn: make(chan struct{})}
	answered := make(chan Outcome, 256)
	s := &Server{Settings: Settings{Address: netip.MustParsePrefix("127.0.0.1/8"), Clients: "all", URL: "http://127.0.0.1"},
		Decider: d, Answered: func(_ context.Context, o Outcome) { answered <- o }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	c, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), conn.Addr().Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(kind dhcpv4.MessageType, n byte) {
		m := message(kind, class(pxe), ciaddr("127.0.0.9"))
		m.ClientHWAddr = []byte{0x52, 0x54, 0, 0, 0, n}
		if _, err := c.Write(m.ToBytes()); err != nil {
			t.Fatal(err)
		}
	}
	const writes = 200
	for n := range writes {
		send(dhcpv4.MessageTypeRequest, byte(n))
		select {
		case <-d.begun:
		case <-time.After(5 * time.Second):
			t.Fatalf("REQUEST %d waits until others are written", n)
		}
	}
	send(dhcpv4.MessageTypeDiscover, 255)
	select {
	case o := <-answered:
		if o.Request.Type != dhcpv4.MessageTypeDiscover {
			t.Errorf("%s was answered before it was written", o.Request.Type)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("a DISCOVER waits for REQUESTs to be written")
	}
	close(d.goOn)
	for range writes {
		<-answered
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// BenchmarkHandle is one DISCOVER, from packet to answer, without the Booter.
func BenchmarkHandle(b *testing.B) {
	p := message(dhcpv4.MessageTypeDiscover, class(pxe), arch(0)).ToBytes()
	d := &deciderFunc{}
	for b.Loop() {
		d.asked, d.answer = d.asked[:0], full()
		if _, err := settings.Handle(b.Context(), d, p, netip.AddrPort{}, false); err != nil {
			b.Fatal(err)
		}
	}
}
