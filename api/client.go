package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Client speaks to a head node as an operator, or as a server's agent. Set its fields before the first
// call; it may be used by several goroutines after that.
type Client struct {
	// Headnode is a Unix socket (a path, or unix:///path) or an https URL.
	Headnode string
	// Token is an operator's token; the Unix socket needs none.
	Token string
	// CASHA256 pins the head node's CA: the SHA-256 of its certificate in DER,
	// hexadecimal. Empty: the system's authorities decide.
	CASHA256 string
	// Certificate is a server's, for the requests of its agent; nil: an operator's
	// client, or a server that enrols.
	Certificate *tls.Certificate
	// From is the address that connections over TCP come from; the zero Addr leaves it to
	// the system.
	From netip.Addr
	// Timeout limits one request and its answer; 30 s when 0. Event streams
	// have no limit but their context's.
	Timeout time.Duration
	// Retry is the delay before an upload or a stream of events is taken up again,
	// doubled each time; 1 s when 0.
	Retry time.Duration

	once sync.Once
	http *http.Client
	base string
	err  error
}

// NewClient gives a client of a head node: a Unix socket or an https URL.
func NewClient(headnode string) *Client { return &Client{Headnode: headnode} }

// UnreachableError says that no answer came from a head node, so that nothing
// is known of what became of the request.
type UnreachableError struct {
	Headnode string
	Err      error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("reach head node at %s: %v", e.Headnode, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// errPin is the reason for which a connection is refused by CASHA256.
var errPin = errors.New("its certificates carry no CA with the pinned digest; this is another head node, or its CA was made anew")

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

// Check reports what is wrong with the fields, without asking the head node.
func (c *Client) Check() error {
	c.once.Do(func() { c.err = c.connect() })
	return c.err
}

func (c *Client) connect() error {
	tr := &http.Transport{
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	path, isPath := strings.CutPrefix(c.Headnode, "unix://")
	switch {
	case isPath, strings.HasPrefix(c.Headnode, "/"), strings.HasPrefix(c.Headnode, "."):
		if path == "" {
			return fmt.Errorf("head node %q: the path of a socket is missing", c.Headnode)
		}
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		c.base = "http://headnode"
	default:
		u, err := url.Parse(c.Headnode)
		if err != nil {
			return fmt.Errorf("head node %q: %w", c.Headnode, err)
		}
		if u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
			return fmt.Errorf("head node %q: want the path of a Unix socket or https://HOST:PORT", c.Headnode)
		}
		if c.From.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.From, 0))
		}
		tr.DialContext = dialer.DialContext
		tr.Proxy = http.ProxyFromEnvironment
		tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13}
		if c.CASHA256 != "" {
			pin, err := hex.DecodeString(c.CASHA256)
			if err != nil || len(pin) != sha256.Size {
				return fmt.Errorf("CA digest %q: want 64 hexadecimal digits", c.CASHA256)
			}
			// The usual check is replaced, not left out: see verifyPinned.
			tr.TLSClientConfig.InsecureSkipVerify = true
			tr.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error { return verifyPinned(s, pin, u.Hostname()) }
		}
		if c.Certificate != nil {
			tr.TLSClientConfig.Certificates = []tls.Certificate{*c.Certificate}
			tr.ForceAttemptHTTP2 = true
			tr.IdleConnTimeout, tr.MaxIdleConns = time.Minute, 1
			// A head node that vanished without a word is noticed within a poll.
			tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
		}
		c.base = "https://" + u.Host
	}
	c.http = &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// verifyPinned checks a chain against the one CA in it that has the pinned
// digest, and the leaf against the host that was dialled (a ConnectionState's
// ServerName is empty where that is an address).
func verifyPinned(s tls.ConnectionState, pin []byte, host string) error {
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, cert := range s.PeerCertificates {
		sum := sha256.Sum256(cert.Raw)
		if cert.IsCA && bytes.Equal(sum[:], pin) {
			roots.AddCert(cert)
			found = true
			continue
		}
		inter.AddCert(cert)
	}
	if !found {
		return errPin
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName:       host,
		Roots:         roots,
		Intermediates: inter,
	})
	return err
}

