package bootserver

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"nereid/api"
)

// problem turns an error of the Booter or of Files into what the machine is told.
// ours says that the error is not a refusal but trouble, which belongs in the log.
func problem(err error, what string) (p *api.Problem, ours bool) {
	switch {
	case errors.As(err, &p):
		if p.Status < 400 || p.Status > 599 {
			c := *p
			c.Status = http.StatusInternalServerError
			p = &c
		}
		return p, p.Status >= 500
	case errors.Is(err, fs.ErrNotExist):
		return notFound("there is no "+what+" here", "look at the head node's platforms: nereid platform list"), false
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return &api.Problem{Title: "Unavailable", Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable,
			Detail: "the boot server could not answer in time", Next: "ask again"}, true
	}
	return &api.Problem{Title: "Internal error", Status: http.StatusInternalServerError, Code: api.CodeInternal,
		Detail: "the boot server could not read the " + what, Next: "look at the head node's log, then ask again"}, true
}

func notFound(detail, next string) *api.Problem {
	return &api.Problem{Title: "Not found", Status: http.StatusNotFound, Code: api.CodeNotFound, Detail: detail, Next: next}
}

func invalid(detail, next string) *api.Problem {
	return &api.Problem{Title: "Invalid request", Status: http.StatusBadRequest, Code: api.CodeInvalid, Detail: detail, Next: next}
}

// refuse answers with a problem as one line of text, and adds it to the record
// of the boot when bootID is not empty.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, bootID string, p *api.Problem) {
	s.recordRefusal(r.Context(), bootID, p.Error())
	s.log().Info("HTTP request refused", "client", r.RemoteAddr, "path", r.URL.Path, "status", p.Status, "why", p.Error())
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "5")
	}
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(strings.TrimSuffix(p.Error(), ".") + ".\n"))
	}
}

// fail refuses with an error; trouble of our own is logged with its cause.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, bootID, what string, err error) {
	s.refuse(w, r, bootID, s.explainError(r, what, err))
}

func (s *Server) explainError(r *http.Request, what string, err error) *api.Problem {
	p, ours := problem(err, what)
	if ours {
		s.log().Error("serve "+what, "client", r.RemoteAddr, "path", r.URL.Path, "err", err)
	}
	return p
}
