package headnode

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"nereid/admit"
	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/trust"
)

// access is who may call an operation.
type access int

const (
	operators access = iota // root on the Unix socket, or an operator's token
	agents                  // a server's client certificate
	anyone                  // who proves itself in the body
)

// caller is who makes a request.
type caller struct {
	operator string // name; empty: it is none
	scope    api.Scope
	uuid     string // of the client certificate; empty: there is none
	key      string // SHA-256 of its public key
	problem  *api.Problem
	control  *http.ResponseController
}

type callerKey struct{}

type peerKey struct{}

// placeKey holds what a TCP connection takes of what all clients share.
type placeKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// peer is the process at the other end of a Unix socket.
type peer struct {
	uid uint32
	err error
}

// connContext asks the kernel who is at the other end of a Unix connection, and keeps
// the place of any other.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		if a, ok := t.NetConn().(*admit.Conn); ok {
			return context.WithValue(ctx, placeKey{}, a.Place)
		}
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	uid, err := peerUID(u)
	return context.WithValue(ctx, peerKey{}, peer{uid: uid, err: err})
}

// authenticate finds out who calls and puts it into the request's context. It
// refuses nobody: the operations differ in whom they take.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.identify(r)
		if p, ok := r.Context().Value(placeKey{}).(*admit.Place); ok && (c.uuid != "" || c.operator != "") {
			p.Prove()
		}
		c.control = http.NewResponseController(w)
		now := time.Now()
		// A body that trickles is cut; a long poll lifts this once it is read.
		_ = c.control.SetReadDeadline(now.Add(30 * time.Second))
		_ = c.control.SetWriteDeadline(now.Add(2 * time.Minute))
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

func (s *Server) identify(r *http.Request) caller {
	var c caller
	if p, ok := r.Context().Value(peerKey{}).(peer); ok {
		switch {
		case p.err != nil:
			c.problem = refuse(http.StatusForbidden, api.CodeForbidden, "use an operator's token over HTTPS", "the kernel does not say who calls: %v", p.err)
		case p.uid == 0 || int(p.uid) == s.uid():
			c.operator, c.scope = "root", api.ScopeAdmin
			return c
		default:
			c.problem = refuse(http.StatusForbidden, api.CodeForbidden, "run the command as root, or use an operator's token", "user %d may not use the head node's socket without a token", p.uid)
		}
	}
	if uuid, key, ok := s.ca.Client(r.TLS); ok {
		c.uuid, c.key = uuid, key
	}
	h := r.Header.Get("Authorization")
	if h == "" {
		return c
	}
	secret, ok := strings.CutPrefix(h, "Bearer ")
	if !ok {
		c.problem = refuse(http.StatusUnauthorized, api.CodeUnauthorized, "send Authorization: Bearer TOKEN", "the Authorization header is not of the kind Bearer")
		return c
	}
	t, err := s.checkToken(r.Context(), strings.TrimSpace(secret))
	if err != nil {
		c.problem, _ = problemOf(err)
		return c
	}
	c.operator, c.scope, c.problem = t.Name, t.Scope, nil
	return c
}

func (s *Server) checkToken(ctx context.Context, secret string) (t api.Token, err error) {
	var stale bool
	now := s.now()
	err = s.store.View(ctx, func(tx store.Tx) (err error) {
		t, stale, err = trust.CheckToken(tx, now, secret)
		return err
	})
	if err != nil || !stale {
		return t, err
	}
	err = s.store.Update(ctx, func(tx store.Tx) error { return trust.MarkUsed(tx, now, t.ID) })
	if errors.Is(err, store.ErrNoSpace) {
		err = nil // a full disk does not lock operators out
	}
	return t, err
}

// allow says whether a caller may use an operation, which needs a scope of operators'
// tokens.
func (c caller) allow(a access, need api.Scope) *api.Problem {
	switch {
	case a == anyone:
		return nil
	case a == operators && c.operator != "" && !c.scope.Allows(need):
		return refuse(http.StatusForbidden, api.CodeForbidden, "use a token made with: nereid token create NAME --scope "+string(need),
			"this needs a token of scope %s, and that of %s has the scope %s", need, c.operator, c.scope)
	case a == operators && c.operator != "", a == agents && c.uuid != "":
		return nil
	case c.problem != nil:
		return c.problem
	case a == agents:
		return refuse(http.StatusUnauthorized, api.CodeUnauthorized, "enrol to get one", "this needs a server's client certificate that is valid now")
	case c.uuid != "":
		return refuse(http.StatusForbidden, api.CodeForbidden, "use an operator's token", "a server's certificate does not make an operator")
	}
	return refuse(http.StatusUnauthorized, api.CodeUnauthorized, "get a token on the head node with: nereid token create", "this needs an operator's token")
}

// restrict guards a handler outside huma.
func restrict(a access, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p := callerOf(r.Context()).allow(a, scopeOf(r.Method, r.URL.Path)); p != nil {
			writeProblem(w, p)
			return
		}
		next(w, r)
	}
}
