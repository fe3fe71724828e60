package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"nereid/api"
)

// fakeHead is a head node as PLAN's REST describes it, small: one server, real
// TLS, connections that are pipes, so that it lives in a synctest bubble.
type fakeHead struct {
	t     *testing.T
	ca    *x509.Certificate
	cakey *ecdsa.PrivateKey
	boot  api.BootConfig

	late        map[string]bool // sets of accounts of which nothing is said
	refusedSets map[string]bool // sets of accounts that may not be followed

	mu       sync.Mutex
	cond     chan struct{} // closed and replaced at each change
	approved bool
	refuse   *api.Problem     // answer to enrolments
	broken   http.HandlerFunc // answers everything, when set
	spec     *api.Spec
	askInv   bool
	noHold   bool
	life     time.Duration       // of client certificates
	maps     []api.FabricMap     // answer to every sync that follows them and does not have them
	refused  map[uint32]bool     // maps that may not be followed
	ports    portsOf             // the set of ports, as the spec was last
	parts    *partsHead          // what it has of syncs; nil: it says nothing of it
	cutSpec  *int                // the next answer with a spec breaks off after so many bytes
	cutSync  *int                // the next answer with deltas breaks off after so many bytes
	probes   []api.Probe         // asked for until a sync brings results
	sets     map[string]*fakeSet // further sets, by name
	files    map[string]string   // bytes of images, by UUID
	fetched  []string            // images, as they were asked for
	seen     string              // Now of the report of instances that was taken in last
	told     map[string]api.InstanceStatus
	snaps    map[string]map[string]api.SnapshotStatus // by instance and id
	gone     []string
	written  []api.MetadataChange // by instances, once each
	deaf     bool                 // it takes a report in, and its answer is lost
	fulls    int
	greeted  bool                               // a head node answers at once when it hears of a server's instances
	sessions []api.SessionSpec                  // asked for until the agent comes
	converse func(id string, c *websocket.Conn) // the head node's end of a session
	enrols   int
	renewals int
	requests int
	dials    int
	down     bool // dials are refused
	syncs    []api.SyncRequest
	came     []time.Time      // of syncs
	key      *ecdsa.PublicKey // of the first enrolment
	conns    []net.Conn
	listener *pipeListener
	server   *http.Server
	tls      *tls.Config
	certTime [2]time.Time // validity of the server's certificate; zero: around now
}

func newHeadNode(t *testing.T) *fakeHead {
	t.Helper()
	h := &fakeHead{t: t, cond: make(chan struct{}), life: 24 * time.Hour}
	h.cakey = mustKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-5000 * time.Hour), NotAfter: time.Now().Add(87600 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	h.ca = h.sign(tmpl, tmpl, &h.cakey.PublicKey)
	sum := sha256.Sum256(h.ca.Raw)
	h.boot = api.BootConfig{
		BootID: "boot1", Token: "secret-token", API: "https://10.99.99.7:8443", CASHA256: hex.EncodeToString(sum[:]),
		Platform: "20261122T101500Z", Hostname: "52-54-00-00-00-01", Time: time.Now(),
	}
	h.serve()
	t.Cleanup(h.close)
	return h
}

func mustKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (h *fakeHead) sign(tmpl, parent *x509.Certificate, pub *ecdsa.PublicKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, h.cakey)
	if err != nil {
		h.t.Error(err)
		return nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		h.t.Error(err)
	}
	return c
}

// serve starts (again) with a new certificate of the same CA.
func (h *fakeHead) serve() {
	key := mustKey(h.t)
	from, to := time.Now().Add(-time.Hour), time.Now().Add(8760*time.Hour)
	if !h.certTime[0].IsZero() {
		from, to = h.certTime[0], h.certTime[1]
	}
	leaf := h.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "head node"},
		NotBefore: from, NotAfter: to, IPAddresses: []net.IP{net.ParseIP("10.99.99.7"), net.ParseIP("127.0.0.1")},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, h.ca, &key.PublicKey)
	pool := x509.NewCertPool()
	pool.AddCert(h.ca)
	l := &pipeListener{ch: make(chan net.Conn), done: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listener = l
	h.tls = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, h.ca.Raw}, PrivateKey: key}},
		ClientCAs:    pool, ClientAuth: tls.VerifyClientCertIfGiven,
	}
	h.server = &http.Server{
		Handler:   http.HandlerFunc(h.handle),
		ErrorLog:  log.New(io.Discard, "", 0),
		TLSConfig: h.tls.Clone(),
	}
	srv := h.server
	go func() { _ = srv.ServeTLS(l, "", "") }()
}

