package api

import (
	"bytes"
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
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve runs a handler on a Unix socket and gives a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener = l
	s.Start()
	c := NewClient(path)
	c.Retry = time.Millisecond
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct{ headnode, pin, want string }{
		{"unix://", "", "the path of a socket is missing"},
		{"http://head:8443", "", "want the path of a Unix socket or https://HOST:PORT"},
		{"head:8443", "", "want the path of a Unix socket or https://HOST:PORT"},
		{"https://user:secret@head:8443", "", "want the path of a Unix socket"},
		{"https://head:8443/v1/servers", "", "want the path of a Unix socket"},
		{"https://head:8443", "abcd", "want 64 hexadecimal digits"},
		{"", "", "want the path of a Unix socket"},
	} {
		c := NewClient(tt.headnode)
		c.CASHA256 = tt.pin
		_, err := c.Datacenter(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.headnode, err, tt.want)
		}
		var away *UnreachableError
		if errors.As(err, &away) {
			t.Errorf("%q: unreachable, and it is the address that is wrong", tt.headnode)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, body string
		status                  int
		want                    Problem
	}{
		{"problem", "application/problem+json", `{"title":"Conflict","status":409,"code":"in_use","detail":"it is used","next":"stop it"}`, 409,
			Problem{Title: "Conflict", Status: 409, Code: CodeInUse, Detail: "it is used", Next: "stop it"}},
		{"text", "text/plain; charset=utf-8", "not here\n", 404,
			Problem{Title: "Not Found", Status: 404, Code: CodeNotFound, Detail: "the head node answered 404 Not Found: not here"}},
		{"a proxy's page", "text/html", "<h1>no</h1>", 503,
			Problem{Title: "Service Unavailable", Status: 503, Code: CodeUnavailable, Detail: "the head node answered 503 Service Unavailable"}},
		{"broken problem", "application/problem+json", `{"title":`, 401,
			Problem{Title: "Unauthorized", Status: 401, Code: CodeUnauthorized, Detail: "the head node answered 401 Unauthorized"}},
		{"redirect", "", "", 302,
			Problem{Title: "Found", Status: 302, Code: CodeInternal, Detail: "the head node answered 302 Found"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.contentType)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := c.Server(t.Context(), "cn0")
			var p *Problem
			if !errors.As(err, &p) {
				t.Fatalf("got %v, want a problem", err)
			}
			if got, want := fmt.Sprintf("%+v", *p), fmt.Sprintf("%+v", tt.want); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("If-Match")+" "+r.Header.Get("Authorization")+" "+string(b)))
		if r.Method != http.MethodGet && r.Method != http.MethodPatch {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		answer(w, map[string]any{"hostname": "cn0"})
	})
	c.Token = "secret"
	ctx := t.Context()
	name := "store0"
	errs := []error{}
	note := func(err error) { errs = append(errs, err) }
	_, err := c.Server(ctx, "a/../b c")
	note(err)
	_, err = c.UpdateServer(ctx, "cn0", ServerUpdate{Hostname: &name}, "r7")
	note(err)
	note(c.ForgetServer(ctx, "cn0"))
	note(c.ApproveServer(ctx, "cn0", ""))
	note(c.ApproveServer(ctx, "cn0", "52:54:00:00:00:10"))
	note(c.RejectServer(ctx, "cn0"))
	note(c.SetupServer(ctx, "cn0", SetupSpec{Pool: "zones", PlanDigest: "abc"}))
	note(c.RebootServer(ctx, "cn0"))
	note(c.ShutdownServer(ctx, "cn0"))
	note(c.ResetServer(ctx, "cn0", ServerReset{Hostname: "cn0"}))
	_, err = c.BootsByMAC(ctx, "52:54:00:00:00:10")
	note(err)
	note(c.SetDefaultPlatform(ctx, "20261122T101500Z"))
	note(c.DeletePlatformKey(ctx, "mine"))
	note(c.RevokeToken(ctx, "t1"))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`GET /v1/servers/a%2F..%2Fb%20c  Bearer secret`,
		`PATCH /v1/servers/cn0 "r7" Bearer secret {"hostname":"store0"}`,
		`DELETE /v1/servers/cn0  Bearer secret`,
		`POST /v1/servers/cn0/approve  Bearer secret {}`,
		`POST /v1/servers/cn0/approve  Bearer secret {"mac":"52:54:00:00:00:10"}`,
		`POST /v1/servers/cn0/reject  Bearer secret`,
		`POST /v1/servers/cn0/setup  Bearer secret {"id":"","pool":"zones","plan_digest":"abc"}`,
		`POST /v1/servers/cn0/reboot  Bearer secret`,
		`POST /v1/servers/cn0/shutdown  Bearer secret`,
		`POST /v1/servers/cn0/reset  Bearer secret {"hostname":"cn0"}`,
		`GET /v1/boots?mac=52%3A54%3A00%3A00%3A00%3A10  Bearer secret`,
		`PUT /v1/platforms/20261122T101500Z/default  Bearer secret`,
		`DELETE /v1/platform-keys/mine  Bearer secret`,
		`DELETE /v1/tokens/t1  Bearer secret`,
	}
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("request %d:\ngot  %s\nwant %s", i, g, w)
		}
	}
}

