//go:build netns || vm

package firewall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"nereid/api"
)

// listen takes TCP connections in a node until the test ends, and sends back what
// comes, after a greeting.
func (n *node) listen(t *testing.T, address, greeting string) {
	t.Helper()
	var l net.Listener
	err := n.in(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.WriteString(c, greeting); err == nil {
					io.Copy(c, c)
				}
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// connect opens a TCP connection from a node and reads the greeting.
func (n *node) connect(ctx context.Context, from int, address, greeting string) (c net.Conn, err error) {
	err = n.in(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: from}, Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
		}}
		c, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	if err == nil {
		err = expect(c, greeting)
	}
	return c, err
}

// expect reads text within 20 s: TCP may have to send it again.
func expect(c net.Conn, text string) error {
	b := make([]byte, len(text))
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		return fmt.Errorf("read %q, want %q: %w", b, text, err)
	}
	return nil
}

// echo sends text and reads it.
func echo(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	return expect(c, text)
}

// counts waits until a counter of drops goes up.
func counts(t *testing.T, f *Firewall, before map[string]uint64, names ...string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(10 * time.Second); ; {
		now := counters(t, f)
		if slices.ContainsFunc(names, func(n string) bool { return now[n] > before[n] }) {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("counters %v: want more of %v", now, names)
		}
	}
}

// blocked dials until the counter says that the firewall dropped something.
func (n *node) blocked(t *testing.T, f *Firewall, address, counter string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := counters(t, f)
	done := make(chan error, 1)
	go func() {
		c, err := n.connect(ctx, 0, address, "")
		if err == nil {
			c.Close()
		}
		done <- err
	}()
	counts(t, f, before, counter)
	cancel()
	if err := <-done; err == nil {
		t.Fatalf("connect to %s: connected", address)
	}
}

// pair is two nodes with a firewall each, that reach each other.
type pair struct {
	server, client         *node
	serverPort, clientPort Port
	addresses              []string // of the server, one of each family
}

// proveTracking takes connections between a pair through changes of the rules.
func proveTracking(t *testing.T, f *Firewall, p pair, o Options) {
	t.Helper()
	allow := func(id, proto string, first, last uint16) api.FirewallEntry {
		return api.FirewallEntry{Rule: id, Direction: "in", Ports: []string{p.serverPort.MAC}, Action: "allow", Protocol: proto, Dst: []api.PortRange{{First: first, Last: last}}}
	}
	rules := []api.FirewallEntry{allow("tcp80", "tcp", 80, 80), allow("udp", "udp", 9, 10)}
	w := &world{ports: []Port{p.serverPort, p.clientPort}, fw: api.FirewallSpec{Rules: rules}}
	applyTwice(t, f, w, o)
	p.server.listen(t, ":80", "web")
	p.server.listen(t, ":81", "other")
	p.client.listen(t, ":80", "client")
	var open []net.Conn
	for _, a := range p.addresses {
		// The client takes nothing in, but the replies.
		c, err := p.client.connect(t.Context(), 0, net.JoinHostPort(a, "80"), "web")
		if err != nil {
			t.Fatalf("connect to %s: %v", a, err)
		}
		defer c.Close()
		open = append(open, c)
		p.client.blocked(t, f, net.JoinHostPort(a, "81"), countBlockedIn)
		p.refused(t, a)
	}
	all := func(step string) {
		t.Helper()
		for i, c := range open {
			if err := echo(c, step); err != nil {
				t.Errorf("%s: %s: %v", step, p.addresses[i], err)
			}
		}
	}
	all("as before")

	// A change about something else: judged again, and allowed again.
	w.fw.Rules = append(slices.Clone(rules), allow("tcp82", "tcp", 82, 82))
	applyTwice(t, f, w, o)
	all("after another rule")
	// The rule they came by goes, and another takes its place.
	w.fw.Rules = []api.FirewallEntry{rules[1], allow("range", "tcp", 70, 90)}
	applyTwice(t, f, w, o)
	all("by another rule")

	// A block, in the middle of the connection, from either side.
	for _, from := range []string{"client", "server"} {
		block := api.FirewallEntry{Rule: "block", Direction: "in", Ports: []string{p.serverPort.MAC}, Action: "block", Protocol: "tcp", Priority: 5}
		if from == "server" {
			block.Direction, block.Ports = "out", []string{p.clientPort.MAC}
		}
		w.fw.Rules = append(slices.Clone(rules), block)
		applyTwice(t, f, w, o)
		for i, c := range open {
			before := counters(t, f)
			if _, err := io.WriteString(c, "x"); err != nil {
				t.Fatal(err)
			}
			counts(t, f, before, countBlockedIn, countBlockedOut)
			c.SetReadDeadline(time.Now())
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s, blocked: read: %v", p.addresses[i], err)
			}
		}
		// Without it they go on: TCP sends again what was dropped.
		w.fw.Rules = rules
		applyTwice(t, f, w, o)
		for i, c := range open {
			if err := expect(c, "x"); err != nil {
				t.Errorf("%s, no longer blocked: %v", p.addresses[i], err)
			}
		}
		all("once more")
	}
	if repaired, err := f.VerifyOrRepair(t.Context()); err != nil || repaired {
		t.Errorf("repaired %v, %v", repaired, err)
	}
	// Another process takes over: everything is judged again, nothing is cut.
	taken := *w
	applyTwice(t, &Firewall{kernel: f.kernel}, &taken, o)
	all("after a restart of the agent")
}

// refused sends to a port where nobody listens: the ICMP error of the server
// belongs to the client's packet, and reaches it.
func (p *pair) refused(t *testing.T, address string) {
	t.Helper()
	err := p.client.in(func() error {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", net.JoinHostPort(address, "9"))
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write(make([]byte, 4000)); err != nil { // in fragments
			return err
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
		return err
	})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("UDP to %s: %v, want it refused", address, err)
	}
}

// stray sends an ICMP error about a connection that is not there.
func (p *pair) stray(t *testing.T, f *Firewall, via [6]byte) {
	t.Helper()
	src, dst := netip.MustParsePrefix(p.clientPort.Addresses[0].Address).Addr(), netip.MustParseAddr(p.addresses[0])
	inner := ipPacket(via, p.client.mac, dst, src, protoTCP, tcp(1234, 4321))[14:]
	before := counters(t, f)
	w := p.client.wire(t)
	w.send(ipPacket(via, p.client.mac, src, dst, protoICMP, append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, inner...)), 1)
	counts(t, f, before, countInvalid)
}
