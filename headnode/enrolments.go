package headnode

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"nereid/admit"
	"nereid/api"
)

// Bounds of the enrolments that are read or held at once. Anybody may send one.
const (
	maxEnrols       = 4096
	maxClientEnrols = 8 // of one address
	enrolRead       = 10 * time.Second
)

// tooManyEnrol refuses an enrolment that gave way, or that found no room.
func tooManyEnrol() *api.Problem {
	return refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "ask again in some seconds",
		"more machines wait to be let in than the head node holds at once")
}

// enrolments bounds an operation that anybody may use and that is held: the size of
// its body, and how many there are at once from before the body is read.
func (s *Server) enrolments(op *huma.Operation) {
	tolerant(op)
	op.MaxBodyBytes, op.BodyReadTimeout = api.MaxEnrol, enrolRead
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		from, _ := netip.ParseAddrPort(r.RemoteAddr) // the Unix socket's clients are one client
		t := &turn{ended: make(chan struct{}), control: callerOf(ctx.Context()).control}
		var beyond string
		if t.place, beyond = s.waiting.Enter(from.Addr(), t.end); t.place == nil {
			p := tooManyEnrol()
			if beyond == s.waiting.OfOne() {
				p = refuse(http.StatusTooManyRequests, api.CodeUnavailable, "end the others, or ask again in some seconds",
					"%d enrolments of this address, %s, wait already", s.waiting.PerClient, from.Addr())
				admit.SlowDown(r.Context())
			}
			w.Header().Set("Retry-After", "5")
			writeProblem(w, p)
			return
		}
		defer t.place.Leave()
		next(huma.WithValue(ctx, turnKey{}, t))
	})
}

type turnKey struct{}

// turn is the place of an enrolment, until it ends or gives way.
type turn struct {
	place   *admit.Place
	ended   chan struct{}
	control *http.ResponseController

	mu   sync.Mutex
	read bool // its body was
}

// turnOf gives the turn of an enrolment, whose body was read.
func turnOf(ctx context.Context) *turn {
	t := ctx.Value(turnKey{}).(*turn)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = true
	return t
}

// end has the enrolment give way: one that is held is answered, and of one that is
// not there as a whole the rest is not waited for.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.ended)
	if !t.read {
		_ = t.control.SetReadDeadline(time.Unix(1, 0))
	}
}

// over is closed when the enrolment is to give way.
func (t *turn) over() <-chan struct{} { return t.ended }

// prove says that the enrolment is a known server's.
func (t *turn) prove() { t.place.Prove() }
