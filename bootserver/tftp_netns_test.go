//go:build netns

package bootserver_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// relay passes TFTP between clients and 10.99.99.7, and loses and doubles
// datagrams on the way. Each client gets two sockets: one towards the server, one
// towards the client, which stands for the server's transfer port.
type relay struct {
	conn *net.UDPConn
	wg   sync.WaitGroup

	mu      sync.Mutex
	clients map[netip.AddrPort]*session
	n       int
	lost    int
	doubled int
	closing bool
}

type session struct {
	up, down *net.UDPConn
	server   netip.AddrPort
}

// lossEvery and doubleEvery are coprime, so that no block is hit every time.
const (
	lossEvery   = 23
	doubleEvery = 7
)

func newRelay(t *testing.T, addr string) *relay {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{conn: conn, clients: map[netip.AddrPort]*session{}}
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		r.mu.Lock()
		r.closing = true
		_ = conn.Close()
		for _, s := range r.clients {
			_ = s.up.Close()
			_ = s.down.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

// send forwards b no, one or two times.
func (r *relay) send(c *net.UDPConn, b []byte, to netip.AddrPort) {
	r.mu.Lock()
	r.n++
	times := 1
	switch {
	case r.n%lossEvery == 0:
		times = 0
		r.lost++
	case r.n%doubleEvery == 0:
		times = 2
		r.doubled++
	}
	r.mu.Unlock()
	for range times {
		_, _ = c.WriteToUDPAddrPort(b, to)
	}
}

func (r *relay) accept() {
	buf := make([]byte, 4096)
	ip := r.conn.LocalAddr().(*net.UDPAddr).IP
	for {
		n, client, err := r.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		s := r.clients[client]
		if s == nil && !r.closing {
			up, err1 := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
			down, err2 := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
			if err1 != nil || err2 != nil {
				r.mu.Unlock()
				return
			}
			s = &session{up: up, down: down}
			r.clients[client] = s
			r.wg.Go(func() { r.downwards(s, client) })
			r.wg.Go(func() { r.upwards(s) })
		}
		r.mu.Unlock()
		if s != nil {
			r.send(s.up, buf[:n], netip.MustParseAddrPort("10.99.99.7:69"))
		}
	}
}

func (r *relay) downwards(s *session, client netip.AddrPort) {
	buf := make([]byte, 4096)
	for {
		n, server, err := s.up.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		s.server = server
		r.mu.Unlock()
		r.send(s.down, buf[:n], client)
	}
}

func (r *relay) upwards(s *session) {
	buf := make([]byte, 4096)
	for {
		n, _, err := s.down.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		server := s.server
		r.mu.Unlock()
		if server.IsValid() {
			r.send(s.up, buf[:n], server)
		}
	}
}

// TestNetNSForeignTFTPClients: atftp and tftp-hpa get iPXE whole, also when
// datagrams are lost and doubled, and are told why they cannot have other files.
func TestNetNSForeignTFTPClients(t *testing.T) {
	b := newBooter(t, []byte("kernel"), []byte("initrd"))
	start(t, b, "pxe")
	ip(t, "addr add 10.99.99.8/32 dev admin0")
	t.Cleanup(func() { ip(t, "addr del 10.99.99.8/32 dev admin0") })
	lossy := newRelay(t, "10.99.99.8:69")

	clients := map[string]func(server, file, out string) *exec.Cmd{
		"atftp": func(server, file, out string) *exec.Cmd {
			return exec.CommandContext(t.Context(), "atftp", "--option", "blksize 1468", "--option", "timeout 1", "--option", "tsize", "-g", "-r", file, "-l", out, server, "69")
		},
		"atftp without options": func(server, file, out string) *exec.Cmd {
			return exec.CommandContext(t.Context(), "atftp", "--option", "disable blksize", "-g", "-r", file, "-l", out, server, "69")
		},
		"tftp-hpa": func(server, file, out string) *exec.Cmd {
			return exec.CommandContext(t.Context(), "tftp", "-m", "binary", server, "-c", "get", file, out)
		},
	}
	for name, client := range clients {
		for _, file := range []string{"undionly.kpxe", "snponly.efi"} {
			for where, server := range map[string]string{"direct": "10.99.99.7", "lossy": "10.99.99.8"} {
				if where == "lossy" && file != "undionly.kpxe" {
					continue
				}
				t.Run(name+" "+where+" "+file, func(t *testing.T) {
					want, err := os.ReadFile(filepath.Join("/usr/lib/ipxe", file))
					if err != nil {
						t.Fatal(err)
					}
					out := filepath.Join(t.TempDir(), "out")
					began := time.Now()
					text, err := client(server, file, out).CombinedOutput()
					if err != nil {
						t.Fatalf("%v\n%s", err, text)
					}
					got, err := os.ReadFile(out)
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%d bytes of %d, or they differ: %v\n%s", len(got), len(want), err, text)
					}
					t.Logf("%d bytes in %.2f s", len(got), time.Since(began).Seconds())
				})
			}
		}
		t.Run(name+" refused", func(t *testing.T) {
			text, _ := client("10.99.99.7", "../../etc/passwd", filepath.Join(t.TempDir(), "out")).CombinedOutput()
			contains(t, name, string(text), "only iPXE is sent over TFTP")
		})
	}
	if lossy.lost < 5 || lossy.doubled < 20 {
		t.Errorf("%d datagrams lost and %d doubled of %d: not a test of loss", lossy.lost, lossy.doubled, lossy.n)
	}
	t.Run("write", func(t *testing.T) {
		in := filepath.Join(t.TempDir(), "in")
		if err := os.WriteFile(in, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		text, _ := exec.CommandContext(t.Context(), "tftp", "-m", "binary", "10.99.99.7", "-c", "put", in, "undionly.kpxe").CombinedOutput()
		contains(t, "tftp-hpa", string(text), "read only")
	})
}
