package headnode

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/answers"
	"nereid/images"
)

const sampleAnswers = `
datacenter = "coal"
dns_domain = "coal.example.com"
[admin]
interface = "lo"
address   = "127.77.0.7/24"
range     = ["127.77.0.100", "127.77.0.%d"]
ntp       = ["127.77.0.3"]
`

// head is a running head node with its operator's client.
type head struct {
	*Server
	t      *testing.T
	dir    string
	client *api.Client
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex
	offset time.Duration // of its clock
}

// initDir makes a data directory whose range ends with the number.
func initDir(t *testing.T, last int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hn") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a, err := answers.Parse(strings.NewReader(fmt.Sprintf(sampleAnswers, last)), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := Init(context.Background(), dir, a); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startHead(t *testing.T) *head { return startIn(t, initDir(t, 250)) }

func startIn(t *testing.T, dir string, set ...func(*Server)) *head {
	t.Helper()
	h := &head{t: t, dir: dir, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	s, err := Open(ctx, Config{Dir: dir, Listen: netip.MustParseAddrPort("127.77.0.7:0"), Hold: 50 * time.Millisecond, Now: h.clock})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	h.Server = s
	for _, f := range set {
		f(s)
	}
	go func() { h.done <- errors.Join(s.Run(ctx), s.Close()) }()
	select {
	case <-s.Ready():
	case err := <-h.done:
		t.Fatalf("run: %v", err)
	}
	h.client = api.NewClient(filepath.Join(dir, SocketFile))
	t.Cleanup(h.stop)
	return h
}

// stop ends the head node and waits for it; it may be called again.
func (h *head) stop() {
	h.client.Close()
	h.cancel()
	if h.done == nil {
		return
	}
	if err := <-h.done; err != nil {
		h.t.Errorf("run: %v", err)
	}
	h.done = nil
}

func (h *head) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.offset)
}

func (h *head) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offset += d
}

// platform imports a signed platform of a few bytes, as the CLI does.
func (h *head) platform(stamp string) api.Platform {
	h.t.Helper()
	ctx := context.Background()
	signed, key, files := makePlatform(h.t, stamp)
	if err := h.client.AddPlatformKey(ctx, api.PlatformKey{Name: "key-" + strings.ToLower(stamp), Key: images.FormatPublicKey(images.PublicKey(key))}); err != nil {
		h.t.Fatal(err)
	}
	p, err := h.client.AddPlatform(ctx, signed)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range p.Manifest.Files() {
		if err := h.client.Upload(ctx, f, bytes.NewReader(files[f.SHA256]), nil); err != nil {
			h.t.Fatal(err)
		}
	}
	if p, err = h.client.Platform(ctx, stamp); err != nil || !p.Complete {
		h.t.Fatalf("platform %+v: %v", p, err)
	}
	return p
}

// server reads a server.
func (h *head) server(id string) api.Server {
	h.t.Helper()
	sv, err := h.client.Server(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return sv
}

// machine is a server with the tiniest agent: its firmware asks the Booter, its
// agent speaks HTTPS.
type machine struct {
	h     *head
	ctx   context.Context // of what it asks the Booter; nil: none in particular
	uuid  string
	mac   string
	nics  []string
	addr  netip.Addr
	from  netip.Addr // it speaks HTTPS from; zero: any
	boot  string
	token string
	cfg   api.BootConfig
	key   *ecdsa.PrivateKey
	cert  []byte
	seen  string
	rep   api.Report

	old    bool // its agent follows no sets
	follow api.Follow
	sets   accountSets
	wanted *api.NetworkSpec        // of its spec
	ports  map[string]api.PortSpec // of the set, by key
	gone   map[string]bool         // tombstones of the set, by key
}

func (h *head) machine(n int) *machine {
	m := &machine{h: h, uuid: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), mac: fmt.Sprintf("52:54:00:00:00:%02x", n)}
	m.nics = []string{m.mac}
	m.newKey()
	return m
}

func (m *machine) newKey() {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.h.t.Fatal(err)
	}
	m.key = k
}

func (m *machine) context() context.Context {
	if m.ctx == nil {
		return context.Background()
	}
	return m.ctx
}

