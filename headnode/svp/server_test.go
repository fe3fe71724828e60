package svp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rack is a Lookup in memory.
type rack struct {
	mu     sync.Mutex
	macs   map[MAC]netip.AddrPort // of VNI 100
	ips    map[netip.Addr]MAC
	log    map[netip.Addr][]Record
	broken error
	hold   chan struct{} // when not nil, a look-up waits for it
	began  chan struct{}
}

func (r *rack) VL2(ctx context.Context, vni uint32, mac MAC) (netip.AddrPort, bool, error) {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		r.began <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
			return netip.AddrPort{}, false, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	to, found := r.macs[mac]
	return to, found && vni == 100, r.broken
}

func (r *rack) VL3(_ context.Context, vni uint32, ip netip.Addr) (MAC, netip.AddrPort, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	mac, found := r.ips[ip]
	return mac, r.macs[mac], found && vni == 100, r.broken
}

func (r *rack) Log(_ context.Context, underlay netip.Addr, limit int) ([]Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.log[underlay]
	return slices.Clone(l[:min(len(l), limit)]), r.broken
}

func (r *rack) LogRemove(_ context.Context, ids [][16]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a := range r.log {
		r.log[a] = slices.DeleteFunc(r.log[a], func(rec Record) bool { return slices.Contains(ids, rec.ID) })
	}
	return r.broken
}

var (
	node    = netip.MustParseAddr("172.16.0.9")
	host    = netip.MustParseAddrPort("172.16.0.1:4789")
	host6   = netip.MustParseAddrPort("[fd00::aa]:4789")
	nowhere = netip.MustParseAddrPort("[::]:0")
	mac2    = MAC{2, 0, 0, 0, 0, 2}
)

func newRack() *rack {
	return &rack{
		macs:  map[MAC]netip.AddrPort{mac1: host, mac2: host6},
		ips:   map[netip.Addr]MAC{netip.MustParseAddr("10.0.0.1"): mac1, netip.MustParseAddr("fd00::2"): mac2},
		log:   make(map[netip.Addr][]Record),
		began: make(chan struct{}, 1),
	}
}

func loopbackAndNodes(a netip.Addr) bool {
	return a.IsLoopback() || netip.MustParsePrefix("172.16.0.0/24").Contains(a)
}

// start serves until the test ends, or stop is called, which waits.
func start(t testing.TB, s *Server) (addr string, stop func()) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// client speaks SVP as varpd does.
type client struct {
	testing.TB
	net.Conn
	id uint32
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &client{TB: t, Conn: c}
}

func (c *client) send(b []byte) {
	c.Helper()
	if _, err := c.Write(b); err != nil {
		c.Fatal(err)
	}
}

// ask sends a request and reads its answer.
func (c *client) ask(m Message) Message {
	c.Helper()
	c.id++
	c.send(Append(nil, c.id, m))
	f, err := Read(c, nil)
	if err != nil || f.ID != c.id || f.Version != 1 {
		c.Fatalf("%+v is answered by %+v, %v", m, f, err)
	}
	return f.Message
}

// closed checks that the server has closed the connection, and said nothing.
func (c *client) closed(what string) {
	c.Helper()
	b, err := io.ReadAll(c)
	if ne, ok := errors.AsType[net.Error](err); len(b) > 0 || ok && ne.Timeout() {
		c.Errorf("%s: got %x, %v; want the connection closed", what, b, err)
	}
}