func TestServersGoesOverPages(t *testing.T) {
	fail := ""
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		after := r.URL.Query().Get("after")
		if after == fail && fail != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		pages := map[string]list[Server]{
			"":  {Items: []Server{{UUID: "1"}, {UUID: "2"}}, Next: "2"},
			"2": {Items: []Server{}, Next: "3"}, // an empty page is not the end
			"3": {Items: []Server{{UUID: "4"}}},
		}
		answer(w, pages[after])
	})
	collect := func(stop string) (out string, err error) {
		for s, err := range c.Servers(t.Context()) {
			if err != nil {
				return out, err
			}
			if out += s.UUID; s.UUID == stop {
				break
			}
		}
		return out, nil
	}
	if got, err := collect(""); got != "124" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := collect("1"); got != "1" || err != nil {
		t.Errorf("stopped early: got %q, %v", got, err)
	}
	fail = "3"
	var p *Problem
	if got, err := collect(""); got != "12" || !errors.As(err, &p) {
		t.Errorf("third page fails: got %q, %v", got, err)
	}
}

func TestUnreachable(t *testing.T) {
	var away *UnreachableError
	_, err := NewClient(filepath.Join(t.TempDir(), "none")).Datacenter(t.Context())
	if !errors.As(err, &away) || strings.Contains(err.Error(), "http://") {
		t.Errorf("no socket: %v", err)
	}

	stuck := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	})
	defer close(stuck)
	c.Timeout = 50 * time.Millisecond
	if _, err = c.Datacenter(t.Context()); !errors.As(err, &away) || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("no answer: %v", err)
	}
	c.Timeout = 0
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupt signal received"))
	if _, err = c.Datacenter(ctx); !errors.Is(err, context.Canceled) || errors.As(err, &away) {
		t.Errorf("given up by the caller: %v", err)
	}
}

// chain makes a CA and a certificate below it for a host, for servers or not.
func chain(t *testing.T, host string, usage x509.ExtKeyUsage) (tls.Certificate, string) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(host)}, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(caDER)
	return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, hex.EncodeToString(sum[:])
}

func TestPinnedCA(t *testing.T) {
	good, pin := chain(t, "127.0.0.1", x509.ExtKeyUsageServerAuth)
	elsewhere, elsewherePin := chain(t, "10.99.99.7", x509.ExtKeyUsageServerAuth)
	node, nodePin := chain(t, "127.0.0.1", x509.ExtKeyUsageClientAuth)
	leafOnly := good
	leafOnly.Certificate = good.Certificate[:1]
	leafSum := sha256.Sum256(good.Certificate[0])
	for _, tt := range []struct {
		name string
		cert tls.Certificate
		pin  string
		want string
	}{
		{"the pinned CA", good, pin, ""},
		{"in capitals", good, strings.ToUpper(pin), ""},
		{"no pin", good, "", "unknown authority"},
		{"another CA", good, elsewherePin, "no CA with the pinned digest"},
		{"CA not sent", leafOnly, pin, "no CA with the pinned digest"},
		{"the leaf is not a CA", good, hex.EncodeToString(leafSum[:]), "no CA with the pinned digest"},
		{"another host's certificate", elsewhere, elsewherePin, "10.99.99.7"},
		{"a compute node's certificate", node, nodePin, "incompatible key usage"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, Datacenter{Name: "coal"}) }))
			s.TLS = &tls.Config{Certificates: []tls.Certificate{tt.cert}}
			s.Config.ErrorLog = log.New(io.Discard, "", 0) // of refused handshakes
			s.StartTLS()
			defer s.Close()
			c := NewClient(s.URL)
			c.CASHA256 = tt.pin
			defer c.Close()
			d, err := c.Datacenter(t.Context())
			switch {
			case tt.want == "" && (err != nil || d.Name != "coal"):
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// content is bytes without a period that divides a chunk.
func content(n int) ([]byte, File) {
	b := bytes.Repeat([]byte("nereid "), n/7+1)[:n]
	sum := sha256.Sum256(b)
	return b, File{Name: "base.squashfs", SHA256: hex.EncodeToString(sum[:]), Size: int64(n)}
}
