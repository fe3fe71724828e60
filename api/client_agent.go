package api

import (
	"context"
	"net/http"
	"time"
)

// pollTimeout limits a long poll, whose answer is held.
const pollTimeout = SyncHold + 15*time.Second

// Enrol asks for a client certificate with a one-boot token. It is held while an
// operator has to approve; the answer then has no certificate.
func (c *Client) Enrol(ctx context.Context, r EnrolRequest) (EnrolResponse, error) {
	var out EnrolResponse
	err := c.poll(ctx, "/v1/enrol", r, &out)
	return out, err
}

// Sync reports a server and hears what is wanted of it. It is held while there is
// nothing new; the answer then has neither a spec nor deltas. It needs Certificate.
func (c *Client) Sync(ctx context.Context, uuid string, r SyncRequest) (SyncResponse, error) {
	var out SyncResponse
	err := c.poll(ctx, serverPath(uuid, "/sync"), r, &out)
	return out, err
}

// Renew asks for another certificate for the key of Certificate.
func (c *Client) Renew(ctx context.Context, uuid, csr string) (EnrolResponse, error) {
	var out EnrolResponse
	err := c.call(ctx, http.MethodPost, serverPath(uuid, "/renew"), map[string]string{"csr": csr}, &out)
	return out, err
}

// poll is a call that may be held.
func (c *Client) poll(ctx context.Context, path string, in, out any) error {
	r, err := c.jsonRequest(http.MethodPost, path, in)
	if err != nil {
		return err
	}
	r.timeout = pollTimeout
	return c.exchange(ctx, r, out)
}
