package headnode

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

func TestAccess(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	m, n := runningServer(h, 1), runningServer(h, 2)
	remote := func(token string) *api.Client {
		c := api.NewClient("https://" + h.HTTPS().String())
		c.Token, c.CASHA256 = token, h.CASHA256()
		t.Cleanup(c.Close)
		return c
	}
	_, err := remote("").Capabilities(ctx)
	wantCode(t, "no token", err, api.CodeUnauthorized)
	_, err = remote("nereid_abc_def").Capabilities(ctx)
	wantCode(t, "unknown token", err, api.CodeUnauthorized)
	tok, err := h.client.CreateToken(ctx, api.TokenCreate{Name: "me", TTL: "1h"})
	if err != nil || tok.Secret == "" || tok.Expires == nil {
		t.Fatalf("token %+v %v", tok, err)
	}
	if c, err := remote(tok.Secret).Capabilities(ctx); err != nil || c.Datacenter != "coal" {
		t.Errorf("with a token: %+v %v", c, err)
	}
	all, err := h.client.Tokens(ctx)
	if err != nil || len(all) != 1 || all[0].Secret != "" || all[0].Used == nil {
		t.Errorf("tokens %+v %v", all, err)
	}
	h.advance(2 * time.Hour)
	_, err = remote(tok.Secret).Capabilities(ctx)
	wantCode(t, "after its end", err, api.CodeTokenExpired)
	endless, err := h.client.CreateToken(ctx, api.TokenCreate{Name: "endless"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.RevokeToken(ctx, endless.ID); err != nil {
		t.Fatal(err)
	}
	_, err = remote(endless.Secret).Capabilities(ctx)
	wantCode(t, "revoked", err, api.CodeUnauthorized)
	_, err = h.client.CreateToken(ctx, api.TokenCreate{Name: "x", TTL: "tomorrow"})
	wantCode(t, "a TTL that is none", err, api.CodeInvalid)
	_, err = h.client.CreateToken(ctx, api.TokenCreate{})
	wantCode(t, "no name: the schema's own error", err, api.CodeInvalid)

	// A server's certificate opens its own sync and nothing else.
	var out api.SyncResponse
	_, err = m.post(h.ca.Pool(), "/v1/servers/"+n.uuid+"/sync", api.SyncRequest{}, &out)
	wantCode(t, "another server's sync", err, api.CodeForbidden)
	_, err = m.post(h.ca.Pool(), "/v1/servers/"+n.uuid+"/approve", map[string]string{}, &out)
	wantCode(t, "an operator's request", err, api.CodeForbidden)
	var renewed api.EnrolResponse
	if _, err = m.post(h.ca.Pool(), "/v1/servers/"+m.uuid+"/renew", map[string]string{"csr": m.csr()}, &renewed); err != nil || renewed.Certificate == "" {
		t.Fatalf("renew: %+v %v", renewed, err)
	}
	m.cert = []byte(renewed.Certificate)
	if st, _, err := m.sync(); st != http.StatusNoContent || err != nil {
		t.Errorf("with the renewed certificate: %d %v", st, err)
	}
	good := m.key
	m.newKey()
	csr := m.csr()
	m.key = good
	_, err = m.post(h.ca.Pool(), "/v1/servers/"+m.uuid+"/renew", map[string]string{"csr": csr}, &renewed)
	wantCode(t, "renew with another key", err, api.CodeKeyMismatch)
	m.cert = nil
	_, _, err = m.sync()
	wantCode(t, "no certificate", err, api.CodeUnauthorized)
}

func TestExpiredCertificate(t *testing.T) {
	h := startHead(t)
	m := runningServer(h, 1)
	h.advance(25 * time.Hour)
	if _, _, err := m.sync(); err == nil {
		t.Error("a certificate that ended still syncs")
	}
	m.cert = nil
	m.bootUp()
	m.mustSync()
}

// The head node was away for so long that the certificate ended, weeks after the
// boot: the server comes back with its boot's token, without a reboot.
func TestCertificateEndedWhileAway(t *testing.T) {
	h := startHead(t)
	m := runningServer(h, 1)
	h.advance(40 * 24 * time.Hour)
	h.machine(2).powerOn() // mints another token, which prunes
	m.cert = nil
	if st, _, err := m.enrol(); st != http.StatusOK || err != nil {
		t.Fatalf("enrol: %d %v", st, err)
	}
	m.mustSync()
	if sv := h.server(m.uuid); sv.State != api.StateRunning {
		t.Errorf("state %s", sv.State)
	}
}

func TestProblems(t *testing.T) {
	h := startHead(t)
	tok, err := h.client.CreateToken(context.Background(), api.TokenCreate{Name: "me"})
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.ca.Pool()}}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	for _, tt := range []struct {
		method, path, body string
		status             int
		code               api.Code
	}{
		{"GET", "/", "", 404, api.CodeNotFound},
		{"GET", "/v1/nothing", "", 404, api.CodeNotFound},
		{"PUT", "/v1/servers", "", 405, api.CodeInvalid},
		{"GET", "/v1/servers/cn-1", "", 404, api.CodeNotFound},
		{"GET", "/v1/servers?limit=-1", "", 422, api.CodeInvalid},
		{"POST", "/v1/tokens", "{", 400, api.CodeInvalid},
		{"POST", "/v1/tokens", `{"name":"x","colour":"red"}`, 422, api.CodeInvalid},
		{"POST", "/v1/tokens", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, api.CodeInvalid},
		{"GET", "/v1/boots?mac=zz", "", 422, api.CodeInvalid},
		{"GET", "/v1/platforms/yesterday", "", 404, api.CodeNotFound},
		{"PUT", "/v1/files/../../etc/passwd", "", 404, api.CodeNotFound},
		{"PUT", "/v1/files/..%2f..%2fetc%2fpasswd", "", 422, api.CodeInvalid},
		{"PUT", "/v1/files/" + strings.Repeat("a", 64), "x", 400, api.CodeInvalid},
		{"POST", "/v1/enrol", `{"csr":"x"}`, 422, api.CodeInvalid},
		{"POST", "/v1/explain", `{"mac":"52:54:00:00:00:01"}`, 503, api.CodeUnavailable},
	} {
		req, err := http.NewRequest(tt.method, "https://"+h.HTTPS().String()+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok.Secret)
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		var p api.Problem
		if err != nil || json.Unmarshal(b, &p) != nil || res.StatusCode != tt.status || p.Status != tt.status || p.Code != tt.code || p.Detail == "" ||
			!strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("%s %.60s: %s %s %.300s; want %d %s", tt.method, tt.path, res.Status, res.Header.Get("Content-Type"), b, tt.status, tt.code)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	h := startHead(t)
	rec := request(t, h, "GET", "/openapi.json")
	var doc struct {
		OpenAPI    string                    `json:"openapi"`
		Paths      map[string]map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(rec, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Components.Schemas["Problem"] == nil || doc.Components.Schemas["ErrorModel"] != nil {
		t.Errorf("version %s with %d schemas; want Problem among them and not ErrorModel", doc.OpenAPI, len(doc.Components.Schemas))
	}
	for _, want := range strings.Fields(`get/v1 get/v1/datacenter get/v1/servers get/v1/servers/{id} patch/v1/servers/{id} delete/v1/servers/{id}
		post/v1/servers/{id}/approve post/v1/servers/{id}/reject post/v1/servers/{id}/setup post/v1/servers/{id}/reboot post/v1/servers/{id}/shutdown
		post/v1/servers/{id}/reset get/v1/servers/{id}/boots get/v1/boots get/v1/platforms post/v1/platforms get/v1/platforms/{stamp}
		delete/v1/platforms/{stamp} put/v1/platforms/{stamp}/default post/v1/platforms/{stamp}/verify post/v1/platforms/collect
		head/v1/files/{sha256} put/v1/files/{sha256} get/v1/platform-keys post/v1/platform-keys delete/v1/platform-keys/{name}
		post/v1/boot-requests get/v1/boots/{id}/plan post/v1/boots/{id}/config post/v1/boots/{id}/events
		get/v1/tokens post/v1/tokens delete/v1/tokens/{id} post/v1/explain get/v1/events post/v1/enrol
		post/v1/servers/{uuid}/sync post/v1/servers/{uuid}/renew`) {
		method, path, _ := strings.Cut(want, "/")
		if doc.Paths["/"+path][method] == nil {
			t.Errorf("%s is not described", want)
		}
	}
}

// request asks over the Unix socket and wants an answer without error.
func request(t *testing.T, h *head, method, path string) []byte {
	t.Helper()
	tok, err := h.client.CreateToken(context.Background(), api.TokenCreate{Name: "request"})
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.ca.Pool()}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(method, "https://"+h.HTTPS().String()+path, bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok.Secret)
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %v", method, path, res.Status, err)
	}
	return b
}