// close is what SIGKILL does: every connection is gone at once.
func (h *fakeHead) close() {
	h.mu.Lock()
	srv := h.server
	h.mu.Unlock()
	srv.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		c.Close()
	}
	h.conns = nil
	h.bump()
}

func (h *fakeHead) bump() {
	close(h.cond)
	h.cond = make(chan struct{})
}

// set changes the head node's mind; polls in flight see it.
func (h *fakeHead) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.bump()
}

// counts are how often what was asked.
func (h *fakeHead) counts() (requests, dials, enrols, renewals int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests, h.dials, h.enrols, h.renewals
}

func (h *fakeHead) bootConfig() api.BootConfig {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boot
}

func (h *fakeHead) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	h.mu.Lock()
	h.dials++
	down, l := h.down, h.listener
	h.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	a, b := pipe()
	h.mu.Lock()
	h.conns = append(h.conns, a, b)
	h.mu.Unlock()
	select {
	case l.ch <- b:
		return a, nil
	case <-l.done:
	case <-ctx.Done():
	}
	a.Close()
	b.Close()
	return nil, errors.New("connection refused")
}

type pipeListener struct {
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (h *fakeHead) handle(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.requests++
	broken := h.broken
	h.mu.Unlock()
	if broken != nil {
		broken(w, r)
		return
	}
	cn := ""
	if len(r.TLS.PeerCertificates) > 0 {
		cn = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	switch r.URL.Path {
	case "/v1":
		answerJSON(w, 200, api.Capabilities{})
	case "/v1/enrol":
		h.enrol(w, r)
	case "/v1/servers/" + testUUID + "/sync":
		if cn != testUUID {
			answerProblem(w, &api.Problem{Status: 401, Code: api.CodeUnauthorized, Title: "no certificate"})
			return
		}
		h.sync(w, r)
	case "/v1/servers/" + testUUID + "/renew":
		if cn != testUUID {
			answerProblem(w, &api.Problem{Status: 401, Code: api.CodeUnauthorized, Title: "no certificate"})
			return
		}
		var in struct{ CSR string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			h.t.Error(err)
		}
		h.mu.Lock()
		h.renewals++
		h.mu.Unlock()
		answerJSON(w, 200, h.certify(in.CSR))
	case "/v1/servers/" + testUUID + "/sessions/" + path.Base(r.URL.Path):
		h.session(w, r)
	default:
		if h.file(w, r, cn) {
			return
		}
		h.t.Errorf("unknown path %s", r.URL.Path)
		http.NotFound(w, r)
	}
}

// breakOff answers with the first bytes of what there is to say, and hangs up.
func breakOff(w http.ResponseWriter, v any, bytes int) {
	b, _ := json.Marshal(v)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b[:min(bytes, len(b))])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func answerProblem(w http.ResponseWriter, p *api.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// hold waits as a head node does: for a change or SyncHold.
func (h *fakeHead) hold(r *http.Request, ready func() bool) bool {
	t := time.NewTimer(api.SyncHold)
	defer t.Stop()
	for {
		h.mu.Lock()
		ok, ch, no := ready(), h.cond, h.noHold
		h.mu.Unlock()
		if ok || no {
			return ok
		}
		select {
		case <-ch:
		case <-t.C:
			return false
		case <-r.Context().Done():
			return false
		}
	}
}

func (h *fakeHead) enrol(w http.ResponseWriter, r *http.Request) {
	var in api.EnrolRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return // the agent hung up
	}
	if in.Token != "secret-token" || in.Sysinfo.UUID != testUUID || in.BootID != h.bootConfig().BootID {
		h.t.Errorf("enrolment of %q, boot %q", in.Sysinfo.UUID, in.BootID)
	}
	h.mu.Lock()
	h.enrols++
	h.mu.Unlock()
	h.hold(r, func() bool { return h.approved || h.refuse != nil })
	h.mu.Lock()
	refuse, approved := h.refuse, h.approved
	h.mu.Unlock()
	switch {
	case refuse != nil:
		answerProblem(w, refuse)
	case approved:
		answerJSON(w, 200, h.certify(in.CSR))
	default:
		answerJSON(w, 202, api.EnrolResponse{State: api.StatePending, Reason: "new server"})
	}
}

func (h *fakeHead) certify(csr string) api.EnrolResponse {
	b, _ := pem.Decode([]byte(csr))
	req, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		h.t.Error(err)
		return api.EnrolResponse{}
	}
	pub := req.PublicKey.(*ecdsa.PublicKey)
	h.mu.Lock()
	if h.key == nil {
		h.key = pub
	} else if !h.key.Equal(pub) {
		h.t.Error("the server came with another key")
	}
	life := h.life
	h.mu.Unlock()
	c := h.sign(&x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: req.Subject.CommonName},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, h.ca, pub)
	return api.EnrolResponse{
		State: api.StateApproved, NotAfter: c.NotAfter,
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
	}
}

