package headnode

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// cut ends a stream with its first bytes.
type cut struct {
	*httptest.ResponseRecorder
	end context.CancelFunc
}

func (c *cut) Flush() { c.end() }

// TestScopes asks for every operation that there is with a token of each scope. A new
// operation needs admin until scopeOf says otherwise, and a line here.
func TestScopes(t *testing.T) {
	less := map[string]api.Scope{ // operations that change something or run something, and need less than admin
		"POST /v1/explain":       api.ScopeRead,
		"POST /v1/network-trace": api.ScopeRead,
	}
	more := []string{"GET /v1/boots/{id}/plan"} // that read what is secret
	h := startHead(t)
	ctx := context.Background()
	client := map[api.Scope]string{}
	for _, s := range []api.Scope{api.ScopeRead, api.ScopeOperate, api.ScopeAdmin} {
		tok, err := h.client.CreateToken(ctx, api.TokenCreate{Name: string(s), Scope: s})
		if err != nil || tok.Scope != s {
			t.Fatalf("token %+v %v", tok, err)
		}
		client[s] = tok.Secret
	}
	handler := h.handler()
	ask := func(method, path, token string) (int, api.Problem) {
		r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		w := &cut{httptest.NewRecorder(), cancel}
		handler.ServeHTTP(w, r.WithContext(ctx))
		var p api.Problem
		_ = json.Unmarshal(w.Body.Bytes(), &p) // an answer that is none has no code
		return w.Code, p
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/openapi.json", http.NoBody)
	r.Header.Set("Authorization", "Bearer "+client[api.ScopeRead])
	handler.ServeHTTP(w, r)
	var doc struct {
		Paths map[string]map[string]struct {
			Security []map[string][]string `json:"security"`
		} `json:"paths"`
	}
	text, err := io.ReadAll(w.Body)
	if err != nil || json.Unmarshal(text, &doc) != nil {
		t.Fatalf("%v: %.200s", err, text)
	}
	asked := 0
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for verb, op := range doc.Paths[path] {
			if len(op.Security) == 0 || op.Security[0]["token"] == nil {
				continue
			}
			method := strings.ToUpper(verb)
			name := method + " " + path
			if strings.HasSuffix(path, "/session") {
				continue // TestSessionScope
			}
			want := api.ScopeAdmin
			switch {
			case less[name] != "":
				want = less[name]
			case (method == http.MethodGet || method == http.MethodHead) && !slices.Contains(more, name):
				want = api.ScopeRead
			case strings.HasPrefix(path, "/v1/instances"), strings.HasPrefix(path, "/v1/unexpected-instances"):
				want = api.ScopeOperate
			}
			at := strings.NewReplacer("{", "", "}", "").Replace(path)
			for i, s := range []api.Scope{api.ScopeRead, api.ScopeOperate, api.ScopeAdmin} {
				may := i >= slices.Index([]api.Scope{api.ScopeRead, api.ScopeOperate, api.ScopeAdmin}, want)
				if may && !(method == http.MethodGet || method == http.MethodHead) {
					continue // what it may do is not done here
				}
				code, p := ask(method, at, client[s])
				if refused := p.Code == api.CodeForbidden && strings.Contains(p.Detail, "scope"); refused == may {
					t.Errorf("%s with a token of scope %s: %d %s; it needs %s", name, s, code, p.Detail, want)
				}
				asked++
			}
		}
	}
	if asked < 100 {
		t.Errorf("only %d requests were tried", asked)
	}
}
