package headnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
	"nereid/images"
)

// refuse makes a problem.
func refuse(status int, code api.Code, next, format string, args ...any) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...), Next: next}
}

// problemOf gives every error its status and code; expected is false for those
// that are the head node's own trouble and belong into its log.
func problemOf(err error) (p *api.Problem, expected bool) {
	var (
		noSpace *images.NoSpaceError
		digest  *images.DigestError
		offset  *images.OffsetError
		size    *images.SizeError
		name    *images.NameError
	)
	switch {
	case errors.As(err, &p):
		return p, true
	case errors.Is(err, inventory.ErrNoServer):
		return refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid server list", "there is no such server"), true
	case errors.Is(err, store.ErrNotFound), errors.Is(err, images.ErrNotFound):
		return refuse(http.StatusNotFound, api.CodeNotFound, "check the name", "%v", err), true
	case errors.As(err, &noSpace), errors.Is(err, store.ErrNoSpace):
		return refuse(http.StatusInsufficientStorage, api.CodeNoSpace, "free space on the head node, as with nereid platform collect and nereid image collect, and try again", "the head node's disk is full: %v", err), false
	case errors.As(err, &digest):
		return refuse(http.StatusUnprocessableEntity, api.CodeDigest, "send the file again; if it fails again, build or copy the platform anew", "%v; nothing was kept", err), true
	case errors.As(err, &offset):
		return refuse(http.StatusConflict, api.CodeConflict, "go on at Upload-Offset", "%v", err), true
	case errors.As(err, &size), errors.As(err, &name):
		return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "check the file against the manifest", "%v", err), true
	case errors.Is(err, images.ErrSignature):
		return refuse(http.StatusUnprocessableEntity, api.CodeSignature, "add the key with: nereid platform key add NAME FILE", "%v", err), true
	case errors.Is(err, addresses.ErrRangeFull):
		return refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "", "%v", err), true
	case errors.Is(err, store.ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "try again", "the head node is stopping or was too slow: %v", err), true
	case errors.Is(err, store.ErrBroken):
		return refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "look at the disk and the log of the head node, then restart it", "the head node cannot write to its disk: %v", err), false
	}
	return refuse(http.StatusInternalServerError, api.CodeInternal, "look at the log of the head node", "the head node could not do it: %v", err), false
}

// statusError is a Problem as huma takes errors.
type statusError struct{ *api.Problem }

func (e *statusError) GetStatus() int { return e.Status }

// ContentType makes it application/problem+json.
func (e *statusError) ContentType(string) string { return "application/problem+json" }

// MarshalJSON writes the Problem itself.
func (e *statusError) MarshalJSON() ([]byte, error) { return json.Marshal(e.Problem) }

// asStatus turns any error into what huma writes, and logs what is our trouble.
func (s *Server) asStatus(op string, err error) error {
	p, expected := problemOf(err)
	if !expected {
		s.log.Error(op, "err", err)
	}
	return &statusError{p}
}

// fromHuma turns huma's own errors (validation, bodies too large) into Problems.
func fromHuma(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := &api.Problem{Title: http.StatusText(m.Status), Status: m.Status, Code: api.CodeInvalid, Detail: m.Detail, Next: "see /openapi.json for what is expected"}
	for _, e := range m.Errors {
		text := e.Message
		if e.Location != "" {
			text = e.Location + ": " + text
		}
		p.Errors = append(p.Errors, text)
	}
	if m.Status >= 500 {
		p.Code, p.Next = api.CodeInternal, "look at the log of the head node"
	}
	return p, nil
}

// writeProblem answers a request outside huma.
func writeProblem(w http.ResponseWriter, p *api.Problem) {
	b, err := json.Marshal(p)
	if err != nil {
		http.Error(w, p.Error(), p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n')) // a client that hung up is nobody's error
}

// routed answers what no route matches: unknown paths and wrong methods.
func routed(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		c := &statusCatcher{header: http.Header{}}
		h.ServeHTTP(c, r)
		if c.status == http.StatusMethodNotAllowed {
			allow := c.header.Get("Allow")
			w.Header().Set("Allow", allow)
			writeProblem(w, refuse(c.status, api.CodeInvalid, "use "+strings.ReplaceAll(allow, ", ", " or "), "%s is not a method of %s", r.Method, r.URL.Path))
			return
		}
		writeProblem(w, refuse(http.StatusNotFound, api.CodeNotFound, "see /openapi.json for what there is", "there is no %s", r.URL.Path))
	})
}

// statusCatcher takes the answer of ServeMux's own error handlers.
type statusCatcher struct {
	header http.Header
	status int
}

func (c *statusCatcher) Header() http.Header { return c.header }
func (c *statusCatcher) WriteHeader(n int)   { c.status = n }
func (c *statusCatcher) Write(b []byte) (int, error) {
	return len(b), nil
}
