package headnode

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/sync/errgroup"

	"nereid/admit"
	"nereid/api"
	"nereid/headnode/instances"
)

// Limits of the HTTP servers.
const (
	maxConns  = 8192 // over HTTPS: two for each of 4,000 servers
	maxClient = 64   // of these of one address
	maxHeader = 32 << 10
	maxBody   = 1 << 20 // of an operator's request
	maxSync   = 4 << 20 // of an agent's: an inventory with thousands of disks
	drain     = 3 * time.Second
)

// Run serves the API until ctx ends, and then nil is returned once the requests
// in progress have ended. All listeners are open before anything is served. It
// may be called once.
func (s *Server) Run(ctx context.Context) (err error) {
	sockets, err := s.sockets(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, u := range sockets {
			err = errors.Join(err, u.remove())
		}
	}()
	var lc net.ListenConfig
	tcp, err := lc.Listen(ctx, "tcp", s.cfg.Listen.String())
	if err != nil {
		for _, u := range sockets {
			_ = u.Close()
		}
		return fmt.Errorf("listen for HTTPS: %w", err)
	}
	s.https = tcp.Addr().(*net.TCPAddr).AddrPort()

	stopping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	handler := s.handler()
	web := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       connContext,
		BaseContext:       func(net.Listener) context.Context { return context.WithValue(stopping, stopKey{}, ctx.Done()) },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	tcp = tls.NewListener(&admit.Listener{TCPListener: tcp.(*net.TCPListener), Door: s.door}, s.ca.TLSConfig(
		[]netip.Addr{s.answers.Admin.Address.Addr(), netip.MustParseAddr("127.0.0.1")}, []string{"nereid-headnode", "localhost"}))

	g, gctx := errgroup.WithContext(ctx)
	listeners := []net.Listener{tcp}
	for _, u := range sockets {
		listeners = append(listeners, u)
	}
	for _, l := range listeners {
		g.Go(func() error {
			if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	g.Go(func() error { return s.watchSilence(gctx) })
	g.Go(func() error { return s.sets.Run(gctx) })
	g.Go(func() error { return s.writeBoots(gctx) })
	g.Go(func() error { return s.followKnown(gctx) })
	g.Go(func() error { return s.tellNews(gctx) })
	g.Go(func() error {
		t := time.NewTicker(collectEvery)
		defer t.Stop()
		return s.collectUnused(gctx, t.C)
	})
	g.Go(func() error {
		<-gctx.Done()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(gctx), drain)
		defer cancel()
		if err := web.Shutdown(sctx); err != nil {
			stop()
			return web.Close()
		}
		return nil
	})
	s.log.Info("head node ready", "datacenter", s.answers.Datacenter, "socket", sockets[len(sockets)-1].path, "https", s.https.String(), "ca_sha256", s.ca.SHA256())
	close(s.ready)
	err = g.Wait()
	s.sessions.open.Wait()
	return err
}

// stopKey holds the channel that ends long polls when the head node stops.
type stopKey struct{}

func stopOf(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(stopKey{}).(<-chan struct{})
	return c
}

// handler routes all requests.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	cfg := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "Nereid head node", Version: s.version(), Description: "Errors are problem details (RFC 9457) with a stable code."},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token":       {Type: "http", Scheme: "bearer", Description: "an operator's token; root on the Unix socket needs none"},
					"certificate": {Type: "mutualTLS", Description: "a server's client certificate"},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat(), "json": jsonFormat()},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{fromHuma},
	}
	h := humago.New(mux, cfg)
	s.routeOperators(h)
	s.routeServers(h)
	s.routeBooter(h)
	s.routePlatforms(h)
	s.routeAgents(h)
	s.routeNetworks(h)
	s.routeNICs(h)
	s.routeFabrics(h)
	s.routeFirewall(h)
	s.routePackages(h)
	s.routeInstances(h)
	s.routeTrace(h)
	s.routeImages(h, mux)
	s.routeStreams(h, mux)
	s.routeSessions(mux)
	for _, unused := range []string{"ErrorModel", "ErrorDetail"} { // huma's own; errors are Problems
		delete(h.OpenAPI().Components.Schemas.Map(), unused)
	}
	spec, err := h.OpenAPI().MarshalJSON()
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) {
		c := callerOf(r.Context())
		if p := c.allow(operators, api.ScopeRead); p != nil && c.uuid == "" {
			writeProblem(w, p)
			return
		}
		if err != nil {
			p, _ := problemOf(fmt.Errorf("write API description: %w", err))
			writeProblem(w, p)
			return
		}
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(spec)
	})
	return s.recovered(s.authenticate(routed(mux)))
}

// ownJSON is an answer that is, in part, JSON already.
type ownJSON interface {
	writeJSON(io.Writer) error
}

