//go:build netns

package bench

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/pin/tftp/v3"
	"golang.org/x/sys/unix"

	"nereid/api"
	"nereid/integration/fleet"
	"nereid/integration/lab"
)

// retransmit is how long firmware waits for an answer at first (PXE 2.1, section
// 2.2.4): what is lost costs a boot as much.
const retransmit = 4 * time.Second

// machine is a server without a kernel: it asks the head node for every leg of its
// boot over sockets in a network namespace, as firmware, iPXE, stub and agent do.
type machine struct {
	mac     net.HardwareAddr
	uuid    string
	headend netip.Addr
	ns      string // path; empty: the process is in it already
	key     *ecdsa.PrivateKey
	udp     *net.UDPConn // port 68 of eth0
	address netip.Prefix // configured
}

func newMachine(mac, uuid string, headend netip.Addr, ns string) (*machine, error) {
	m := &machine{uuid: uuid, headend: headend, ns: ns}
	var err error
	if m.mac, err = net.ParseMAC(mac); err != nil {
		return nil, err
	}
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	return m, m.listen(context.Background())
}

// listen opens the client's port anew. A machine that is powered on has heard
// nothing yet: what others were sent before, by broadcast, is not in its way.
func (m *machine) listen(ctx context.Context) error {
	if m.udp != nil {
		_ = m.udp.Close() // nothing was written that could be lost
	}
	return m.inside(func() (err error) {
		m.udp, err = listenDHCP(ctx)
		return err
	})
}

// listenDHCP opens the client's port on eth0, which needs no address.
func listenDHCP(ctx context.Context) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0") })
		return errors.Join(err, serr)
	}}
	c, err := lc.ListenPacket(ctx, "udp4", ":68")
	if err != nil {
		return nil, err
	}
	udp := c.(*net.UDPConn)
	return udp, udp.SetReadBuffer(4 << 20)
}

func (m *machine) inside(f func() error) error {
	if m.ns == "" {
		return f()
	}
	return lab.Inside(m.ns, f)
}

// booted is how long a boot took up to its first address, and up to its first sync.
type booted struct{ ack, whole time.Duration }

// boot boots once. A server that is not let in yet ends where it waits.
func (m *machine) boot(ctx context.Context) (b booted, err error) {
	if err := m.listen(ctx); err != nil {
		return b, err
	}
	began := time.Now()
	firmware, err := m.lease(ctx, pxe)
	if err != nil {
		return b, fmt.Errorf("firmware: %w", err)
	}
	b.ack = time.Since(began)
	if err := m.tftp(firmware.BootFileNameOption()); err != nil {
		return b, fmt.Errorf("firmware: %w", err)
	}
	web := m.web(nil)
	defer web.CloseIdleConnections()
	conf, err := m.load(ctx, web)
	if err != nil {
		return b, err
	}
	if err := m.stub(ctx, web, conf); err != nil {
		return b, err
	}
	in, err := m.join(ctx, conf)
	if err != nil || !in {
		return b, err
	}
	b.whole = time.Since(began)
	return b, nil
}

// pxe and ipxe are what tells firmware and iPXE apart.
func pxe(d *dhcpv4.DHCPv4) {
	d.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001"))
	d.UpdateOption(dhcpv4.OptClientArch(iana.INTEL_X86PC))
}

func ipxe(d *dhcpv4.DHCPv4) { pxe(d); d.UpdateOption(dhcpv4.OptUserClass("iPXE")) }

// lease does one exchange of DISCOVER, OFFER, REQUEST and ACK, and takes the address.
func (m *machine) lease(ctx context.Context, as dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	id, err := hex.DecodeString(strings.ReplaceAll(m.uuid, "-", ""))
	if err != nil {
		return nil, err
	}
	all := []dhcpv4.Modifier{as, dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, id...)))}
	ask, err := dhcpv4.NewDiscovery(m.mac, all...)
	if err != nil {
		return nil, err
	}
	offer, err := m.exchange(ctx, ask)
	if err != nil {
		return nil, err
	}
	if ask, err = dhcpv4.NewRequestFromOffer(offer, all...); err != nil {
		return nil, err
	}
	ack, err := m.exchange(ctx, ask)
	if err != nil {
		return nil, err
	}
	if ack.MessageType() != dhcpv4.MessageTypeAck {
		return nil, fmt.Errorf("%s: %s", ack.MessageType(), ack.Message())
	}
	a, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	ones, _ := ack.SubnetMask().Size()
	if p := netip.PrefixFrom(a, ones); ok && p != m.address {
		ip := []string{"ip", "address", "replace", p.String(), "dev", "eth0"}
		if m.ns != "" {
			ip = append([]string{"nsenter", "--net=" + m.ns}, ip...)
		}
		if out, err := exec.CommandContext(ctx, ip[0], ip[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("take %s: %w: %s", p, err, out)
		}
		m.address = p
	}
	return ack, nil
}

// exchange sends a message until it is answered.
func (m *machine) exchange(ctx context.Context, ask *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	buf := make([]byte, 2048)
	for try := 0; try < 4 && ctx.Err() == nil; try++ {
		if _, err := m.udp.WriteTo(ask.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return nil, err
		}
		if err := m.udp.SetReadDeadline(time.Now().Add(retransmit)); err != nil {
			return nil, err
		}
		for {
			n, _, err := m.udp.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return nil, err
			}
			if err != nil {
				break
			}
			// Others' answers are broadcast too: they are told by the header alone.
			if n < 240 || !bytes.Equal(buf[4:8], ask.TransactionID[:]) {
				continue
			}
			if d, err := dhcpv4.FromBytes(buf[:n]); err == nil && d.OpCode == dhcpv4.OpcodeBootReply {
				return d, nil
			}
		}
	}
	return nil, fmt.Errorf("%s of %s: no answer", ask.MessageType(), m.mac)
}