func (h *fakeHead) sync(w http.ResponseWriter, r *http.Request) {
	var in api.SyncRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return // the agent hung up
	}
	h.mu.Lock()
	h.syncs, h.came = append(h.syncs, in), append(h.came, time.Now())
	ask := h.askInv
	if in.Inventory != nil {
		h.askInv = false
		ask = false
	}
	if len(in.Probes) > 0 {
		h.probes = nil
	}
	acked := h.takeInstances(in.Instances)
	if h.deaf && in.Instances != nil {
		h.bump()
		h.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	if h.sets != nil && !h.greeted { // it has not heard of the server's instances yet
		h.greeted, acked = true, true
	}
	var have map[string]string
	none := true
	if h.parts != nil {
		have, none = h.parts.take(in)
	}
	h.bump()
	h.mu.Unlock()
	news := func() bool {
		return !none || acked || len(h.sessions) > 0 || h.spec != nil && h.spec.Revision != in.Seen || len(h.probes) > 0 || len(h.deltas(in)) > 0 || len(h.refuses(in)) > 0
	}
	if !ask && !h.hold(r, news) {
		w.WriteHeader(204)
		return
	}
	h.mu.Lock()
	out := api.SyncResponse{Deltas: h.deltas(in), Refused: h.refuses(in), NeedInventory: ask, Probes: h.probes, Sessions: slices.Clone(h.sessions), InstancesSeen: h.seen, Have: have}
	if ask || len(h.probes) > 0 || h.spec != nil && h.spec.Revision != in.Seen {
		spec := api.Spec{Revision: "r0"}
		if h.spec != nil {
			spec = *h.spec
		}
		if spec.Network != nil { // the ports are a set
			n := *spec.Network
			n.Ports, n.Gone, n.Firewall = nil, nil, api.FirewallSpec{} // and the rules
			n.VNIs, n.Routers = nil, nil                               // and what these come from
			spec.Network = &n
		}
		out.Revision, out.Spec = spec.Revision, &spec
	}
	var cut *int
	if len(out.Deltas) > 0 {
		cut, h.cutSync = h.cutSync, nil
	}
	if out.Spec != nil && h.cutSpec != nil {
		cut, h.cutSpec = h.cutSpec, nil
	}
	h.mu.Unlock()
	if cut != nil {
		breakOff(w, out, *cut)
	}
	answerJSON(w, 200, out)
}

// session takes the server's end of a session, which is asked for no more.
func (h *fakeHead) session(w http.ResponseWriter, r *http.Request) {
	id := path.Base(r.URL.Path)
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		h.t.Error(err)
		return
	}
	h.set(func() {
		h.sessions = slices.DeleteFunc(h.sessions, func(s api.SessionSpec) bool { return s.ID == id })
	})
	h.converse(id, c)
	c.CloseNow()
}

// last is the newest sync.
func (h *fakeHead) last() (api.SyncRequest, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.syncs) == 0 {
		return api.SyncRequest{}, 0
	}
	return h.syncs[len(h.syncs)-1], len(h.syncs)
}

// until waits for a sync that satisfies f, at most an hour of the bubble's time.
func (h *fakeHead) until(what string, f func(api.SyncRequest) bool) api.SyncRequest {
	h.t.Helper()
	deadline := time.NewTimer(time.Hour)
	defer deadline.Stop()
	for {
		h.mu.Lock()
		ch := h.cond
		h.mu.Unlock()
		if s, n := h.last(); n > 0 && f(s) {
			return s
		}
		select {
		case <-ch:
		case <-deadline.C:
			s, n := h.last()
			h.t.Fatalf("no sync says %s; the last of %d says %+v", what, n, s.Report)
		}
	}
}
