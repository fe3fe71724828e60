package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	engine "github.com/pin/tftp/v3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func request(op uint16, fields ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, op)
	return append(b, strings.Join(fields, "\x00")+"\x00"...)
}

func one(name string) bool { return name == "ipxe.efi" }

func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		name   string
		packet []byte
		read   string
		code   uint16
		text   string
	}{
		{name: "plain", packet: request(1, "ipxe.efi", "octet"), read: "ipxe.efi\x00octet\x00"},
		{name: "OVMF", packet: request(1, "ipxe.efi", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4"), read: "ipxe.efi\x00octet\x00tsize\x000\x00blksize\x001468\x00"},
		{name: "slash and case", packet: request(1, "/ipxe.efi", "OCTET", "BLKSIZE", "1024"), read: "ipxe.efi\x00octet\x00blksize\x001024\x00"},
		{name: "an option code behind the name", packet: request(1, "ipxe.efi\xff", "octet"), read: "ipxe.efi\x00octet\x00"},
		{name: "junk behind the name", packet: request(1, "ipxe.efi\xff\r\n ", "octet"), read: "ipxe.efi\x00octet\x00"},
		{name: "backslash in front", packet: request(1, `\ipxe.efi`, "octet"), read: "ipxe.efi\x00octet\x00"},
		{name: "capitals", packet: request(1, "IPXE.EFI", "octet"), read: "ipxe.efi\x00octet\x00"},
		{name: "all at once", packet: request(1, "\\IPXE.EFI\xff\xff", "octet"), read: "ipxe.efi\x00octet\x00"},
		{name: "more than the name", packet: request(1, "ipxe.efi.sig", "octet"), code: 1, text: "no file"},
		{name: "junk alone", packet: request(1, "\xff", "octet"), code: 1, text: "no file"},
		{name: "option twice", packet: request(1, "ipxe.efi", "octet", "blksize", "1024", "blksize", "2048"), read: "ipxe.efi\x00octet\x00blksize\x001024\x00"},
		{name: "small blocks", packet: request(1, "ipxe.efi", "octet", "blksize", "8"), read: "ipxe.efi\x00octet\x00"},
		{name: "huge blocks", packet: request(1, "ipxe.efi", "octet", "blksize", "99999999999999999999"), read: "ipxe.efi\x00octet\x00"},
		{name: "write", packet: request(2, "ipxe.efi", "octet"), code: 2, text: "read only"},
		{name: "unknown", packet: request(1, "pxelinux.0", "octet"), code: 1, text: `no file "pxelinux.0" here`},
		{name: "parent", packet: request(1, "../ipxe.efi", "octet"), code: 1, text: "no file"},
		{name: "absolute", packet: request(1, "/etc/passwd", "octet"), code: 1, text: "no file"},
		{name: "two slashes", packet: request(1, "//ipxe.efi", "octet"), code: 1, text: "no file"},
		{name: "backslash", packet: request(1, `..\ipxe.efi`, "octet"), code: 1, text: "no file"},
		{name: "netascii", packet: request(1, "ipxe.efi", "netascii"), code: 4, text: "use octet"},
		{name: "no mode", packet: []byte("\x00\x01ipxe.efi"), code: 4, text: "malformed"},
		{name: "no name", packet: request(1, "", "octet"), code: 4, text: "malformed"},
		{name: "data", packet: []byte{0, 3, 0, 1, 1, 2, 3}},
		{name: "short", packet: []byte{0, 1}},
		{name: "empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := Decide(tc.packet, one)
			if v.Code != tc.code || !strings.Contains(v.Text, tc.text) || (tc.text == "") != (v.Text == "") {
				t.Errorf("refusal %d %q, want %d %q", v.Code, v.Text, tc.code, tc.text)
			}
			want := ""
			if tc.read != "" {
				want = "\x00\x01" + tc.read
			}
			if string(v.Read) != want {
				t.Errorf("read %q, want %q", v.Read, want)
			}
		})
	}
}

