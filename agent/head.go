package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"nereid/agent/identity"
	"nereid/api"
)

// maxAnswer bounds what is read of an answer: the map of a VNI with half a million
// addresses.
const maxAnswer = 64 << 20

// dialFunc opens a connection.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// head is the head node's API as one identity sees it. A client certificate
// belongs to a connection, so that each identity has its own.
type head struct {
	base   *url.URL
	client *http.Client
	date   func(date time.Time) // told the Date of every answer
}

// newHead makes a client; cert may be nil. anyTime is for asking the time only.
func newHead(base *url.URL, trust identity.Trust, cert *identity.Certificate, anyTime bool, dial dialFunc) *head {
	tc := trust.TLS(cert)
	if anyTime {
		tc = trust.AnyTimeTLS()
	}
	return &head{
		base: base,
		client: &http.Client{
			Transport: &http.Transport{
				DialContext:         dial,
				TLSClientConfig:     tc,
				ForceAttemptHTTP2:   true,
				TLSHandshakeTimeout: 10 * time.Second,
				IdleConnTimeout:     time.Minute,
				MaxIdleConns:        1,
				WriteBufferSize:     8 << 10,
				ReadBufferSize:      8 << 10,
				// A head node that vanished without a word is noticed within a poll.
				HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// close ends the idle connections.
func (h *head) close() {
	if h != nil {
		h.client.CloseIdleConnections()
	}
}

// call sends in as JSON and reads the answer into out. It returns the status of
// a success (2xx). A refusal is *api.Problem, whatever the other side sent with
// it. written, if not nil, is called when the request was sent in full.
func (h *head) call(ctx context.Context, method, path string, in, out any, written func()) (int, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	if written != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			WroteRequest: func(i httptrace.WroteRequestInfo) {
				if i.Err == nil {
					written()
				}
			},
		})
	}
	req, err := http.NewRequestWithContext(ctx, method, h.base.JoinPath(path).String(), body)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	resp, err := h.client.Do(req)
	if err != nil {
		// The URL is in the operation already.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return 0, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, fmt.Errorf("%s %s: read answer: %w", method, path, err)
	}
	if len(data) > maxAnswer {
		return 0, fmt.Errorf("%s %s: the answer has more than %d bytes", method, path, maxAnswer)
	}
	if d, err := http.ParseTime(resp.Header.Get("Date")); err == nil && h.date != nil {
		h.date(d)
	}
	if resp.StatusCode/100 != 2 {
		return 0, parseProblem(resp.StatusCode, resp.Header.Get("Content-Type"), data)
	}
	if resp.StatusCode == http.StatusNoContent || out == nil {
		return resp.StatusCode, nil
	}
	if len(bytes.TrimSpace(data)) == 0 && resp.StatusCode == http.StatusAccepted {
		return resp.StatusCode, nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return 0, fmt.Errorf("%s %s: the answer is not what a head node says: %w", method, path, err)
	}
	return resp.StatusCode, nil
}

// parseProblem makes a problem of any answer that is not a success. Only one
// that is marked as such is believed to carry a code.
func parseProblem(status int, contentType string, data []byte) *api.Problem {
	mt, _, err := mime.ParseMediaType(contentType)
	if err == nil && mt == "application/problem+json" {
		var p api.Problem
		if err := json.Unmarshal(data, &p); err == nil && (p.Code != "" || p.Title != "" || p.Detail != "") {
			p.Status = status
			return &p
		}
	}
	return &api.Problem{
		Status: status,
		Code:   api.CodeUnavailable,
		Title:  http.StatusText(status),
		Detail: fmt.Sprintf("the head node's address answered %d %s, in a form that is not the head node's", status, http.StatusText(status)),
		Next:   "look at what runs at that address",
	}
}
