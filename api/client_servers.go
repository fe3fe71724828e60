package api

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
)

func serverPath(id string, rest string) string { return "/v1/servers/" + url.PathEscape(id) + rest }

// ServersPage gives up to limit servers (0: the head node's choice) that come
// after the mark "after", and the mark of the next page, empty at the end.
func (c *Client) ServersPage(ctx context.Context, after string, limit int) ([]Server, string, error) {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	path := "/v1/servers"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	var out list[Server]
	err := c.call(ctx, http.MethodGet, path, nil, &out)
	return out.Items, out.Next, err
}

// Servers goes over all servers, a page at a time. An error ends it.
func (c *Client) Servers(ctx context.Context) iter.Seq2[Server, error] {
	return func(yield func(Server, error) bool) {
		for after := ""; ; {
			items, next, err := c.ServersPage(ctx, after, 0)
			if err != nil {
				yield(Server{}, err)
				return
			}
			for _, s := range items {
				if !yield(s, nil) {
					return
				}
			}
			if next == "" || next == after {
				return
			}
			after = next
		}
	}
}

// Server gives one server by UUID, hostname or MAC.
func (c *Client) Server(ctx context.Context, id string) (Server, error) {
	var out Server
	err := c.call(ctx, http.MethodGet, serverPath(id, ""), nil, &out)
	return out, err
}

// UpdateServer changes a server. A revision, when given, must still be the
// server's (If-Match); empty: whatever it is.
func (c *Client) UpdateServer(ctx context.Context, id string, u ServerUpdate, revision string) (Server, error) {
	var out Server
	r, err := c.jsonRequest(http.MethodPatch, serverPath(id, ""), u)
	if err != nil {
		return out, err
	}
	if revision != "" {
		r.header.Set("If-Match", strconv.Quote(revision))
	}
	err = c.exchange(ctx, r, &out)
	return out, err
}

// ForgetServer deletes a server's record. Nothing is done to the server.
func (c *Client) ForgetServer(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, serverPath(id, ""), nil, nil)
}

// ApproveServer lets a server in. Of two machines that claim one UUID, mac says
// which; else it is empty.
func (c *Client) ApproveServer(ctx context.Context, id, mac string) error {
	in := map[string]string{}
	if mac != "" {
		in["mac"] = mac
	}
	return c.call(ctx, http.MethodPost, serverPath(id, "/approve"), in, nil)
}

// AcceptKey makes the other key that a server presented the server's. With a MAC,
// the machine that boots from it is the server from then on; else it is empty.
func (c *Client) AcceptKey(ctx context.Context, id, mac string) error {
	in := map[string]string{}
	if mac != "" {
		in["mac"] = mac
	}
	return c.call(ctx, http.MethodPost, serverPath(id, "/accept-key"), in, nil)
}

// RejectServer refuses a server that waits for approval.
func (c *Client) RejectServer(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, serverPath(id, "/reject"), nil, nil)
}

// SetupServer asks for a pool; the head node gives the request its id.
func (c *Client) SetupServer(ctx context.Context, id string, s SetupSpec) error {
	return c.call(ctx, http.MethodPost, serverPath(id, "/setup"), s, nil)
}

// RebootServer asks for one reboot.
func (c *Client) RebootServer(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, serverPath(id, "/reboot"), nil, nil)
}

// ShutdownServer asks a server to power itself off.
func (c *Client) ShutdownServer(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, serverPath(id, "/shutdown"), nil, nil)
}

// ResetServer asks for a factory reset, which destroys the server's pool.
func (c *Client) ResetServer(ctx context.Context, id string, confirm ServerReset) error {
	return c.call(ctx, http.MethodPost, serverPath(id, "/reset"), confirm, nil)
}

// Boots gives a server's boot records, newest first.
func (c *Client) Boots(ctx context.Context, id string) ([]Boot, error) {
	var out list[Boot]
	err := c.call(ctx, http.MethodGet, serverPath(id, "/boots"), nil, &out)
	return out.Items, err
}

// BootsByMAC gives the boot records of a MAC, newest first; the machine may
// never have enrolled.
func (c *Client) BootsByMAC(ctx context.Context, mac string) ([]Boot, error) {
	var out list[Boot]
	err := c.call(ctx, http.MethodGet, "/v1/boots?"+url.Values{"mac": {mac}}.Encode(), nil, &out)
	return out.Items, err
}