func TestConversation(t *testing.T) {
	r := newRack()
	r.log[node] = []Record{
		{ID: id0, VNI: 100, MAC: mac1},
		{ID: [16]byte{6}, VNI: 100, IP: netip.MustParseAddr("fd00::2")}, // would make varpd abort
		{ID: id1, VNI: 100, IP: netip.MustParseAddr("10.0.0.1")},
	}
	s := &Server{Lookup: r, Allow: loopbackAndNodes}
	addr, _ := start(t, s)
	c := dial(t, addr)
	for _, x := range []struct {
		what string
		ask  Message
		want Message
	}{
		{"ping", Ping{}, Pong{}},
		{"MAC", VL2Req{MAC: mac1, VNI: 100}, VL2Ack{Underlay: host}},
		{"MAC behind IPv6", VL2Req{MAC: mac2, VNI: 100}, VL2Ack{Underlay: host6}},
		{"unknown MAC", VL2Req{MAC: MAC{9}, VNI: 100}, VL2Ack{Status: StatusNotFound, Underlay: nowhere}},
		{"MAC of another VNI", VL2Req{MAC: mac1, VNI: 101}, VL2Ack{Status: StatusNotFound, Underlay: nowhere}},
		{"IPv4", VL3Req{IP: netip.MustParseAddr("10.0.0.1"), Type: TypeIPv4, VNI: 100}, VL3Ack{MAC: mac1, Underlay: host}},
		{"IPv4 as varpd asks for it from a log", VL3Req{IP: netip.MustParseAddr("10.0.0.1"), Type: TypeIPv6, VNI: 100}, VL3Ack{MAC: mac1, Underlay: host}},
		{"IPv6", VL3Req{IP: netip.MustParseAddr("fd00::2"), Type: TypeIPv6, VNI: 100}, VL3Ack{MAC: mac2, Underlay: host6}},
		{"unknown address", VL3Req{IP: netip.MustParseAddr("10.0.0.9"), Type: TypeIPv4, VNI: 100}, VL3Ack{Status: StatusNotFound, Underlay: nowhere}},
		{"address type 3", VL3Req{IP: netip.MustParseAddr("10.0.0.1"), Type: 3, VNI: 100}, VL3Ack{Status: StatusBadL3Type, Underlay: nowhere}},
		{"bulk", BulkReq{Type: 1}, BulkAck{Status: StatusBadBulk, Type: 1}},
		{"bulk of no type", BulkReq{Type: 7}, BulkAck{Status: StatusBadBulk, Type: 7}},
		{"log", LogReq{Max: 1024, Underlay: node}, LogAck{Records: []Record{{ID: id0, VNI: 100, MAC: mac1}, {ID: id1, VNI: 100, IP: netip.MustParseAddr("10.0.0.1")}}}},
		{"log, room for one", LogReq{Max: 4 + 32 + 43, Underlay: node}, LogAck{Records: []Record{{ID: id0, VNI: 100, MAC: mac1}}}},
		{"log, no room", LogReq{Max: 4 + 31, Underlay: node}, LogAck{}},
		{"log, no bytes", LogReq{Max: 0, Underlay: node}, LogAck{}},
		{"log of one that is no node", LogReq{Max: 1024, Underlay: netip.MustParseAddr("192.0.2.1")}, LogAck{Status: StatusNotFound}},
		{"remove", LogRm{IDs: [][16]byte{id0, {99}}}, LogRmAck{}},
		{"remove again", LogRm{IDs: [][16]byte{id0}}, LogRmAck{}},
		{"remove nothing", LogRm{}, LogRmAck{}},
		{"log after", LogReq{Max: 1024, Underlay: node}, LogAck{Records: []Record{{ID: id1, VNI: 100, IP: netip.MustParseAddr("10.0.0.1")}}}},
	} {
		if diff := cmp.Diff(x.want, c.ask(x.ask), compare); diff != "" {
			t.Errorf("%s (-want +got):\n%s", x.what, diff)
		}
	}
	c.send(Append(nil, 1, Shootdown{MAC: mac1, VNI: 100})) // no answer: the next one is Ping's
	if got := c.ask(Ping{}); got != (Pong{}) {
		t.Errorf("after a shootdown: %+v", got)
	}
	c.send(appendVersion(nil, 2, 4711, Ping{}))
	if f, err := Read(c, nil); err != nil || f.Version != 1 || f.ID != 4711 || f.Op != OpPong {
		t.Errorf("ping of version 2: %+v, %v", f, err)
	}
	st := s.Stats()
	if st.Conns != 1 || st.Shootdowns != 1 || st.Requests[OpPing] != 3 || st.Requests[OpVL3Req] != 5 || st.NotFound != 4 || st.Unknown != 0 {
		t.Errorf("stats: %+v", st)
	}
}