// FuzzDecide: what is let through is a read of a known file, and what is refused
// is refused with a printable sentence.
func FuzzDecide(f *testing.F) {
	seeds, err := filepath.Glob("../../fixtures/tftp/*.bin")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		v := Decide(packet, one)
		switch {
		case v.Read != nil:
			if v.File != "ipxe.efi" || v.Text != "" || !bytes.HasPrefix(v.Read, []byte("\x00\x01ipxe.efi\x00octet\x00")) || len(v.Read) > 64 {
				t.Fatalf("let through %q for %q", v.Read, v.File)
			}
		case v.Text != "":
			for _, c := range []byte(v.Text) {
				if c < ' ' || c > '~' {
					t.Fatalf("text %q", v.Text)
				}
			}
			if len(errorPacket(v.Code, v.Text)) > 512 {
				t.Fatalf("error of %d bytes", len(v.Text))
			}
		}
	})
}

// serve runs s on a socket of the loopback until the test ends.
func serve(t *testing.T, s *Server) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

func TestTransfer(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 513, 1468 * 3, 850_528} {
		for _, block := range []int{0, 1024, 1468, 9000} {
			t.Run(fmt.Sprintf("%d bytes, blksize %d", size, block), func(t *testing.T) {
				data := content(size)
				done := make(chan Transfer, 1)
				addr := serve(t, &Server{Files: map[string][]byte{"ipxe.efi": data}, Done: func(x Transfer) { done <- x }})
				c, err := engine.NewClient(addr.String())
				if err != nil {
					t.Fatal(err)
				}
				if block > 0 {
					c.SetBlockSize(block)
					c.RequestTSize(true)
				}
				w, err := c.Receive("ipxe.efi", "octet")
				if err != nil {
					t.Fatal(err)
				}
				if n, ok := w.(engine.IncomingTransfer).Size(); block > 0 && size > 0 && (!ok || n != int64(size)) {
					t.Errorf("tsize %d, %v", n, ok)
				}
				var got bytes.Buffer
				if _, err := w.WriteTo(&got); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), data) {
					t.Errorf("%d bytes arrived and differ", got.Len())
				}
				if x := <-done; x.Err != nil || x.Bytes != int64(size) || x.Size != int64(size) || x.File != "ipxe.efi" {
					t.Errorf("transfer %+v", x)
				}
			})
		}
	}
}

