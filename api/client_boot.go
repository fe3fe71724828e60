package api

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
)

// BootRequest has the head node decide a DHCP message, as its own boot server does.
// A lease in the answer is on disk.
func (c *Client) BootRequest(ctx context.Context, r BootRequest) (BootAnswer, error) {
	var out BootAnswer
	err := c.call(ctx, http.MethodPost, "/v1/boot-requests", r, &out)
	return out, err
}

// BootPlan says what a boot loads, for the machine that has an address.
func (c *Client) BootPlan(ctx context.Context, bootID string, from netip.Addr) (BootPlan, error) {
	var out BootPlan
	err := c.call(ctx, http.MethodGet, bootPath(bootID, "plan")+"?from="+url.QueryEscape(from.String()), nil, &out)
	return out, err
}

// BootConfig makes a boot's configuration, for the machine that has an address. It
// holds a secret.
func (c *Client) BootConfig(ctx context.Context, bootID string, from netip.Addr) (BootConfig, error) {
	var out BootConfig
	err := c.call(ctx, http.MethodPost, bootPath(bootID, "config")+"?from="+url.QueryEscape(from.String()), nil, &out)
	return out, err
}

// ReportBoot adds to a boot's record.
func (c *Client) ReportBoot(ctx context.Context, bootID string, r BootReport) error {
	return c.call(ctx, http.MethodPost, bootPath(bootID, "events"), r, nil)
}

func bootPath(id, rest string) string { return "/v1/boots/" + url.PathEscape(id) + "/" + rest }