func (m *machine) ask(kind api.BootKind, class string, requested netip.Addr) api.BootAnswer {
	m.h.t.Helper()
	r := api.BootRequest{Kind: kind, MAC: m.mac, UUID: m.uuid, Arch: 7, VendorClass: "PXEClient:Arch:00007", UserClass: class, Requested: requested}
	a, err := m.h.Boot(m.context(), r)
	if err != nil {
		m.h.t.Fatalf("%s: %v", kind, err)
	}
	return a
}

// dhcp takes an address, as firmware or as iPXE.
func (m *machine) dhcp(class string) api.BootAnswer {
	m.h.t.Helper()
	o := m.ask(api.KindDiscover, class, netip.Addr{})
	if o.Verdict != api.VerdictAnswer {
		m.h.t.Fatalf("discover: %+v", o)
	}
	a := m.ask(api.KindRequest, class, o.Address.Addr())
	if a.Verdict != api.VerdictAnswer || a.Address != o.Address || a.BootID == "" {
		m.h.t.Fatalf("offer %+v, ack %+v", o, a)
	}
	m.addr, m.boot = a.Address.Addr(), a.BootID
	return a
}

func (m *machine) saw(stage api.BootStage) {
	m.h.t.Helper()
	if err := m.h.Record(m.context(), m.boot, netip.Addr{}, api.BootEvent{Stage: stage}); err != nil {
		m.h.t.Fatalf("record %s: %v", stage, err)
	}
}

// powerOn goes from firmware to the configuration.
func (m *machine) powerOn() {
	m.h.t.Helper()
	first := m.dhcp("")
	m.saw(api.StageTFTP)
	if a := m.dhcp("iPXE"); a.BootID != first.BootID {
		m.h.t.Fatalf("iPXE began another boot: %s, then %s", first.BootID, a.BootID)
	}
	plan, err := m.h.Plan(m.context(), m.boot, m.addr)
	if err != nil || plan.Manifest == nil {
		m.h.t.Fatalf("plan %+v: %v", plan, err)
	}
	for _, s := range []api.BootStage{api.StageScript, api.StageKernel, api.StageInitrd} {
		m.saw(s)
	}
	if m.cfg, err = m.h.Config(m.context(), m.boot, m.addr); err != nil {
		m.h.t.Fatal(err)
	}
	m.saw(api.StageConfig)
	m.token = m.cfg.Token
	m.rep = api.Report{BootID: m.boot, Platform: m.cfg.Platform, Hostname: m.cfg.Hostname, AgentVersion: "test"}
	m.seen, m.cert = "", nil
}

// bootUp is powerOn and an enrolment that is granted at once.
func (m *machine) bootUp() {
	m.h.t.Helper()
	m.powerOn()
	if st, r, err := m.enrol(); err != nil || st != http.StatusOK {
		m.h.t.Fatalf("enrol: %d %+v %v", st, r, err)
	}
}

func (m *machine) csr() string {
	name := cmp.Or(m.uuid, m.mac) // some name it must have
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, m.key)
	if err != nil {
		m.h.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (m *machine) sysinfo() api.Sysinfo {
	info := api.Sysinfo{UUID: m.uuid, MemoryBytes: 1 << 30, CPU: api.CPU{Sockets: 1, Cores: 2, Threads: 2}, Disks: []api.Disk{}}
	for i, n := range m.nics {
		info.NICs = append(info.NICs, api.NIC{Name: fmt.Sprintf("eth%d", i), MAC: n, LinkUp: true})
	}
	return info
}

func (m *machine) enrol() (int, api.EnrolResponse, error) {
	var out api.EnrolResponse
	st, err := m.post(m.h.ca.Pool(), "/v1/enrol", api.EnrolRequest{Token: m.token, BootID: m.boot, CSR: m.csr(), Sysinfo: m.sysinfo()}, &out)
	if out.Certificate != "" {
		m.cert = []byte(out.Certificate)
	}
	return st, out, err
}

func (m *machine) sync() (int, api.SyncResponse, error) {
	return m.syncWith(api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Report: m.rep})
}

