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

func TestQueueDropsOldest(t *testing.T) {
	q := newQueue(2)
	for i := range 4 {
		added, dropped := q.push(packet{key: key{kind: byte(i)}})
		if want := max(0, min(1, i-1)); !added || dropped != want {
			t.Errorf("push %d: added %v, dropped %d, want %d", i, added, dropped, want)
		}
	}
	for _, want := range []byte{2, 3} {
		if p, ok := q.pop(t.Context()); !ok || p.key.kind != want {
			t.Errorf("pop gave %d, want %d", p.key.kind, want)
		}
	}
	if len(q.pending) != 2 {
		t.Errorf("%d pending, want the two that are worked on", len(q.pending))
	}
}

func TestQueueCoalesces(t *testing.T) {
	q := newQueue(4)
	p := packet{key: key{kind: 1}}
	if added, _ := q.push(p); !added {
		t.Fatal("first was not added")
	}
	if added, _ := q.push(p); added {
		t.Error("the same message is queued twice")
	}
	got, _ := q.pop(t.Context())
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
