package headnode

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/store"
)

// Times of sessions.
const (
	sessionRequest = 10 * time.Second // for a client to say what it wants
	sessionPickup  = 15 * time.Second // for a server to come with its end
	sessionClose   = 5 * time.Second  // for the last message
)

// sessions are the conversations with instances that are under way. They are in memory
// only: when the head node ends, so do they.
type sessions struct {
	open sync.WaitGroup

	mu      sync.Mutex
	servers map[string]*conversing
}

// conversing are the sessions of one server.
type conversing struct {
	all     map[string]*session // by id
	changed chan struct{}       // closed and replaced when there is another
}

// session is one conversation. It ends when the client's end does.
type session struct {
	api.SessionSpec
	asked bool                 // the server has come
	agent chan *websocket.Conn // one slot: the server's end
	over  chan struct{}        // closed when it ends
}

func (s *sessions) of(server string) *conversing {
	if s.servers == nil {
		s.servers = map[string]*conversing{}
	}
	c := s.servers[server]
	if c == nil {
		c = &conversing{all: map[string]*session{}, changed: make(chan struct{})}
		s.servers[server] = c
	}
	return c
}

// begin asks a server for its end of a session. end is to be called when the session is
// over.
func (s *sessions) begin(server, instance string, r api.SessionRequest) (_ *session, end func(), err error) {
	n := &session{SessionSpec: api.SessionSpec{ID: rand.Text(), Instance: instance, SessionRequest: r},
		agent: make(chan *websocket.Conn, 1), over: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(server)
	if len(c.all) >= api.MaxSessions {
		return nil, nil, refuse(http.StatusTooManyRequests, api.CodeConflict, "end one of them, or wait for one to end", "the instance's server has %d sessions already", api.MaxSessions)
	}
	c.all[n.ID] = n
	close(c.changed)
	c.changed = make(chan struct{})
	return n, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(c.all, n.ID)
		close(n.over)
	}, nil
}

// pending are the sessions that a server has not come for, and a channel that is closed
// when there is another.
func (s *sessions) pending(server string) ([]api.SessionSpec, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(server)
	var out []api.SessionSpec
	for _, n := range c.all {
		if !n.asked {
			out = append(out, n.SessionSpec)
		}
	}
	return out, c.changed
}

// take gives a session to the server that came for it, once.
func (s *sessions) take(server, id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.servers[server]
	if c == nil || c.all[id] == nil || c.all[id].asked {
		return nil
	}
	c.all[id].asked = true
	return c.all[id]
}

// routeSessions adds both ends of sessions.
func (s *Server) routeSessions(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/instances/{id}/session", restrict(operators, s.serveSession))
	mux.HandleFunc("GET /v1/servers/{uuid}/sessions/{id}", restrict(agents, s.serveSessionEnd))
}

// serveSession is the client's end of a session.
func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) {
	s.sessions.open.Add(1)
	defer s.sessions.open.Done()
	var i api.Instance
	err := s.store.View(r.Context(), func(tx store.Tx) (err error) {
		i, err = s.sessionTarget(tx, r.PathValue("id"))
		return err
	})
	if err != nil {
		s.fail(w, "open session", err)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		s.log.Info("open session", "err", err) // the answer is written
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(api.MaxMessage)
	ctx, end := untilStop(r.Context())
	defer end()
	if err := s.converse(ctx, c, i); err != nil {
		p, expected := problemOf(err)
		if !expected {
			s.log.Info("session ended", "instance", i.UUID, "err", err)
		}
		sayExit(ctx, c, api.SessionExit{Code: sessionFailed, Error: p.Error()})
	}
}

// sessionFailed is the exit status of a session that had no program: that of a shell's
// command that cannot be executed.
const sessionFailed = 126

// untilStop ends with ctx, and when the head node stops. end is to be called.
func untilStop(ctx context.Context) (_ context.Context, end func()) {
	out, cancel := context.WithCancelCause(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-stopOf(ctx):
			cancel(errors.New("the head node stops"))
		case <-out.Done():
		}
	})
	return out, func() {
		cancel(context.Canceled)
		waiting.Wait()
	}
}

// sessionTarget finds the instance that a client names, on a server that answers.
func (s *Server) sessionTarget(tx store.Tx, id string) (api.Instance, error) {
	r, err := instances.There(tx, "", id)
	if err != nil {
		return api.Instance{}, err
	}
	i, err := s.showInstance(tx, r)
	if err == nil && i.State == api.InstanceUnknown {
		err = refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "look at the server with: nereid server get "+i.Server, "instance %s cannot be reached: %s", i.Name, i.Reason)
	}
	return i, err
}

// converse hears what the client wants, has the server come, and passes messages on.
func (s *Server) converse(ctx context.Context, client *websocket.Conn, i api.Instance) error {
	request, err := readRequest(ctx, client)
	if err != nil {
		return err
	}
	if err := instances.Enterable(i, request.Kind); err != nil {
		return err
	}
	told, err := s.auditSession(ctx, i.UUID, request.Kind)
	if err != nil {
		return err
	}
	exit, err := s.conversation(ctx, client, i, request)
	return errors.Join(err, told(exit, err))
}

