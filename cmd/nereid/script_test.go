package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"nereid/api"
	"nereid/images"
)

var update = flag.Bool("update", false, "write what the commands print into the archives")

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"nereid": main}) }

// TestScripts runs the archives of testdata/script: the program, as it is
// started by a shell, against a head node on a Unix socket and over TLS.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"fake": fakeCommand},
		Setup: func(env *testscript.Env) error {
			h, err := startHeadnode(filepath.Join(env.WorkDir, "headnode.sock"))
			if err != nil {
				return err
			}
			env.Defer(h.close)
			env.Values["headnode"] = h
			env.Setenv("NEREID_SERVER", h.socket)
			env.Setenv("TLS_URL", "https://"+h.tls.Addr().String())
			env.Setenv("TLS_CA", h.ca)
			return nil
		},
	})
}

// testHeadnode serves a fake on a Unix socket and over TLS.
type testHeadnode struct {
	*fake
	socket string
	server *http.Server
	unix   net.Listener
	tls    net.Listener
	ca     string
	wg     sync.WaitGroup
}

func startHeadnode(socket string) (*testHeadnode, error) {
	h := &testHeadnode{fake: newFake(), socket: socket}
	h.stock(time.Now())
	cert, ca, err := testCertificate()
	if err != nil {
		return nil, err
	}
	h.ca = ca
	if h.tls, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}}); err != nil {
		return nil, err
	}
	h.server = &http.Server{Handler: h.handler(), ErrorLog: log.New(io.Discard, "", 0)} // of handshakes that are to fail
	h.serve(h.tls)
	return h, h.up()
}

func (h *testHeadnode) serve(l net.Listener) {
	h.wg.Go(func() { _ = h.server.Serve(l) })
}

func (h *testHeadnode) up() (err error) {
	if h.unix, err = net.Listen("unix", h.socket); err == nil {
		h.serve(h.unix)
	}
	return err
}

func (h *testHeadnode) close() {
	close(h.stop)
	_ = h.server.Close()
	h.wg.Wait()
}

// testCertificate makes a CA and a certificate for 127.0.0.1 in one chain; it
// gives the CA's digest too.
func testCertificate() (tls.Certificate, string, error) {
	var out tls.Certificate
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return out, "", err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return out, "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return out, "", err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return out, "", err
	}
	sum := sha256.Sum256(caDER)
	return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, hex.EncodeToString(sum[:]), nil
}

// fakeCommand is "fake" in the archives: it looks at the head node and meddles
// with it.
func fakeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: fake COMMAND ...")
	}
	h := ts.Value("headnode").(*testHeadnode)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch args[0] {
	case "empty":
		h.servers, h.boots = nil, nil
	case "down": // stops listening and ends event streams, as a head node that is killed
		ts.Check(h.unix.Close())
		close(h.stop)
		h.stop = make(chan struct{})
	case "up":
		ts.Check(h.up())
	case "fault": // METHOD PATH STATUS CODE DETAIL [NEXT]: the answer to the next such request
		status, err := strconv.Atoi(args[3])
		ts.Check(err)
		h.faults = append(h.faults, fault{args[1], args[2], *problem(status, api.Code(args[4]), args[5], strings.Join(args[6:], " "))})
	case "cut": // BYTES: the next upload breaks after so many
		n, err := strconv.ParseInt(args[1], 10, 64)
		ts.Check(err)
		h.cut = n
	case "state": // HOSTNAME STATE REASON: now, and no further steps
		s, err := h.find(args[1])
		ts.Check(err)
		s.State, s.StateReason = api.ServerState(args[2]), args[3]
		delete(h.steps, s.UUID)
		h.tell(api.Event{Kind: "server", Server: s.UUID})
	case "stuck": // HOSTNAME VERB: asked for it, the server does nothing
		h.faults = append(h.faults, fault{http.MethodPost, "/v1/servers/" + args[1] + "/" + args[2], api.Problem{Status: 200}})
	case "disk": // HOSTNAME DISK CONTENT: the disk carries foreign data
		s, err := h.find(args[1])
		ts.Check(err)
		for i, d := range s.Sysinfo.Disks {
			if d.Name == args[2] {
				s.Sysinfo.Disks[i].Content = args[3]
			}
		}
	case "disks": // HOSTNAME FILE: the server has the disks of this JSON list
		s, err := h.find(args[1])
		ts.Check(err)
		s.Sysinfo.Disks = nil
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[2])), &s.Sysinfo.Disks))
	case "use": // STAMP HOSTNAME
		h.platforms[args[1]].UsedBy = []string{args[2]}
	case "log": // FILE: what was asked so far; begins anew
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(h.log, "\n")+"\n"), 0o600))
		h.log = nil
	case "platform": // DIR STAMP: a signed platform, and its key in manifest.pub
		ts.Check(writePlatform(ts.MkAbs(args[1]), args[2]))
	case "seen": // waits until whoever follows has shown the state of now
		ts.Check(h.awaitSeen())
	case "stream": // waits until somebody follows events
		ts.Check(h.awaitStream())
	default:
		ts.Fatalf("fake %s: no such command", args[0])
	}
}

// awaitStream is called with the lock.
func (h *testHeadnode) awaitStream() error {
	if len(h.streams) > 0 {
		return nil
	}
	opened := h.opened
	h.mu.Unlock()
	defer h.mu.Lock()
	select {
	case <-opened:
		return nil
	case <-time.After(20 * time.Second):
		return errors.New("nobody follows events")
	}
}

// awaitSeen is called with the lock. Of three listings after now, the second
// began after now, and what it gave was shown before the third began.
func (h *testHeadnode) awaitSeen() error {
	limit := time.After(20 * time.Second)
	for range 3 {
		listed := h.listed
		h.tell(api.Event{Kind: "server"})
		h.mu.Unlock()
		select {
		case <-listed:
			h.mu.Lock()
		case <-limit:
			h.mu.Lock()
			return errors.New("nobody lists servers")
		}
	}
	return nil
}

// writePlatform makes a platform directory of small files with made-up content.
func writePlatform(dir, stamp string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := api.Manifest{Stamp: stamp, Arch: "x86_64", KernelVersion: "6.12.0", ZFSVersion: "2.3.2", AgentVersion: "v0.1.0", Suite: "trixie"}
	var err error
	file := func(name string, n int) api.File {
		path := filepath.Join(dir, name)
		body := []byte(strings.Repeat(name+" of "+stamp+"\n", n))
		err = errors.Join(err, os.WriteFile(path, body, 0o644))
		f, herr := images.HashFile(path)
		err = errors.Join(err, herr)
		return f
	}
	m.Kernel, m.Initrd, m.Packages = file("vmlinuz", 1000), file("initrd.img", 500), file("packages.json", 10)
	m.Layers = []api.File{file("base.squashfs", 300000), file("nereid.squashfs", 100)}
	if err != nil {
		return err
	}
	// One key for all, so that digests and golden files stay.
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	signed, err := images.Sign(b, key)
	if err != nil {
		return err
	}
	pub := fmt.Sprintln(images.FormatPublicKey(images.PublicKey(key)))
	return errors.Join(images.WritePlatform(dir, signed), os.WriteFile(filepath.Join(dir, "manifest.pub"), []byte(pub), 0o644))
}