// TestGoldenExchange is one request and answer, byte by byte.
func TestGoldenExchange(t *testing.T) {
	r := newRack()
	r.ips[netip.MustParseAddr("10.0.0.1")] = mac1
	addr, _ := start(t, &Server{Lookup: r, Allow: loopbackAndNodes})
	c := dial(t, addr)
	for _, x := range []struct{ ask, want string }{
		{"0001 0001 00000000 00000007 3af69528", "0001 0002 00000000 00000007 873cf9e6"},
		{"0001 0007 00000004 00000004 12f76c92 00000001", "0001 0008 00000008 00000004 b96e9adc 00000004 00000001"},
		{"0001 0009 00000014 00000005 37e08739 00000400 00000000000000000000ffffac100009", "0001 000a 00000004 00000005 6035eb55 00000000"},
		{"0001 0003 0000000c 00000001 36cf74e4 020102030405 0000 00abcdef", "0001 0004 00000014 00000001 7e7b9ffa 0002 0000 00000000000000000000000000000000"},
		{"0001 000e 00000002 00000009 8ac99cb6 beef", "0001 800e 00000004 00000009 2c65e999 00000001"},
	} {
		c.send(unhex(t, x.ask))
		want := unhex(t, x.want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s is answered by\n     %x, %v\nwant %x", x.ask, got, err, want)
		}
	}
	c.closed("after FATAL")
}

