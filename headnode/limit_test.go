package headnode

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// dial opens connections to the HTTPS port from an address and says nothing.
func (h *head) dial(from string, n int) (held []net.Conn) {
	h.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: netip.MustParseAddr(from).AsSlice()}}
	for range n {
		c, err := d.DialContext(h.t.Context(), "tcp4", h.HTTPS().String())
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() { _ = c.Close() })
		held = append(held, c)
	}
	return held
}

// stillOpen counts the connections that the head node has not closed.
func stillOpen(t *testing.T, cs []net.Conn) (open int) {
	t.Helper()
	for _, c := range cs {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	return open
}

// alerted says whether an operator is told of something.
func (h *head) alerted(text string) bool {
	h.t.Helper()
	d, err := h.client.Datacenter(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Contains(strings.Join(d.Alerts, "\n"), text)
}

// synced boots an approved server until it syncs.
func (h *head) synced(n int) *machine {
	h.t.Helper()
	m := h.machine(n)
	m.bootUpHeld()
	if err := h.client.ApproveServer(h.t.Context(), m.uuid, ""); err != nil {
		h.t.Fatal(err)
	}
	if st, _, err := m.enrol(); err != nil || st != http.StatusOK {
		h.t.Fatalf("enrol: %d %v", st, err)
	}
	m.mustSync()
	return m
}

// TestOneClientTakesAllHTTPS: an address that opens all the connections it can has its
// bound, servers sync meanwhile, and who it was is told.
func TestOneClientTakesAllHTTPS(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	m := h.synced(1)
	held := h.dial("127.77.0.66", 300)
	m.mustSync()
	h.until(fmt.Sprintf("all of 300 connections but %d are closed", maxClient), func() bool { return stillOpen(t, held) <= maxClient })
	if n := stillOpen(t, held); n != maxClient {
		t.Errorf("%d of 300 connections of one client are open, want %d", n, maxClient)
	}
	if !h.alerted("236 HTTPS connections beyond 64 of one client since ") || !h.alerted("the last of 127.77.0.66.") {
		t.Error("no alert says who asked for too much")
	}
}

// TestManyClientsTakeAllHTTPS: when strangers hold all that strangers may, servers
// sync: from the address that is reserved for them, and once they have proved who they
// are from any; a stranger with none gets in while another has more than one.
func TestManyClientsTakeAllHTTPS(t *testing.T) {
	h := startIn(t, initDir(t, 250), func(s *Server) { s.door.Total, s.door.Strangers = 20, 10 })
	h.platform("20261122T101500Z")
	m := h.synced(1)
	holds := func(n int) {
		h.until(fmt.Sprintf("%d connections are held", n), func() bool { return h.door.Held() == n })
	}
	holds(0) // nobody counts as known for what it held before
	flood := h.dial("127.77.0.60", 2)
	for _, from := range []string{"127.77.0.61", "127.77.0.62", "127.77.0.63", "127.77.0.64", "127.77.0.65", "127.77.0.66", "127.77.0.67", "127.77.0.68"} {
		flood = append(flood, h.dial(from, 1)...)
	}
	holds(10)
	m.mustSync() // as a stranger with none
	if n := stillOpen(t, flood); n != 9 {
		t.Errorf("%d of 10 are open, want one that gave way", n)
	}
	holds(9)
	flood = append(flood, h.dial("127.77.0.69", 1)...)
	holds(10)
	if _, _, err := m.sync(); err == nil {
		t.Error("a stranger with none got in where all have one")
	}
	m.from = m.addr
	m.mustSync()
	if n := stillOpen(t, flood); n != 10 {
		t.Errorf("%d of 10 strangers are open after the server synced", n)
	}
	if !h.alerted("HTTPS connections that gave way to other clients") || !h.alerted("HTTPS connections beyond 10 of strangers") {
		t.Error("no alert says that the bound was reached")
	}
	if sv := h.server(m.uuid); sv.State == api.StateUnknown {
		t.Errorf("the server is %s", sv.State)
	}
}
