package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"nereid/agent/identity"
	"nereid/api"
)

// Entry is the way into instances. It waits until the program has ended, or until stdout
// or ctx has; then the program is ended too.
type Entry interface {
	Enter(ctx context.Context, instance string, r api.SessionRequest, stdin io.ReadCloser, stdout, stderr io.Writer, resize <-chan api.TerminalSize) (status int, err error)
}

// noProgram is the exit status of a session without a program, as a shell's.
const noProgram = 126

// Times of sessions.
const (
	sessionDial  = 10 * time.Second
	sessionClose = 5 * time.Second
)

// sessions are the conversations with instances that the head node passes on. Each has a
// connection of its own, which the agent opens: nothing listens for it.
type sessions struct {
	a     *Agent
	base  *url.URL
	trust identity.Trust
	asked chan []api.SessionSpec // one slot: those of the last answer
}

func newSessions(a *Agent, base *url.URL, trust identity.Trust) *sessions {
	return &sessions{a: a, base: base, trust: trust, asked: make(chan []api.SessionSpec, 1)}
}

// want replaces what the head node asks for; it never blocks. There is one writer.
func (s *sessions) want(asked []api.SessionSpec) {
	select {
	case <-s.asked:
	default:
	}
	s.asked <- asked
}

// run has the sessions that are asked for until ctx ends. An answer names a session until
// the head node knows that the agent has come for it.
func (s *sessions) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	over := make(chan string)
	open := map[string]bool{} // ids; one that has ended stays while it is asked for
	busy := 0
	for {
		select {
		case <-ctx.Done():
			for ; busy > 0; busy-- {
				<-over
			}
			return nil
		case id := <-over:
			busy--
			open[id] = false
		case asked := <-s.asked:
			for id, there := range open {
				if !there && !slices.ContainsFunc(asked, func(n api.SessionSpec) bool { return n.ID == id }) {
					delete(open, id)
				}
			}
			for _, n := range asked {
				if _, known := open[n.ID]; known || busy == api.MaxSessions {
					continue
				}
				open[n.ID] = true
				busy++
				wg.Go(func() {
					if err := s.have(ctx, n); err != nil && ctx.Err() == nil {
						s.a.Log.Info("session", "instance", n.Instance, "kind", n.Kind, "err", err)
					}
					over <- n.ID
				})
			}
		}
	}
}

// have has one session.
func (s *sessions) have(ctx context.Context, n api.SessionSpec) error {
	c, end, err := s.dial(ctx, n.ID)
	if err != nil {
		return err
	}
	defer end()
	defer c.CloseNow()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stdin, in := io.Pipe()
	resize := make(chan api.TerminalSize, 1)
	var hearing sync.WaitGroup
	defer hearing.Wait()
	defer stdin.Close()
	defer c.CloseNow()
	hearing.Go(func() {
		defer cancel() // nobody is there any more
		in.CloseWithError(hear(ctx, c, in, resize))
	})
	out := &sender{ctx: ctx, c: c}
	exit := api.SessionExit{}
	if s.a.Entry == nil {
		exit = api.SessionExit{Code: noProgram, Error: "this server's platform has no instances"}
	} else if exit.Code, err = s.a.Entry.Enter(ctx, n.Instance, n.SessionRequest, stdin, out.as(api.MessageStdout), out.as(api.MessageStderr), resize); err != nil {
		exit.Error = err.Error()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	wctx, done := context.WithTimeout(ctx, sessionClose)
	defer done()
	if err := c.Write(wctx, websocket.MessageBinary, api.ExitMessage(exit)); err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	<-ctx.Done() // the head node hangs up, once it has passed that on
	return nil
}

// dial comes for a session with the certificate of now. It is a connection of its own:
// WebSocket is of HTTP/1.1 (RFC 6455).
func (s *sessions) dial(ctx context.Context, id string) (*websocket.Conn, func(), error) {
	cert := s.a.cert.Load()
	if cert == nil {
		return nil, nil, errors.New("come for a session: this server has no certificate")
	}
	tr := &http.Transport{DialContext: s.a.Dial, TLSClientConfig: s.trust.TLS(cert), TLSHandshakeTimeout: sessionDial}
	u := s.base.JoinPath("/v1/servers/", s.a.UUID, "sessions", id)
	dctx, cancel := context.WithTimeout(ctx, sessionDial)
	defer cancel()
	c, resp, err := websocket.Dial(dctx, u.String(), &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		tr.CloseIdleConnections()
		if resp != nil && resp.Body != nil {
			data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // of an answer that says no
			return nil, nil, fmt.Errorf("come for a session: %w", parseProblem(resp.StatusCode, resp.Header.Get("Content-Type"), data))
		}
		return nil, nil, fmt.Errorf("come for a session: %w", err)
	}
	c.SetReadLimit(api.MaxMessage)
	return c, tr.CloseIdleConnections, nil
}

// hear reads what the client sends, until it sends no more. A program that does not read
// holds it up.
func hear(ctx context.Context, c *websocket.Conn, stdin *io.PipeWriter, resize chan api.TerminalSize) error {
	for {
		_, m, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if len(m) == 0 {
			continue
		}
		switch rest := m[1:]; m[0] {
		case api.MessageStdin:
			if len(rest) == 0 {
				_ = stdin.Close() // it never fails
				continue
			}
			_, _ = stdin.Write(rest) // what a program does not want to read is lost
		case api.MessageResize:
			var size api.TerminalSize
			if err := json.Unmarshal(rest, &size); err != nil {
				return fmt.Errorf("read size of terminal: %w", err)
			}
			select { // the newest counts
			case <-resize:
			default:
			}
			resize <- size
		}
	}
}

// sender sends what a program writes, one message after the other.
type sender struct {
	ctx context.Context
	c   *websocket.Conn
	mu  sync.Mutex
}

// as is a writer of messages of one type.
func (s *sender) as(kind byte) io.Writer { return &messages{s, kind} }

type messages struct {
	s    *sender
	kind byte
}

// Write waits until the head node has taken the bytes.
func (m *messages) Write(b []byte) (n int, err error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	for n < len(b) {
		part := b[n:min(len(b), n+api.MaxMessage/2)]
		if err := m.s.c.Write(m.s.ctx, websocket.MessageBinary, append([]byte{m.kind}, part...)); err != nil {
			return n, fmt.Errorf("send output: %w", err)
		}
		n += len(part)
	}
	return n, nil
}