// Close lets go of idle connections.
func (c *Client) Close() {
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// request is one call of the API.
type request struct {
	method, path string
	header       http.Header
	body         io.Reader // nil: none
	length       int64     // of body
	timeout      time.Duration
}

type confirmKey struct{}

// WithConfirm is a context whose requests agree to side effects: to those that a
// Problem with CodeSideEffects listed, by its Confirm, or with ConfirmAll to whatever
// there are.
func WithConfirm(ctx context.Context, confirm string) context.Context {
	return context.WithValue(ctx, confirmKey{}, confirm)
}

// send gives the answer to a request that the head node granted; the caller
// closes its body, which ends the request's timeout too.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	cancel := context.CancelFunc(func() {})
	if r.timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("no answer within %v", r.timeout))
	}
	path := r.path
	if confirm, _ := ctx.Value(confirmKey{}).(string); confirm != "" && r.method != http.MethodGet {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + url.Values{"confirm": {confirm}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+path, r.body)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	if r.body != nil {
		req.ContentLength = r.length
	}
	for k, vs := range r.header {
		req.Header[k] = vs
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		defer cancel()
		return nil, c.unreachable(ctx, err)
	}
	res.Body = &cancelBody{ReadCloser: res.Body, cancel: cancel}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		defer res.Body.Close()
		return res, readProblem(res)
	}
	return res, nil
}

// unreachable says why no answer came, without the URL that http repeats, and
// with the caller's own reason when it was the caller who gave up.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return canceled(ctx)
		}
		err = cause
	}
	return &UnreachableError{Headnode: c.Headnode, Err: err}
}

// canceled says that a context was canceled, and by what when that is known.
func canceled(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%w: %w", context.Canceled, cause)
	}
	return context.Canceled
}

// cancelBody ends a request's timeout together with its body.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// readProblem makes a Problem of an answer that is none of 2xx, whoever wrote it.
func readProblem(res *http.Response) error {
	p := &Problem{}
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") && json.Unmarshal(b, p) == nil && p.Status != 0 {
		return p
	}
	p = &Problem{Title: http.StatusText(res.StatusCode), Status: res.StatusCode, Code: codeOf(res.StatusCode)}
	p.Detail = fmt.Sprintf("the head node answered %s", res.Status)
	if text := strings.TrimSpace(string(b[:min(len(b), 300)])); text != "" && strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
		p.Detail += ": " + text
	}
	return p
}

// codeOf is the code of an answer that carries none of its own.
func codeOf(status int) Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return CodeInvalid
	case http.StatusUnauthorized:
		return CodeUnauthorized
	case http.StatusForbidden:
		return CodeForbidden
	case http.StatusNotFound:
		return CodeNotFound
	case http.StatusConflict:
		return CodeConflict
	case http.StatusPreconditionFailed:
		return CodeStale
	case http.StatusInsufficientStorage:
		return CodeNoSpace
	case http.StatusServiceUnavailable:
		return CodeUnavailable
	}
	return CodeInternal
}

// call sends in as JSON, when there is any, and reads the answer into out, when
// it has one and is wanted.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	r, err := c.jsonRequest(method, path, in)
	if err != nil {
		return err
	}
	return c.exchange(ctx, r, out)
}

func (c *Client) jsonRequest(method, path string, in any) (request, error) {
	r := request{method: method, path: path, header: http.Header{}, timeout: c.timeout()}
	r.header.Set("Accept", "application/json, application/problem+json")
	if in == nil {
		return r, nil
	}
	b, err := json.Marshal(in)
	if err != nil {
		return r, fmt.Errorf("%s %s: %w", method, path, err)
	}
	r.body, r.length = bytes.NewReader(b), int64(len(b))
	r.header.Set("Content-Type", "application/json")
	return r, nil
}

func (c *Client) exchange(ctx context.Context, r request, out any) error {
	res, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if out == nil || res.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read answer to %s %s: %w", r.method, r.path, err)
	}
	return nil
}

func (c *Client) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return 30 * time.Second
}

// list is the shape of every answer that lists things.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}
