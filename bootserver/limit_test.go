package bootserver_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"nereid/bootserver"
)

// TestOneClientTakesAll: an address that opens all the connections it can has its
// bound, another one fetches a file meanwhile, and who it was is told.
func TestOneClientTakesAll(t *testing.T) {
	var shed sync.Map
	l := newLocal(t, func(s *bootserver.Server) { s.Shed = func(what, who string) { shed.Store(what+", of "+who, true) } })
	_, _, _, addr := l.Addrs()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 66)}}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for range 300 {
		c, err := d.DialContext(t.Context(), "tcp4", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	_, c := l.machine(t, "52:54:00:00:00:01")
	f := l.booter.Platform.Layers[0]
	if resp, body := do(t, c, http.MethodGet, l.URL()+"/files/"+f.SHA256+"/"+f.Name, nil); resp.StatusCode != http.StatusOK || int64(len(body)) != f.Size {
		t.Errorf("another client's file: %s, %d bytes of %d", resp.Status, len(body), f.Size)
	}
	// Connections are let in in their order, so all 300 have been looked at.
	if _, told := shed.Load("HTTP connections beyond 64 of one client, of 127.0.0.66"); !told {
		t.Error("nobody was told of the connections beyond the bound")
	}
	open := 0
	for _, c := range held {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open != 64 {
		t.Errorf("%d of 300 connections are open, want 64", open)
	}
}

// BenchmarkFile sends a file of 12 MiB over HTTP on the loopback.
func BenchmarkFile(b *testing.B) {
	l := newLocal(b)
	f := l.booter.Platform.Layers[0]
	b.SetBytes(f.Size)
	c := &http.Client{}
	defer c.CloseIdleConnections()
	for b.Loop() {
		resp, err := c.Get(l.URL() + "/files/" + f.SHA256 + "/" + f.Name)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || n != f.Size {
			b.Fatalf("%d bytes, %v", n, err)
		}
		_ = resp.Body.Close()
	}
}