// jsonFormat is JSON, of which answers may bring their own.
func jsonFormat() huma.Format {
	f := huma.DefaultJSONFormat
	f.Marshal = func(w io.Writer, v any) error {
		if own, is := v.(ownJSON); is {
			return own.writeJSON(w)
		}
		return huma.DefaultJSONFormat.Marshal(w, v)
	}
	return f
}

// recovered keeps a panic in one request from ending the daemon.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v))
			writeProblem(w, refuse(http.StatusInternalServerError, api.CodeInternal, "look at the log of the head node and report it", "the head node met an error of its own"))
		}()
		next.ServeHTTP(w, r)
	})
}

// none is a request or an answer without anything in it.
type none struct{}

// list is the shape of every answer that lists things.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"what to pass as after for the page that follows"`
}

// rows is a list[T] whose items are JSON already.
type rows[T any] struct {
	items []instances.Row
	next  string
}

// Schema describes it as what it is for who reads it.
func (rows[T]) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[list[T]](), true, "")
}

func (l rows[T]) writeJSON(w io.Writer) (err error) {
	size := 64
	for _, row := range l.items {
		size += row.Size()
	}
	out := append(make([]byte, 0, size), `{"items":[`...)
	for i, row := range l.items {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = row.AppendJSON(out); err != nil {
			return err
		}
	}
	out = append(out, ']')
	if l.next != "" {
		next, err := json.Marshal(l.next)
		if err != nil {
			return err
		}
		out = append(append(out, `,"next":`...), next...)
	}
	_, err = w.Write(append(out, "}\n"...))
	return err
}

type body[T any] struct{ Body T }

func answer[T any](v T) *body[T] { return &body[T]{v} }

// items never is null.
func items[T any](l []T) *body[list[T]] {
	if l == nil {
		l = []T{}
	}
	return answer(list[T]{Items: l})
}

// route adds an operation: who may call it, its limits, its errors.
func route[I, O any](s *Server, h huma.API, a access, method, path, summary string, fn func(context.Context, *I) (*O, error), opts ...func(*huma.Operation)) {
	problem := h.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Problem](), true, "Problem")
	op := huma.Operation{
		OperationID:     operationID(method, path),
		Method:          method,
		Path:            path,
		Summary:         summary,
		MaxBodyBytes:    maxBody,
		BodyReadTimeout: 30 * time.Second,
		Responses: map[string]*huma.Response{
			"default": {Description: "Error", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}},
		},
	}
	switch a {
	case operators:
		op.Security = []map[string][]string{{"token": {}}}
	case agents:
		op.Security = []map[string][]string{{"certificate": {}}}
	}
	need := scopeOf(method, path)
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		if p := callerOf(ctx.Context()).allow(a, need); p != nil {
			_, w := humago.Unwrap(ctx)
			writeProblem(w, p)
			return
		}
		next(ctx)
		if a == operators && method != http.MethodGet {
			s.log.Info("operator's request", "operator", callerOf(ctx.Context()).operator, "method", method, "path", requestPath(ctx), "status", ctx.Status())
		}
	})
	for _, o := range opts {
		o(&op)
	}
	if a == operators {
		f := formOf(&op)
		if b, ok := reflect.TypeFor[I]().FieldByName("Body"); ok {
			f.body = b.Type
		}
		op.Middlewares = append(op.Middlewares, strict(h, f))
	}
	huma.Register(h, op, func(ctx context.Context, in *I) (*O, error) {
		// The body is read; what follows may take as long as it takes.
		if c := callerOf(ctx).control; c != nil {
			_ = c.SetReadDeadline(time.Time{})
		}
		out, err := fn(ctx, in)
		if err != nil {
			return nil, s.asStatus(summary, err)
		}
		return out, nil
	})
}

func requestPath(ctx huma.Context) string {
	u := ctx.URL()
	return u.Path
}

// long is an operation without a time limit of its own.
func long(op *huma.Operation) {
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		_ = callerOf(ctx.Context()).control.SetWriteDeadline(time.Time{})
		next(ctx)
	})
}

// tolerant takes bodies with fields this version does not know: an agent may be
// newer than its head node.
func tolerant(op *huma.Operation) { op.SkipValidateBody = true }

// reports is tolerant of bodies with an inventory.
func reports(op *huma.Operation) {
	tolerant(op)
	op.MaxBodyBytes = maxSync
}

func status(n int) func(*huma.Operation) {
	return func(op *huma.Operation) { op.DefaultStatus = n }
}

// operationID makes get-v1-servers-id of GET /v1/servers/{id}.
func operationID(method, path string) string {
	r := strings.NewReplacer("/", "-", "{", "", "}", "", "?", "")
	return strings.ToLower(method) + r.Replace(path)
}

func (s *Server) version() string {
	if s.cfg.Version == "" {
		return "development"
	}
	return s.cfg.Version
}
