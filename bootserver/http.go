package bootserver

import (
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"nereid/admit"
	"nereid/api"
)

// Limits of the HTTP server. Each machine that boots holds a connection or two.
const (
	maxConns      = 2048
	maxClient     = 64 // of these of one address
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 60 * time.Second
	// stallTimeout ends a transfer that moved no further in this time.
	stallTimeout = 60 * time.Second
	maxHeader    = 8 << 10
	maxEvent     = 4 << 10
)

// Shapes of what stands in a path. Nothing else reaches a handler's logic.
var (
	bootIDPattern = regexp.MustCompile(`^[a-z2-7]{26}$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	stampPattern  = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}$`)
)

// Handler serves HTTP. It is what Run serves; tests may call it alone.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot/{id}/script.ipxe", s.withBoot(s.serveScript))
	mux.HandleFunc("GET /boot/{id}/config.cpio", s.withBoot(s.serveConfig))
	mux.HandleFunc("POST /boot/{id}/event", s.withBoot(s.serveEvent))
	mux.HandleFunc("GET /files/{sha256}/{name}", s.serveFile)
	mux.HandleFunc("GET /platforms/{stamp}/{name}", s.serveManifest)
	mux.HandleFunc("GET /ipxe/{name}", s.serveIPXE)
	mux.HandleFunc("/", s.serveNothing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux would answer paths like /files/../x with a redirect to the
		// cleaned path. Nothing here has such paths, so they are refused.
		if strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "..") || strings.ContainsAny(r.URL.Path, "\\\x00") {
			s.serveNothing(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout,
		WriteTimeout: stallTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: s.errorLog(),
	}
}

// door is who may have how many HTTP connections: machines that got an address of this
// boot server do not give way to others.
func (s *Server) door() *admit.Door {
	return &admit.Door{Total: maxConns, Strangers: maxConns / 2, PerClient: maxClient, Known: s.leased,
		Shed: func(beyond string, who netip.Addr) { s.shed("HTTP connections "+beyond, who) }}
}

// leased reports whether an address was given to a machine that boots.
func (s *Server) leased(a netip.Addr) bool {
	_, ok := s.leases.get(a)
	return ok
}

func (s *Server) shed(what string, who netip.Addr) {
	if s.Shed != nil {
		s.Shed(what, who.String())
	}
}

// withBoot checks a boot id and the client's address before f.
func (s *Server) withBoot(f func(http.ResponseWriter, *http.Request, string, netip.Addr)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		from, err := client(r)
		switch {
		case err != nil:
			s.fail(w, r, "", "client address", err)
		case !bootIDPattern.MatchString(id):
			p := notFound("this is not a boot id", "begin a new boot: DHCP names the right script")
			if isIPXE(r) && strings.HasSuffix(r.URL.Path, "/script.ipxe") {
				s.writeScript(w, refusedScript(p))
				return
			}
			s.refuse(w, r, "", p)
		default:
			f(w, r, id, from)
		}
	}
}

// client is the address a request came from.
func client(r *http.Request) (netip.Addr, error) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, err
	}
	return ap.Addr().Unmap(), nil
}

func isIPXE(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "iPXE") }

// serveNothing answers what is not there, and methods that are not served.
func (s *Server) serveNothing(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		s.refuse(w, r, "", &api.Problem{Title: "Method not allowed", Status: http.StatusMethodNotAllowed, Code: api.CodeInvalid,
			Detail: "nothing here is changed over HTTP", Next: "use GET; a boot reports events with POST /boot/ID/event"})
		return
	}
	s.refuse(w, r, "", notFound("nothing is served at this path",
		"use /boot/ID/script.ipxe, /files/SHA256/NAME, /platforms/STAMP/manifest.json or /ipxe/NAME"))
}
