package api

import (
	"context"
	"net/http"
	"net/url"
)

// Capabilities says what the head node can do, by name.
func (c *Client) Capabilities(ctx context.Context) (Capabilities, error) {
	var out Capabilities
	err := c.call(ctx, http.MethodGet, "/v1", nil, &out)
	return out, err
}

// Datacenter gives the datacenter's settings and totals.
func (c *Client) Datacenter(ctx context.Context) (Datacenter, error) {
	var out Datacenter
	err := c.call(ctx, http.MethodGet, "/v1/datacenter", nil, &out)
	return out, err
}

// Tokens lists the operators' tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	var out list[Token]
	err := c.call(ctx, http.MethodGet, "/v1/tokens", nil, &out)
	return out.Items, err
}

// CreateToken makes a token; its Secret is in this answer and in no other.
func (c *Client) CreateToken(ctx context.Context, t TokenCreate) (Token, error) {
	var out Token
	err := c.call(ctx, http.MethodPost, "/v1/tokens", t, &out)
	return out, err
}

// RevokeToken ends a token, by its id.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, nil)
}

// Explain says what a machine would be answered, and records nothing.
func (c *Client) Explain(ctx context.Context, r BootRequest) (Explanation, error) {
	var out Explanation
	err := c.call(ctx, http.MethodPost, "/v1/explain", r, &out)
	return out, err
}