// TestPipeline: requests sent at once, and cut anywhere, are answered in order.
func TestPipeline(t *testing.T) {
	addr, _ := start(t, &Server{Lookup: newRack(), Allow: loopbackAndNodes})
	for _, chunk := range []int{1, 7, 1000, 1 << 20} {
		c := dial(t, addr)
		const n = 1000
		go func() {
			var b []byte
			for i := range uint32(n) {
				b = Append(b, i, VL2Req{MAC: MAC{2, 1, 2, 3, 4, 5 + byte(i%2)}, VNI: 100})
			}
			for part := range slices.Chunk(b, chunk) {
				if _, err := c.Write(part); err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		}()
		for i := range uint32(n) {
			f, err := Read(c, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := VL2Ack{Underlay: host}
			if i%2 == 1 {
				want = VL2Ack{Status: StatusNotFound, Underlay: nowhere}
			}
			if f.ID != i || f.Message != want {
				t.Fatalf("answer %d in chunks of %d: %+v", i, chunk, f)
			}
		}
	}
}

// TestNoWaitForMore: an answer does not wait for the rest of the next request.
func TestNoWaitForMore(t *testing.T) {
	addr, _ := start(t, &Server{Lookup: newRack(), Allow: loopbackAndNodes})
	c := dial(t, addr)
	for _, part := range []int{1, HeaderSize, HeaderSize + 3} {
		next := Append(nil, 2, VL2Req{MAC: mac1, VNI: 100})
		c.send(append(Append(nil, 1, Ping{}), next[:part]...))
		if f, err := Read(c, nil); err != nil || f.ID != 1 {
			t.Fatalf("%d bytes of the next one sent: %+v, %v", part, f, err)
		}
		c.send(next[part:])
		if f, err := Read(c, nil); err != nil || f.ID != 2 {
			t.Fatalf("the next one: %+v, %v", f, err)
		}
	}
}

// TestFatal: what ends a connection, with and without an answer.
func TestFatal(t *testing.T) {
	s := &Server{Lookup: newRack(), Allow: loopbackAndNodes}
	addr, _ := start(t, s)
	fatal := []byte{0, 0, 0, 1}
	for what, x := range map[string]struct {
		send []byte
		want Message
	}{
		"unknown operation":       {Append(nil, 9, Unknown{Operation: 0x0f}), Unknown{0x800f, fatal}},
		"operation 0":             {Append(nil, 9, Unknown{Operation: 0}), Unknown{0x8000, fatal}},
		"an answer":               {Append(nil, 9, Pong{}), Unknown{0x8002, fatal}},
		"an answer with payload":  {Append(nil, 9, VL2Ack{}), Unknown{0x8004, fatal}},
		"another version":         {appendVersion(nil, 2, 9, VL2Req{MAC: mac1, VNI: 100}), Unknown{0x8003, fatal}},
		"payload of another size": {Append(nil, 9, Unknown{Operation: OpVL2Req, Payload: make([]byte, 11)}), Unknown{0x8003, fatal}},
		"ping with a payload":     {Append(nil, 9, Unknown{Operation: OpPing, Payload: make([]byte, 4)}), Unknown{0x8001, fatal}},
	} {
		c := dial(t, addr)
		c.send(append(x.send, Append(nil, 10, Ping{})...)) // what follows is not answered
		f, err := Read(c, nil)
		if diff := cmp.Diff(x.want, f.Message); diff != "" || err != nil || f.ID != 9 {
			t.Errorf("%s: %+v, %v (-want +got):\n%s", what, f, err, diff)
		}
		c.closed(what)
	}
	if n := s.Stats().Unknown; n != 7 {
		t.Errorf("%d unknown, want 7", n)
	}
	damaged := Append(nil, 9, Ping{})
	damaged[11] ^= 1
	long := Append(nil, 9, Unknown{Operation: OpLogRm, Payload: make([]byte, MaxPayload+1)})
	for what, b := range map[string][]byte{"wrong CRC": damaged, "too long": long[:HeaderSize]} {
		c := dial(t, addr)
		c.send(b)
		c.closed(what)
	}
	if n := s.Stats().BadCRC; n != 1 {
		t.Errorf("%d wrong CRCs, want 1", n)
	}
}

func TestMapBroken(t *testing.T) {
	r := newRack()
	addr, _ := start(t, &Server{Lookup: r, Allow: loopbackAndNodes})
	r.broken = errors.New("disk on fire")
	for _, x := range []struct{ ask, want Message }{
		{VL2Req{MAC: mac1, VNI: 100}, VL2Ack{Status: StatusFatal, Underlay: nowhere}},
		{VL3Req{IP: netip.MustParseAddr("10.0.0.1"), Type: TypeIPv4, VNI: 100}, VL3Ack{Status: StatusFatal, Underlay: nowhere}},
		{LogReq{Max: 1024, Underlay: node}, LogAck{Status: StatusFatal}},
		{LogRm{IDs: [][16]byte{id0}}, LogRmAck{Status: StatusFatal}},
	} {
		c := dial(t, addr)
		if diff := cmp.Diff(x.want, c.ask(x.ask), compare); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", x.ask, diff)
		}
		c.closed("broken map")
	}
}

// TestLogFits: a full log never has more bytes than were allowed: varpd reads it
// into a buffer of that size.
func TestLogFits(t *testing.T) {
	r := newRack()
	for i := range 500 {
		rec := Record{ID: [16]byte{byte(i >> 8), byte(i)}, VNI: 100, MAC: mac1}
		if i%3 == 0 {
			rec = Record{ID: rec.ID, VNI: 100, IP: netip.MustParseAddr("10.0.0.1")}
		}
		r.log[node] = append(r.log[node], rec)
	}
	addr, _ := start(t, &Server{Lookup: r, Allow: loopbackAndNodes})
	c := dial(t, addr)
	for _, most := range []uint32{36, 47, 48, 100, 1024, 4096, 1 << 31, 0xffffffff} {
		m := c.ask(LogReq{Max: most, Underlay: node}).(LogAck)
		if n := len(m.payload(nil)); uint32(n) > most || n > MaxPayload || len(m.Records) == 0 && most >= 48 {
			t.Errorf("%d bytes with %d records, %d allowed", n, len(m.Records), most)
		}
	}
	rounds := 0
	for ; ; rounds++ { // as varpd drains it
		m := c.ask(LogReq{Max: 1024, Underlay: node}).(LogAck)
		if len(m.Records) == 0 {
			break
		}
		var ids [][16]byte
		for _, rec := range m.Records {
			ids = append(ids, rec.ID)
		}
		c.ask(LogRm{IDs: ids})
	}
	if rounds < 500/31 || rounds > 500/23+1 {
		t.Errorf("drained in %d rounds", rounds)
	}
}

func TestWhoMayAsk(t *testing.T) {
	for what, s := range map[string]*Server{
		"nobody is allowed": {Lookup: newRack()},
		"others are":        {Lookup: newRack(), Allow: netip.MustParsePrefix("172.16.0.0/24").Contains},
	} {
		addr, _ := start(t, s)
		c := dial(t, addr)
		c.closed(what)
		if n := s.Stats().Refused; n != 1 {
			t.Errorf("%s: %d refused", what, n)
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	for _, s := range []*Server{
		{Lookup: newRack(), Allow: loopbackAndNodes, MaxConns: 2},
		{Lookup: newRack(), Allow: loopbackAndNodes, MaxPerClient: 2},
	} {
		addr, _ := start(t, s)
		a, b := dial(t, addr), dial(t, addr)
		a.ask(Ping{})
		b.ask(Ping{})
		dial(t, addr).closed("one too many")
		a.Close()
		for s.Stats().Conns > 1 { // no event tells of it
			time.Sleep(time.Millisecond)
		}
		dial(t, addr).ask(Ping{})
		b.ask(Ping{})
	}
}

// TestDeadlines: a silent connection is closed after Idle, one that stops inside a
// message after Timeout.
func TestDeadlines(t *testing.T) {
	s := &Server{Lookup: newRack(), Allow: loopbackAndNodes, Idle: 50 * time.Millisecond, Timeout: 10 * time.Second}
	addr, _ := start(t, s)
	c := dial(t, addr)
	c.ask(Ping{})
	c.closed("idle")
	s = &Server{Lookup: newRack(), Allow: loopbackAndNodes, Idle: 10 * time.Second, Timeout: 50 * time.Millisecond}
	addr, _ = start(t, s)
	c = dial(t, addr)
	c.ask(Ping{})
	c.send(Append(nil, 2, Ping{})[:10])
	c.closed("half a message")
}

// TestStop: idle connections end at once, a look-up that has begun is answered.
func TestStop(t *testing.T) {
	r := newRack()
	r.hold = make(chan struct{})
	addr, stop := start(t, &Server{Lookup: r, Allow: loopbackAndNodes})
	busy, idle, half := dial(t, addr), dial(t, addr), dial(t, addr)
	idle.ask(Ping{})
	half.ask(Ping{})
	half.send(Append(nil, 2, Ping{})[:10])
	busy.send(Append(nil, 1, VL2Req{MAC: mac1, VNI: 100}))
	<-r.began
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	idle.closed("idle, at stop")
	half.closed("half a message, at stop")
	select {
	case <-stopped:
		t.Error("stopped while a look-up was under way")
	default:
	}
	close(r.hold)
	if f, err := Read(busy, nil); err != nil || f.Message != (VL2Ack{Underlay: host}) {
		t.Errorf("look-up at stop: %+v, %v", f, err)
	}
	busy.closed("busy, at stop")
	<-stopped
	var d net.Dialer
	if c, err := d.DialContext(t.Context(), "tcp", addr); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

// TestBrokenListener: one that ends by itself is an error.
func TestBrokenListener(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = (&Server{Lookup: newRack()}).Serve(t.Context(), l)
	if err == nil || !strings.Contains(err.Error(), "accept SVP connection") {
		t.Errorf("error is %v", err)
	}
}

// BenchmarkLookups is VL3 look-ups of 8 nodes at once, each waiting for its answer.
func BenchmarkLookups(b *testing.B) {
	addr, _ := start(b, &Server{Lookup: newRack(), Allow: loopbackAndNodes})
	b.SetParallelism(4)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := dial(b, addr)
		if err := c.SetDeadline(time.Time{}); err != nil {
			b.Error(err)
		}
		for pb.Next() {
			c.ask(VL3Req{IP: netip.MustParseAddr("10.0.0.1"), Type: TypeIPv4, VNI: 100})
		}
	})
}
