package api

import (
	"net/http"
	"net/url"
)

// SessionURL gives what a WebSocket client (RFC 6455) needs for a session with an
// instance: the client whose connections lead to the head node, the address, and the
// header that says who asks.
func (c *Client) SessionURL(instance string) (_ *http.Client, address string, _ http.Header, err error) {
	if err := c.Check(); err != nil {
		return nil, "", nil, err
	}
	h := http.Header{}
	if c.Token != "" {
		h.Set("Authorization", "Bearer "+c.Token)
	}
	return c.http, c.base + "/v1/instances/" + url.PathEscape(instance) + "/session", h, nil
}

// ProblemOf reads the answer to a request that was not granted.
func ProblemOf(res *http.Response) error { return readProblem(res) }
