//go:build netns

package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"nereid/api"
)

// floodEnv names the flood that a copy of this program makes, on eth0 of the network
// namespace it is started in.
const floodEnv = "NEREID_BENCH_FLOOD"

// floodServer is the head node's address, floodClient that of who floods.
var (
	floodServer = netip.MustParseAddr("10.99.99.7")
	floodClient = netip.MustParsePrefix("10.99.98.5/12")
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(floodEnv); kind != "" {
		if err := flood(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// floods are what one client without any right does, for as long as the program runs.
// Each counts what it did.
var floods = []struct {
	name, what string
	run        func(ctx context.Context, done *atomic.Int64) error
}{
	{"newcomers", "exchanges of invented MACs, 4,000/s offered", func(ctx context.Context, done *atomic.Int64) error { return inventMACs(ctx, done) }},
	{"decline", "DISCOVER, REQUEST and DECLINE of one MAC, as fast as they are answered", declines},
	{"events", "POST /boot/ID/event of a boot of its own, 32 at once", postEvents},
	{"enrol", "POST /v1/enrol, 8 bodies of 3 MiB and 8 small ones at once", postEnrols},
	{"http", "HTTP connections, 1,000 at once, opened again when they are closed", func(ctx context.Context, done *atomic.Int64) error { return connections(ctx, done, "80", nil) }},
	{"https", "HTTPS connections, 1,000 at once, opened again when they are closed", func(ctx context.Context, done *atomic.Int64) error { return connections(ctx, done, "8443", handshake) }},
	{"tftp", "TFTP reads from new ports that are never acknowledged, 2,000/s", readTFTP},
	{"tokens", "2,000 one-boot tokens, minted and not used", mintTokens},
}

// flood says "ready" once it is at work, and then every quarter of a second how much
// it did.
func flood(kind string) error {
	ctx := context.Background()
	var done atomic.Int64
	failed := make(chan error, 1)
	for _, f := range floods {
		if f.name == kind {
			go func() { failed <- f.run(ctx, &done) }()
		}
	}
	for tick := time.Tick(250 * time.Millisecond); ; {
		select {
		case err := <-failed:
			return fmt.Errorf("flood %s: %w", kind, err)
		case <-tick:
			fmt.Println(done.Load())
		}
	}
}

// inventMACs begins exchanges at a rate and finishes those that are answered.
func inventMACs(ctx context.Context, done *atomic.Int64) error {
	udp, err := listenDHCP(ctx)
	if err != nil {
		return err
	}
	to := &net.UDPAddr{IP: floodServer.AsSlice(), Port: 67}
	go func() {
		n := 0
		for range time.Tick(time.Millisecond) {
			for range 4 {
				n++
				d, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x00, 0x16, 0x3e, byte(n >> 16), byte(n >> 8), byte(n)}, pxe, dhcpv4.WithBroadcast(true))
				if err == nil {
					_, _ = udp.WriteTo(d.ToBytes(), to)
				}
			}
		}
	}()
	for buf := make([]byte, 2048); ; {
		n, _, err := udp.ReadFrom(buf)
		if err != nil {
			return err
		}
		d, err := dhcpv4.FromBytes(buf[:n])
		switch {
		case err != nil || d.ClientHWAddr[1] != 0x16:
		case d.MessageType() == dhcpv4.MessageTypeOffer:
			if r, err := dhcpv4.NewRequestFromOffer(d, pxe, dhcpv4.WithBroadcast(true)); err == nil {
				_, _ = udp.WriteTo(r.ToBytes(), to)
			}
		case d.MessageType() == dhcpv4.MessageTypeAck:
			done.Add(1)
		}
	}
}

func declines(ctx context.Context, done *atomic.Int64) error {
	m, err := newMachine("00:16:3f:00:00:01", "4e455245-4944-4000-8000-0000000003f1", floodServer, "")
	if err != nil {
		return err
	}
	for {
		d, err := dhcpv4.NewDiscovery(m.mac, pxe, dhcpv4.WithBroadcast(true))
		if err != nil {
			return err
		}
		offer, err := m.exchange(ctx, d)
		if err != nil {
			continue // its addresses are all kept back
		}
		r, err := dhcpv4.NewRequestFromOffer(offer, pxe, dhcpv4.WithBroadcast(true))
		if err != nil {
			return err
		}
		ack, err := m.exchange(ctx, r)
		if err != nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			continue
		}
		r, err = dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline), dhcpv4.WithHwAddr(m.mac), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ack.YourIPAddr)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(floodServer.AsSlice())))
		if err != nil {
			return err
		}
		if _, err := m.udp.WriteTo(r.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return err
		}
		done.Add(1)
	}
}

// stranger is a machine that got as far as its script.
func stranger(ctx context.Context) (*machine, string, error) {
	m, err := newMachine("00:16:3f:00:00:02", "4e455245-4944-4000-8000-0000000003f2", floodServer, "")
	if err != nil {
		return nil, "", err
	}
	ack, err := m.lease(ctx, ipxe)
	if err != nil {
		return nil, "", err
	}
	return m, strings.TrimSuffix(strings.TrimRight(ack.BootFileNameOption(), "\x00"), "/script.ipxe"), nil
}