func (m *machine) tftp(file string) error {
	return m.inside(func() error {
		c, err := tftp.NewClient(net.JoinHostPort(m.headend.String(), "69"))
		if err != nil {
			return err
		}
		c.SetBlockSize(1432)
		from, err := c.Receive(strings.TrimRight(file, "\x00"), "octet")
		if err == nil {
			_, err = from.WriteTo(io.Discard)
		}
		return err
	})
}

// web is a client with a connection of its own; its TLS trusts whom the boot does.
func (m *machine) web(conf *tls.Config) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: conf,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: m.address.Addr().AsSlice()}}
			err = m.inside(func() (err error) { c, err = d.DialContext(ctx, network, address); return err })
			return c, err
		}}}
}

// ask does one request; out is a *[]byte, or what JSON is read into, or nil.
func ask(ctx context.Context, web *http.Client, method, url string, in, out any) (status int, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "iPXE/1.21.1")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := web.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, errors.Join(fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, b), err)
	}
	switch out := out.(type) {
	case nil:
		_, err = io.Copy(io.Discard, resp.Body)
	case *[]byte:
		*out, err = io.ReadAll(resp.Body)
	default:
		if resp.StatusCode != http.StatusNoContent {
			err = json.NewDecoder(resp.Body).Decode(out)
		}
	}
	return resp.StatusCode, err
}

// load is iPXE: a lease of its own, the script, and what the script names.
func (m *machine) load(ctx context.Context, web *http.Client) (conf api.BootConfig, err error) {
	ack, err := m.lease(ctx, ipxe)
	if err != nil {
		return conf, fmt.Errorf("iPXE: %w", err)
	}
	script := strings.TrimRight(ack.BootFileNameOption(), "\x00")
	var text []byte
	if _, err := ask(ctx, web, http.MethodGet, script, nil, &text); err != nil {
		return conf, err
	}
	var archive []byte
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if len(w) < 4 || w[0] != "kernel" && w[0] != "initrd" {
			continue
		}
		var out any
		if strings.HasSuffix(w[3], "/config.cpio") {
			out = &archive
		}
		if _, err := ask(ctx, web, http.MethodGet, w[3], nil, out); err != nil {
			return conf, err
		}
	}
	from := bytes.IndexByte(archive, '{')
	if from < 0 {
		return conf, fmt.Errorf("this boot is held:\n%s", text)
	}
	return conf, json.NewDecoder(bytes.NewReader(archive[from:])).Decode(&conf)
}

// stub fetches the root filesystem and reports.
func (m *machine) stub(ctx context.Context, web *http.Client, conf api.BootConfig) error {
	report := func(s api.BootStage) error {
		_, err := ask(ctx, web, http.MethodPost, conf.BootServer+"/boot/"+conf.BootID+"/event", api.BootEvent{Stage: s}, nil)
		return err
	}
	var manifest api.Manifest
	if _, err := ask(ctx, web, http.MethodGet, conf.BootServer+"/platforms/"+conf.Platform+"/manifest.json", nil, &manifest); err != nil {
		return err
	}
	if err := report(api.StageStub); err != nil {
		return err
	}
	for _, l := range manifest.Layers {
		if _, err := ask(ctx, web, http.MethodGet, conf.BootServer+"/files/"+l.SHA256+"/"+l.Name+"?boot="+conf.BootID, nil, nil); err != nil {
			return err
		}
	}
	return cmp.Or(report(api.StageRoot), report(api.StageSwitchRoot))
}

// join is the agent: it enrols and syncs for the first time. in is false when an
// operator has to let the server in first.
func (m *machine) join(ctx context.Context, conf api.BootConfig) (in bool, err error) {
	csr, err := fleet.CSR(m.key, m.uuid)
	if err != nil {
		return false, err
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} // nothing here is kept from anybody
	plain := m.web(trust)
	defer plain.CloseIdleConnections()
	info := api.Sysinfo{UUID: m.uuid, NICs: []api.NIC{{Name: "eth0", MAC: m.mac.String()}}}
	var answer api.EnrolResponse
	if _, err = ask(ctx, plain, http.MethodPost, conf.API+"/v1/enrol", api.EnrolRequest{Token: conf.Token, BootID: conf.BootID,
		CSR: csr, Sysinfo: info}, &answer); err != nil || answer.Certificate == "" {
		return false, err
	}
	cert, err := fleet.Certificate(answer.Certificate, m.key)
	if err != nil {
		return false, err
	}
	trust = trust.Clone()
	trust.Certificates = []tls.Certificate{*cert}
	mutual := m.web(trust)
	defer mutual.CloseIdleConnections()
	var sync api.SyncResponse
	if _, err = ask(ctx, mutual, http.MethodPost, conf.API+"/v1/servers/"+answer.UUID+"/sync", api.SyncRequest{
		Report: api.Report{BootID: conf.BootID, Platform: conf.Platform, Hostname: conf.Hostname}}, &sync); err != nil {
		return false, err
	}
	return true, nil
}
