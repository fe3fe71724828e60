package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coder/websocket"
	"golang.org/x/term"

	"nereid/api"
)

// session has one session with an instance. stdin may be nil. It gives the exit status of
// what ran there; an error says why nothing did.
func (a *app) session(ctx context.Context, c *api.Client, instance string, r api.SessionRequest, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	client, address, header, err := c.SessionURL(instance)
	if err != nil {
		return 0, err
	}
	ws, res, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
	switch {
	case err != nil && res != nil && res.StatusCode != 101:
		return 0, api.ProblemOf(res)
	case err != nil && ctx.Err() != nil:
		return 0, context.Canceled
	case err != nil:
		return 0, &api.UnreachableError{Headnode: c.Headnode, Err: err}
	}
	defer ws.CloseNow()
	ws.SetReadLimit(api.MaxMessage)
	text, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	if err := ws.Write(ctx, websocket.MessageText, text); err != nil {
		return 0, fmt.Errorf("ask for a session: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	defer telling.Wait()
	defer cancel()
	if r.TTY != nil {
		telling.Go(func() { a.tellSize(ctx, ws) })
	}
	if stdin == nil {
		if err := ws.Write(ctx, websocket.MessageBinary, []byte{api.MessageStdin}); err != nil {
			return 0, fmt.Errorf("end the input: %w", err)
		}
	} else {
		// A read of a terminal cannot be ended, so that nobody waits for this one: it ends
		// with the program.
		go sendInput(ctx, ws, stdin)
	}
	return receive(ctx, ws, stdout, stderr)
}

// receive writes what comes until the session has ended.
func receive(ctx context.Context, ws *websocket.Conn, stdout, stderr io.Writer) (int, error) {
	for {
		_, m, err := ws.Read(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return 0, context.Canceled
		case err != nil:
			return 0, fmt.Errorf("the session broke off, and what it ran was ended: %w", err)
		case len(m) == 0:
			continue
		}
		switch rest := m[1:]; m[0] {
		case api.MessageStdout:
			_, err = stdout.Write(rest)
		case api.MessageStderr:
			_, err = stderr.Write(rest)
		case api.MessageExit:
			var e api.SessionExit
			if err := json.Unmarshal(rest, &e); err != nil {
				return 0, fmt.Errorf("read how the session ended: %w", err)
			}
			if e.Error != "" {
				return e.Code, errors.New(e.Error)
			}
			return e.Code, nil
		}
		if err != nil {
			return 0, fmt.Errorf("write what the session said: %w", err)
		}
	}
}

// sendInput sends what can be read, and its end.
func sendInput(ctx context.Context, ws *websocket.Conn, stdin io.Reader) {
	buf := make([]byte, 1+api.MaxMessage/2)
	buf[0] = api.MessageStdin
	for {
		n, err := stdin.Read(buf[1:])
		if n > 0 && ws.Write(ctx, websocket.MessageBinary, buf[:1+n]) != nil {
			return // receive says so
		}
		if err != nil {
			_ = ws.Write(ctx, websocket.MessageBinary, buf[:1]) // receive says so
			return
		}
	}
}

// tellSize tells the size of the terminal whenever it changes.
func (a *app) tellSize(ctx context.Context, ws *websocket.Conn) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		text, err := json.Marshal(a.terminalSize())
		if err != nil || ws.Write(ctx, websocket.MessageBinary, append([]byte{api.MessageResize}, text...)) != nil {
			return
		}
	}
}

func (a *app) terminalSize() api.TerminalSize {
	return api.TerminalSize{Rows: uint16(min(a.height(a.stdout), 1<<16-1)), Columns: uint16(min(a.width(a.stdout), 1<<16-1))}
}

// rawTerminal hands every key to the program at the other end, until restore is called.
func (a *app) rawTerminal() (restore func(), err error) {
	d, ok := fd(a.stdin)
	if !ok {
		return func() {}, nil
	}
	before, err := term.MakeRaw(d)
	if err != nil {
		return nil, fmt.Errorf("hand the terminal's keys over: %w", err)
	}
	return func() { _ = term.Restore(d, before) }, nil
}

// exitStatus makes an error of the exit status of what ran in an instance: the program ends
// with the same.
func exitStatus(code int, err error) error {
	switch {
	case err != nil && code != 0:
		return codedError{code, err}
	case err == nil && code != 0:
		return codedError{code, errSilent}
	}
	return err
}

// errSilent is an error that was told already, by a program in an instance.
var errSilent = errors.New("the program in the instance failed")