func (m *machine) syncWith(req api.SyncRequest) (int, api.SyncResponse, error) {
	var out api.SyncResponse
	if !m.old {
		m.follow.Set = api.PortSet(m.uuid)
		req.Follow = append([]api.Follow{m.follow}, m.sets.follow(m.h.t, m.uuid, m.ports, m.unknown())...)
	}
	st, err := m.post(m.h.ca.Pool(), "/v1/servers/"+m.uuid+"/sync", req, &out)
	if out.Revision != "" {
		m.seen = out.Revision
	}
	for _, d := range out.Deltas {
		if !m.sets.take(d) {
			m.take(d)
		}
	}
	if out.Spec != nil {
		clear(m.sets.refused)
	}
	m.sets.refuse(out.Refused)
	if out.Spec == nil {
		out.Spec = &api.Spec{}
	}
	if n := out.Spec.Network; n != nil {
		if len(n.Ports)+len(n.Gone)+len(n.VNIs)+len(n.Routers) > 0 {
			m.h.t.Errorf("a spec has ports, VNIs or routers: %+v", n)
		}
		wanted := *n
		m.wanted = &wanted
		for _, key := range slices.Sorted(maps.Keys(m.ports)) {
			n.Ports = append(n.Ports, m.ports[key])
		}
	}
	return st, out, err
}

// take takes in a delta of the set of ports.
func (m *machine) take(d api.Delta) {
	m.h.t.Helper()
	if d.Set != m.follow.Set {
		m.h.t.Fatalf("a delta of set %s", d.Set)
	}
	if d.Full || m.ports == nil {
		m.ports, m.gone = map[string]api.PortSpec{}, map[string]bool{}
	}
	for _, key := range d.Gone {
		delete(m.ports, key)
		m.gone[key] = true
	}
	for _, value := range d.Put {
		var p api.PortSpec
		if err := json.Unmarshal(value, &p); err != nil {
			m.h.t.Fatal(err)
		}
		m.ports[api.PortKey(p.MAC, p.Instance)] = p
		delete(m.gone, api.PortKey(p.MAC, p.Instance))
	}
	m.follow = m.follow.Take(d)
}

// mustSync syncs, and sends the inventory when it is asked for.
func (m *machine) mustSync() api.SyncResponse {
	m.h.t.Helper()
	_, out, err := m.sync()
	if err != nil {
		m.h.t.Fatal(err)
	}
	if out.NeedInventory {
		info := m.sysinfo()
		if _, _, err := m.syncWith(api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Inventory: &info, Report: m.rep}); err != nil {
			m.h.t.Fatal(err)
		}
	}
	return out
}

// post is one request with the machine's certificate, if it has one.
func (m *machine) post(pool *x509.CertPool, path string, in, out any) (int, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, Time: m.h.clock}
	if m.cert != nil {
		block, _ := pem.Decode(m.cert)
		cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: m.key}}
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	var d net.Dialer
	if m.from.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: m.from.AsSlice()}
	}
	opened := make(chan net.Conn, 4)
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err == nil {
			opened <- c
		}
		return c, err
	}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	res, err := c.Post("https://"+m.h.HTTPS().String()+path, "application/json", bytes.NewReader(b))
	select {
	case c := <-opened:
		defer c.Close()
	default: // there was none
	}
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if res.StatusCode >= 300 {
		p := &api.Problem{}
		if err := json.Unmarshal(body, p); err != nil || p.Status != res.StatusCode || p.Detail == "" || p.Next == "" {
			return res.StatusCode, fmt.Errorf("answer %d is no full problem: %s", res.StatusCode, body)
		}
		return res.StatusCode, p
	}
	if len(body) > 0 {
		return res.StatusCode, json.Unmarshal(body, out)
	}
	return res.StatusCode, nil
}

func codeOf(err error) api.Code {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// wantCode checks that err is a problem of a code that says what and what next.
func wantCode(t *testing.T, what string, err error, code api.Code) {
	t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != code {
		t.Errorf("%s: %v; want a problem with code %s", what, err, code)
		return
	}
	if p.Detail == "" || p.Next == "" || p.Status < 400 {
		t.Errorf("%s: the problem does not say what and what next: %+v", what, *p)
	}
}

// until waits for something that nothing tells of.
func (h *head) until(what string, ok func() bool) {
	h.t.Helper()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-limit:
			h.t.Fatalf("it did not come true that %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