func postEvents(ctx context.Context, done *atomic.Int64) error {
	m, boot, err := stranger(ctx)
	if err != nil {
		return err
	}
	event, err := json.Marshal(api.BootEvent{Stage: api.StageStub, Detail: strings.Repeat("noise ", 150)})
	if err != nil {
		return err
	}
	return post(ctx, m.web(nil), 32, boot+"/event", func(int) []byte { return event }, done)
}

func postEnrols(ctx context.Context, done *atomic.Int64) error {
	m, _, err := stranger(ctx)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	r := api.EnrolRequest{Token: "invented", BootID: "invented", CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))}
	small, err := json.Marshal(r)
	if err != nil {
		return err
	}
	r.Sysinfo.Serial = strings.Repeat("x", 3<<20)
	large, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return post(ctx, m.web(&tls.Config{InsecureSkipVerify: true}), 16, "https://"+floodServer.String()+":8443/v1/enrol", func(i int) []byte {
		if i%2 == 0 {
			return small
		}
		return large
	}, done)
}

// post posts bodies, n at once, each on a connection that is kept where it may be.
func post(ctx context.Context, web *http.Client, n int, url string, body func(i int) []byte, done *atomic.Int64) error {
	web.Transport.(*http.Transport).MaxIdleConnsPerHost = n
	for i := range n {
		go func() {
			for {
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body(i)))
				if err != nil {
					continue
				}
				r.Header.Set("Content-Type", "application/json")
				resp, err := web.Do(r)
				done.Add(1)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
		}()
	}
	<-ctx.Done()
	return ctx.Err()
}

// connections holds connections that ask for nothing.
func connections(ctx context.Context, done *atomic.Int64, port string, greet func(context.Context, net.Conn) error) error {
	for range 1000 {
		go func() {
			for {
				var d net.Dialer
				c, err := d.DialContext(ctx, "tcp4", net.JoinHostPort(floodServer.String(), port))
				if err != nil {
					continue
				}
				done.Add(1)
				if greet == nil || greet(ctx, c) == nil {
					_, _ = c.Read(make([]byte, 1))
				}
				_ = c.Close()
			}
		}()
	}
	<-ctx.Done()
	return ctx.Err()
}

func handshake(ctx context.Context, c net.Conn) error {
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx)
}

func readTFTP(ctx context.Context, done *atomic.Int64) error {
	m, _, err := stranger(ctx) // an address without a lease is refused at once
	if err != nil {
		return err
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(floodServer, 69))
	var open []*net.UDPConn
	for range time.Tick(time.Millisecond) {
		for range 2 {
			if len(open) == 512 {
				_ = open[0].Close()
				open = open[1:]
			}
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: m.address.Addr().AsSlice()})
			if err != nil {
				return err
			}
			open = append(open, c)
			if _, err := c.WriteTo([]byte("\x00\x01undionly.kpxe\x00octet\x00blksize\x001432\x00"), to); err != nil {
				return err
			}
			done.Add(1)
		}
	}
	return ctx.Err()
}

// mintTokens has the configurations of 2,000 machines handed out to itself.
func mintTokens(ctx context.Context, done *atomic.Int64) error {
	const tokens, atOnce = 2000, 16
	udp, err := listenDHCP(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	acks := map[string]chan *dhcpv4.DHCPv4{}
	go func() {
		for buf := make([]byte, 2048); ; {
			n, _, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			d, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				continue
			}
			mu.Lock()
			c := acks[d.ClientHWAddr.String()]
			mu.Unlock()
			select {
			case c <- d:
			default: // another's, or told already
			}
		}
	}()
	one := func(n int) error {
		mac := net.HardwareAddr{0x00, 0x16, 0x40, 0, byte(n >> 8), byte(n)}
		answers := make(chan *dhcpv4.DHCPv4, 1)
		mu.Lock()
		acks[mac.String()] = answers
		mu.Unlock()
		exchange := func(d *dhcpv4.DHCPv4, err error) (*dhcpv4.DHCPv4, error) {
			for try := 0; err == nil && try < 8; try++ {
				if _, err = udp.WriteTo(d.ToBytes(), &net.UDPAddr{IP: floodServer.AsSlice(), Port: 67}); err != nil {
					break
				}
				select {
				case a := <-answers:
					return a, nil
				case <-time.After(time.Second):
				}
			}
			return nil, errors.Join(err, fmt.Errorf("machine %d gets no answer", n))
		}
		offer, err := exchange(dhcpv4.NewDiscovery(mac, ipxe, dhcpv4.WithBroadcast(true)))
		if err != nil {
			return err
		}
		ack, err := exchange(dhcpv4.NewRequestFromOffer(offer, ipxe, dhcpv4.WithBroadcast(true)))
		if err != nil {
			return err
		}
		a, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
		m := &machine{mac: mac, address: netip.PrefixFrom(a, floodClient.Bits())}
		web := m.web(nil)
		defer web.CloseIdleConnections()
		script := strings.TrimRight(ack.BootFileNameOption(), "\x00")
		for _, url := range []string{script, strings.TrimSuffix(script, "script.ipxe") + "config.cpio"} {
			if _, err := ask(ctx, web, http.MethodGet, url, nil, nil); err != nil {
				return err
			}
		}
		done.Add(1)
		return nil
	}
	failed := make(chan error, atOnce)
	for i := range atOnce {
		go func() {
			for n := i; n < tokens; n += atOnce {
				if err := one(n); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range atOnce {
		if err := <-failed; err != nil {
			return err
		}
	}
	done.Store(tokens)
	<-ctx.Done()
	return nil
}
