package headnode

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"nereid/api"
)

// comes has a server come for its end of a session.
func (m *machine) comes(id string) (*websocket.Conn, *http.Response, error) {
	block, _ := pem.Decode(m.cert)
	pair := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: m.key}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.h.ca.Pool(), Time: m.h.clock, Certificates: []tls.Certificate{pair}}}
	m.h.t.Cleanup(tr.CloseIdleConnections)
	return websocket.Dial(m.h.t.Context(), "https://"+m.h.HTTPS().String()+"/v1/servers/"+m.uuid+"/sessions/"+id, &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
}

// TestSession passes messages between a client and a server, of any size and value, and
// ends with the last one. Who has no right to either end gets neither.
func TestSession(t *testing.T) {
	h, zs := zoneRack(t, 2)
	ctx := t.Context()
	in := web("web0")
	in.Server = zs[0].uuid
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	zs[0].says("r1", []api.InstanceStatus{{UUID: made.UUID, State: "running"}})
	open := func(c *api.Client, name string) (*websocket.Conn, error) {
		client, address, header, err := c.SessionURL(name)
		if err != nil {
			return nil, err
		}
		ws, res, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
		if err != nil && res != nil {
			return nil, api.ProblemOf(res)
		}
		return ws, err
	}
	ask := func(ws *websocket.Conn, r api.SessionRequest) {
		text, err := json.Marshal(r)
		if err == nil {
			err = ws.Write(ctx, websocket.MessageText, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	exit := func(ws *websocket.Conn) (e api.SessionExit) {
		_, m, err := ws.Read(ctx)
		if err != nil || len(m) == 0 || m[0] != api.MessageExit || json.Unmarshal(m[1:], &e) != nil {
			t.Fatalf("%q, %v", m, err)
		}
		ws.CloseNow()
		return e
	}

	// Who may not, or cannot.
	_, err := open(h.client, "web9")
	wantCode(t, "of an instance that is not there", err, api.CodeNotFound)
	for scope, want := range map[api.Scope]api.Code{api.ScopeRead: api.CodeForbidden, api.ScopeOperate: ""} {
		tok := must[api.Token](t)(h.client.CreateToken(ctx, api.TokenCreate{Name: string(scope), Scope: scope}))
		c := api.NewClient("https://" + h.HTTPS().String())
		c.Token, c.CASHA256 = tok.Secret, h.CASHA256()
		t.Cleanup(c.Close)
		ws, err := open(c, "web0")
		if want != "" {
			wantCode(t, string(scope), err, want)
		} else if err != nil {
			t.Errorf("with a token of scope %s: %v", scope, err)
		} else {
			ws.CloseNow()
		}
	}
	ws, err := open(h.client, "web0")
	if err != nil {
		t.Fatal(err)
	}
	ask(ws, api.SessionRequest{Kind: "dance", Env: []string{"x"}})
	if e := exit(ws); e.Code != sessionFailed || !strings.Contains(e.Error, `kind: "dance"`) || !strings.Contains(e.Error, `env: "x"`) {
		t.Errorf("%+v", e)
	}

	// The conversation.
	if ws, err = open(h.client, "web0"); err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ask(ws, api.SessionRequest{Kind: api.SessionExec, Command: []string{"cat"}})
	var asked api.SessionSpec
	for asked.ID == "" {
		if r := zs[0].mustSync(); len(r.Sessions) == 1 {
			asked = r.Sessions[0]
		}
	}
	if asked.Instance != made.UUID || asked.Kind != api.SessionExec || len(asked.Command) != 1 {
		t.Errorf("%+v", asked)
	}
	if _, res, err := zs[1].comes(asked.ID); err == nil || res == nil || res.StatusCode != http.StatusNotFound {
		t.Errorf("another server comes for the session: %v, %v", res, err)
	}
	agent, _, err := zs[0].comes(asked.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.CloseNow()
	if _, res, err := zs[0].comes(asked.ID); err == nil || res == nil || res.StatusCode != http.StatusNotFound {
		t.Errorf("the session is had twice: %v, %v", res, err)
	}
	long := append([]byte{api.MessageStdin}, bytes.Repeat([]byte{0, 255, 13, 10}, (api.MaxMessage-1)/4)...)
	pass := func(from, to *websocket.Conn, m []byte) {
		t.Helper()
		if err := from.Write(ctx, websocket.MessageBinary, m); err != nil {
			t.Fatal(err)
		}
		to.SetReadLimit(api.MaxMessage)
		if _, got, err := to.Read(ctx); err != nil || !bytes.Equal(got, m) {
			t.Fatalf("%d bytes became %d, %v", len(m), len(got), err)
		}
	}
	pass(ws, agent, long)
	pass(agent, ws, append([]byte{api.MessageStdout}, long[1:]...))
	pass(agent, ws, api.ExitMessage(api.SessionExit{Code: 3}))
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("after the last message: %v", err)
	}
	if _, _, err := agent.Read(ctx); err == nil {
		t.Error("the server's end goes on after the last message")
	}
	if r := zs[0].mustSync(); len(r.Sessions) != 0 {
		t.Errorf("a session that is over is asked for: %+v", r.Sessions)
	}

	// A client that goes ends the server's end; a silent server has none.
	if ws, err = open(h.client, "web0"); err != nil {
		t.Fatal(err)
	}
	ask(ws, api.SessionRequest{Kind: api.SessionExec, Command: []string{"cat"}})
	for asked.ID = ""; asked.ID == ""; {
		if r := zs[0].mustSync(); len(r.Sessions) == 1 {
			asked = r.Sessions[0]
		}
	}
	if agent, _, err = zs[0].comes(asked.ID); err != nil {
		t.Fatal(err)
	}
	pass(ws, agent, []byte{api.MessageStdin, 'x'})
	ws.CloseNow()
	if _, _, err := agent.Read(context.WithoutCancel(ctx)); err == nil {
		t.Error("the server's end goes on without a client")
	}
	h.advance(2 * api.SilentAfter)
	_, err = open(h.client, "web0")
	wantCode(t, "of a silent server", err, api.CodeUnavailable)
}

// TestPass ends without an error when the last message was passed on, whichever end closes
// its connection first.
func TestPass(t *testing.T) {
	ends := make(chan *websocket.Conn)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
		}
		ends <- c
	}))
	defer srv.Close()
	dial := func() (ours, theirs *websocket.Conn) {
		theirs, _, err := websocket.Dial(t.Context(), srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		return <-ends, theirs
	}
	for _, first := range []string{"client", "agent", "neither"} {
		ours, client := dial()
		ours2, agent := dial()
		done := make(chan error)
		go func() {
			exit, err := pass(t.Context(), ours, ours2)
			if exit == nil || exit.Code != 3 {
				t.Errorf("%s closes first: it ended with %+v", first, exit)
			}
			done <- err
		}()
		if err := agent.Write(t.Context(), websocket.MessageBinary, api.ExitMessage(api.SessionExit{Code: 3})); err != nil {
			t.Fatal(err)
		}
		if first == "agent" {
			agent.CloseNow()
		}
		if _, m, err := client.Read(t.Context()); err != nil || m[0] != api.MessageExit {
			t.Fatalf("%s closes first: %q, %v", first, m, err)
		}
		if first == "client" {
			client.CloseNow()
		} else {
			_, _, _ = client.Read(t.Context()) // answers the close
		}
		if err := <-done; err != nil {
			t.Errorf("%s closes first: %v", first, err)
		}
		client.CloseNow()
		agent.CloseNow()
	}
}