// TestRefusals reads the error a client gets.
func TestRefusals(t *testing.T) {
	refused := make(chan string, 4)
	addr := serve(t, &Server{Files: map[string][]byte{"ipxe.efi": content(10)}, Refused: func(_ netip.Addr, why string) { refused <- why }})
	c, err := engine.NewClient(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive("../../etc/passwd", "octet"); err == nil || !strings.Contains(err.Error(), "only iPXE is sent over TFTP") {
		t.Errorf("error %v", err)
	}
	if _, err := c.Send("ipxe.efi", "octet"); err == nil || !strings.Contains(err.Error(), "read only") {
		t.Errorf("error %v", err)
	}
	for range 2 {
		if why := <-refused; why == "" {
			t.Error("refusal without a reason")
		}
	}
}

// TestFlood sends half-open reads from many clients: memory and transfers stay
// bounded, and a machine with a lease still gets its file.
func TestFlood(t *testing.T) {
	data := content(100_000)
	s := &Server{Files: map[string][]byte{"ipxe.efi": data}, MaxTransfers: 64, MaxPerClient: 1000, Timeout: 50 * time.Millisecond,
		Known: func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.2") }}
	addr := serve(t, s)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()

	rrq := request(1, "ipxe.efi", "octet", "blksize", "1468")
	var most int
	for range 200 { // sockets, each a client of its own
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if _, err := c.Write(rrq); err != nil {
				t.Fatal(err)
			}
		}
		most = max(most, runtime.NumGoroutine()-goroutines)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if most > 64/4+8 {
		t.Errorf("%d goroutines more during the flood, want at most %d slots", most, 64/4)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}

	// A known client, from another address, while the slots for strangers are full.
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	got, err := read(t, netip.MustParseAddr("127.0.0.2"), addr, "ipxe.efi")
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
}

// read is a minimal client that can choose its own address. It asks again when nobody
// answers, as RFC 1350 wants: a flood fills the server's socket, and the kernel drops
// what comes then.
func read(t *testing.T, from netip.Addr, server netip.AddrPort, name string) ([]byte, error) {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out, to := request(1, name, "octet"), server
	var got []byte
	buf := make([]byte, 1024)
	for block := uint16(1); ; block++ {
		// What another transfer sends, begun by a question asked again, is not ours, and
		// a block that is there already was sent again.
		ours := func(b []byte, peer netip.AddrPort) bool {
			again := len(b) >= 4 && binary.BigEndian.Uint16(b) == 3 && binary.BigEndian.Uint16(b[2:]) == block-1
			return to == server || peer == to && !again
		}
		n, peer := 0, netip.AddrPort{}
		for tries := 1; n == 0; tries++ {
			if _, err := c.WriteToUDPAddrPort(out, to); err != nil {
				return nil, err
			}
			if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
				return nil, err
			}
			n, peer, err = c.ReadFromUDPAddrPort(buf)
			for err == nil && !ours(buf[:n], peer) {
				n, peer, err = c.ReadFromUDPAddrPort(buf)
			}
			if err != nil && (tries == 10 || !errors.Is(err, os.ErrDeadlineExceeded)) {
				return nil, err
			}
		}
		if n < 4 || binary.BigEndian.Uint16(buf) != 3 || binary.BigEndian.Uint16(buf[2:]) != block {
			return nil, fmt.Errorf("got % x, want block %d", buf[:min(n, 64)], block)
		}
		got = append(got, buf[4:n]...)
		out, to = []byte{0, 4, byte(block >> 8), byte(block)}, peer
		if n < 516 {
			_, err := c.WriteToUDPAddrPort(out, to)
			return got, err
		}
	}
}

// TestPerClient: one client cannot take all slots.
func TestPerClient(t *testing.T) {
	s := (&Server{MaxTransfers: 100, MaxPerClient: 2}).newSlots()
	a := netip.MustParseAddr("10.0.0.1")
	p := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	if s.take(p(1)) != "" || s.take(p(2)) != "" {
		t.Fatal("the first two were not let in")
	}
	if why := s.take(p(3)); why != "beyond 2 of one client" {
		t.Errorf("third: %q", why)
	}
	if why := s.take(p(1)); why != "the same read is in progress" {
		t.Errorf("duplicate: %q", why)
	}
	s.release(p(1))
	s.release(p(1))
	if why := s.take(p(3)); why != "" || s.door.Held() != 2 {
		t.Errorf("after a release: %q, %d used", why, s.door.Held())
	}
	s.releaseLast()
	if s.door.Held() != 1 {
		t.Errorf("%d used after the last was given back", s.door.Held())
	}
}

// TestCut: a client that goes away in the middle is reported as cut, one that
// only asks for the size is not reported.
func TestCut(t *testing.T) {
	done := make(chan Transfer, 2)
	addr := serve(t, &Server{Files: map[string][]byte{"ipxe.efi": content(5000)}, Timeout: 20 * time.Millisecond, Done: func(x Transfer) { done <- x }})
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1024)
	exchange := func(out []byte, to netip.AddrPort) (int, netip.AddrPort) {
		if _, err := c.WriteToUDPAddrPort(out, to); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, peer, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		return n, peer
	}
	n, peer := exchange(request(1, "ipxe.efi", "octet", "tsize", "0"), addr)
	if got := string(buf[:n]); got != "\x00\x06tsize\x005000\x00" {
		t.Fatalf("OACK %q", got)
	}
	if _, err := c.WriteToUDPAddrPort(append([]byte{0, 5, 0, 8}, "size is known\x00"...), peer); err != nil {
		t.Fatal(err)
	}

	c2, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	c, c2 = c2, c
	defer c2.Close()
	_, peer = exchange(request(1, "ipxe.efi", "octet"), addr)
	_, peer = exchange([]byte{0, 4, 0, 1}, peer)
	if _, err := c.WriteToUDPAddrPort(append([]byte{0, 5, 0, 0}, "power cut\x00"...), peer); err != nil {
		t.Fatal(err)
	}
	select {
	case x := <-done:
		if x.Err == nil || !strings.Contains(x.Err.Error(), "power cut") || x.Size != 5000 {
			t.Errorf("transfer %+v", x)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the cut was not reported")
	}
}

func TestStopsWithTransfersOpen(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Files: map[string][]byte{"ipxe.efi": content(5000)}, Timeout: 20 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	c, err := net.DialUDP("udp4", nil, conn.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(request(1, "ipxe.efi", "octet")); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Serve did not end")
	}
}
