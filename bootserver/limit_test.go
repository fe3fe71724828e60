package bootserver_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"nereid/bootserver"
)

func TestLimitListener(t *testing.T) {
	inner, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l := bootserver.NewLimitListener(inner, 1)
	for range 2 {
		c, err := net.Dial("tcp4", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := first.(io.ReaderFrom); !ok {
		t.Error("the connection has no ReadFrom, so files would be copied through memory")
	}
	second := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			second <- c
		}
	}()
	select {
	case <-second:
		t.Error("two connections at once, the limit is one")
	case <-time.After(50 * time.Millisecond): // nothing announces that nothing happens
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	_ = first.Close() // a second Close must not free a second slot
	select {
	case c := <-second:
		_ = c.Close()
	case <-time.After(5 * time.Second):
		t.Fatal("the slot was not given back")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
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
