package headnode

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// asked is the answer to one request as an operator sends it, byte for byte.
type asked struct {
	status  int
	etag    string
	body    []byte
	problem api.Problem
}

// ask sends a request over the socket. header are names and values in turn.
func (h *head) ask(method, path, body string, header ...string) asked {
	h.t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(h.dir, SocketFile))
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(method, "http://headnode"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	out := asked{status: res.StatusCode, etag: res.Header.Get("ETag")}
	if out.body, err = io.ReadAll(res.Body); err != nil {
		h.t.Fatal(err)
	}
	if out.status >= 400 {
		if err := json.Unmarshal(out.body, &out.problem); err != nil {
			h.t.Fatalf("%s %s: %d %s", method, path, out.status, out.body)
		}
	}
	return out
}

// names says whether a problem is a refused request that names all of these.
func (a asked) names(properties ...string) bool {
	text := a.problem.Error()
	return a.status == http.StatusUnprocessableEntity && a.problem.Code == api.CodeInvalid && a.problem.Next != "" &&
		!slices.ContainsFunc(properties, func(p string) bool { return !strings.Contains(text, p) })
}

// described is what the API's description says of one operation.
type describedOperation struct {
	Method, Path string
	Security     []map[string][]string
	RequestBody  *json.RawMessage
	Parameters   []struct{ Name, In string }
}

// operations are those that are for one kind of caller, by its security scheme.
func (h *head) operations(scheme string) []describedOperation {
	h.t.Helper()
	var doc struct {
		Paths map[string]map[string]describedOperation `json:"paths"`
	}
	if err := json.Unmarshal(request(h.t, h, "GET", "/openapi.json"), &doc); err != nil {
		h.t.Fatal(err)
	}
	var out []describedOperation
	for path, methods := range doc.Paths {
		for method, op := range methods {
			op.Method, op.Path = strings.ToUpper(method), path
			if len(op.Security) == 1 && op.Security[0][scheme] != nil {
				out = append(out, op)
			}
		}
	}
	slices.SortFunc(out, func(a, b describedOperation) int { return strings.Compare(a.Path+a.Method, b.Path+b.Method) })
	return out
}

// filled is a path with something in place of each {name}.
func filled(path string) string {
	for _, n := range names(path) {
		path = strings.ReplaceAll(path, "{"+n+"}", "2")
	}
	return path
}

// Whatever an operator sends and the head node does not know is named: in every
// request there is, in its body and in its query.
func TestUnknownIsNamed(t *testing.T) {
	h := startHead(t)
	bodies := 0
	for _, op := range h.operations("token") {
		if op.Path == "/v1/events" || strings.HasPrefix(op.Path, "/v1/files/") || op.Path == imageFile {
			continue // these carry no JSON
		}
		if op.RequestBody != nil {
			bodies++
		}
		if op.Method != http.MethodGet {
			if a := h.ask(op.Method, filled(op.Path), `{"gatway":"10.0.0.1","colour":{"red":1}}`); !a.names("gatway", "colour") {
				t.Errorf("%s %s with unknown properties: %d %s", op.Method, op.Path, a.status, a.body)
			}
		}
		if a := h.ask(op.Method, filled(op.Path)+"?onwer=x", ""); !a.names("onwer") {
			t.Errorf("%s %s with an unknown part of the query: %d %s", op.Method, op.Path, a.status, a.body)
		}
	}
	if bodies < 20 {
		t.Errorf("only %d operations with a body were tried", bodies)
	}
}

// An agent may be newer than its head node: what it says beyond what is known is
// not looked at.
func TestAgentsMayKnowMore(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	m := h.machine(1)
	m.powerOn()
	more := func(v any) map[string]any {
		t.Helper()
		var out map[string]any
		b, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(b, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		out["mood"] = map[string]any{"today": "good"}
		return out
	}
	enrol := more(api.EnrolRequest{Token: m.token, BootID: m.boot, CSR: m.csr(), Sysinfo: m.sysinfo()})
	var granted api.EnrolResponse
	if st, err := m.post(h.ca.Pool(), "/v1/enrol", enrol, &granted); err != nil || st != http.StatusAccepted {
		t.Fatalf("enrol: %d %v", st, err)
	}
	if err := h.client.ApproveServer(context.Background(), m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	if st, err := m.post(h.ca.Pool(), "/v1/enrol", enrol, &granted); err != nil || st != http.StatusOK {
		t.Fatalf("enrol: %d %v", st, err)
	}
	m.cert = []byte(granted.Certificate)
	tried := 0
	for _, op := range h.operations("certificate") {
		var body any
		switch path := strings.TrimPrefix(op.Path, "/v1/servers/{uuid}/"); path {
		case "sync":
			body = api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Report: m.rep}
		case "renew":
			body = map[string]string{"csr": m.csr()}
		default:
			t.Fatalf("no body for %s", op.Path)
		}
		var out map[string]any
		if st, err := m.post(h.ca.Pool(), strings.Replace(op.Path, "{uuid}", m.uuid, 1), more(body), &out); err != nil || st >= 300 {
			t.Errorf("%s: %d %v", op.Path, st, err)
		}
		tried++
	}
	if tried != 2 {
		t.Errorf("%d operations of agents were tried", tried)
	}
}