// conversation has the server come for its end of a session, and passes messages on. exit
// is how the server says that it ended; nil: the client went before.
func (s *Server) conversation(ctx context.Context, client *websocket.Conn, i api.Instance, request api.SessionRequest) (exit *api.SessionExit, err error) {
	n, end, err := s.sessions.begin(i.Server, i.UUID, request)
	if err != nil {
		return nil, err
	}
	defer end()
	s.log.Info("operator's session", "operator", callerOf(ctx).operator, "kind", request.Kind, "instance", i.UUID, "session", n.ID)
	wait := time.NewTimer(sessionPickup)
	defer wait.Stop()
	select {
	case agent := <-n.agent:
		defer agent.CloseNow()
		return pass(ctx, client, agent)
	case <-wait.C:
		return nil, refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "look at the server with: nereid server get "+i.Server, "server %s did not come within %v for its end of the session", i.Server, sessionPickup)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// auditSession notes in an instance's audit that somebody has a session of a kind which is
// told of there. told is to be called when it is over.
func (s *Server) auditSession(ctx context.Context, uuid, kind string) (told func(*api.SessionExit, error) error, err error) {
	if !instances.Audited(kind) {
		return func(*api.SessionExit, error) error { return nil }, nil
	}
	key := ""
	err = s.update(ctx, func(tx store.Tx) (err error) {
		key, err = instances.NoteSession(tx, uuid, callerOf(ctx).operator, kind, s.now())
		return err
	})
	return func(exit *api.SessionExit, fault error) error {
		why := ""
		switch p, expected := problemOf(fault); {
		case exit != nil:
			why = exit.Error
		case fault != nil && expected:
			why = p.Error()
		case fault != nil && kind != api.SessionScreen: // whose viewer just goes
			why = "who asked for it went before it was done"
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionClose)
		defer cancel()
		return s.update(ctx, func(tx store.Tx) error { return instances.EndSession(tx, key, why, s.now()) })
	}, err
}

// readRequest reads and checks a client's first message.
func readRequest(ctx context.Context, client *websocket.Conn) (r api.SessionRequest, err error) {
	ctx, cancel := context.WithTimeout(ctx, sessionRequest)
	defer cancel()
	kind, text, err := client.Read(ctx)
	if err != nil {
		return r, fmt.Errorf("read what the client wants: %w", err)
	}
	if kind != websocket.MessageText {
		return r, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "send a SessionRequest as text first", "the session's first message is not text")
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "send a SessionRequest as text first", "the session's first message: %v", err)
	}
	return r, r.Validate()
}

// pass passes messages between both ends until one ends. exit is the server's last one;
// nil: it said none.
func pass(ctx context.Context, client, agent *websocket.Conn) (exit *api.SessionExit, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var ended atomic.Pointer[api.SessionExit]
	wg.Go(func() { cancel(passOn(ctx, agent, client, nil)) })
	wg.Go(func() { cancel(passOn(ctx, client, agent, &ended)) })
	<-ctx.Done()
	err = context.Cause(ctx)
	if exit = ended.Load(); exit != nil { // whichever end closed its connection first
		err = nil
	}
	_, _ = client.CloseNow(), agent.CloseNow()
	wg.Wait()
	return exit, err
}

// passOn copies messages one way. A reader that does not keep up holds up the writer, and
// nobody else. ended is set when the session's last message came, which comes from the
// server's end only; nil: this is the other way.
func passOn(ctx context.Context, to, from *websocket.Conn, ended *atomic.Pointer[api.SessionExit]) error {
	for {
		kind, message, err := from.Read(ctx)
		if err != nil {
			return fmt.Errorf("session: %w", err)
		}
		exit := ended != nil && len(message) > 0 && message[0] == api.MessageExit
		if exit {
			e := &api.SessionExit{}
			if json.Unmarshal(message[1:], e) != nil {
				e.Error = "its server said in no known way how it ended"
			}
			ended.Store(e) // before the client can go
		}
		if err := to.Write(ctx, kind, message); err != nil {
			return fmt.Errorf("session: %w", err)
		}
		if exit {
			_ = to.Close(websocket.StatusNormalClosure, "") // it has all that there is
			return nil
		}
	}
}

// sayExit ends a session from here.
func sayExit(ctx context.Context, c *websocket.Conn, e api.SessionExit) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionClose)
	defer cancel()
	if c.Write(ctx, websocket.MessageBinary, api.ExitMessage(e)) == nil {
		_ = c.Close(websocket.StatusNormalClosure, "")
	}
}

// serveSessionEnd is the server's end of a session.
func (s *Server) serveSessionEnd(w http.ResponseWriter, r *http.Request) {
	s.sessions.open.Add(1)
	defer s.sessions.open.Done()
	server := r.PathValue("uuid")
	err := s.store.View(r.Context(), func(tx store.Tx) error {
		_, err := s.authorised(tx, callerOf(r.Context()), server)
		return err
	})
	if err != nil {
		s.fail(w, "take session", err)
		return
	}
	n := s.sessions.take(server, r.PathValue("id"))
	if n == nil {
		writeProblem(w, refuse(http.StatusNotFound, api.CodeNotFound, "nothing; who wanted it has gone", "server %s is not asked for session %.64q", server, r.PathValue("id")))
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		s.log.Info("take session", "err", err)
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(api.MaxMessage)
	n.agent <- c // take gives it to one
	<-n.over
}
