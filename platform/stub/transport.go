package stub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// plainHTTP sends requests over plain HTTP/1.1, one connection each. The wire
// format is net/http's; leaving out its client, with TLS, certificates, proxies
// and HTTP/2, none of which an initrd can use, makes the stub 2 MB smaller.
type plainHTTP struct {
	dialer net.Dialer
	header time.Duration // longest wait for an answer to begin
}

// Do sends a request. Closing the answer's body closes the connection, and so
// does the end of the request's context.
func (t *plainHTTP) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "http" {
		return nil, fmt.Errorf("%s: the stub speaks plain http only", req.URL.Scheme)
	}
	addr := req.URL.Host
	if req.URL.Port() == "" {
		addr = net.JoinHostPort(req.URL.Hostname(), "80")
	}
	ctx := req.Context()
	conn, err := t.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	fail := func(err error) (*http.Response, error) {
		if !stop() {
			err = context.Cause(ctx)
		}
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	if err := conn.SetDeadline(time.Now().Add(t.header)); err != nil {
		return fail(err)
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return fail(err)
	}
	// A small buffer: large reads of the body go past it, uncopied.
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return fail(err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fail(err)
	}
	resp.Body = &connBody{Reader: resp.Body, conn: conn, stop: stop}
	return resp, nil
}

// connBody is an answer's body that owns its connection.
type connBody struct {
	io.Reader
	conn net.Conn
	stop func() bool
}

func (b *connBody) Close() error {
	b.stop()
	return ignoreClosed(b.conn.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
