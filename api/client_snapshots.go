package api

import (
	"context"
	"net/http"
	"net/url"
)

func snapshotPath(id, snapshot, more string) string {
	return instancePath(id, "/snapshots/"+url.PathEscape(snapshot)+more)
}

// Snapshots lists the snapshots of an instance, the oldest first.
func (c *Client) Snapshots(ctx context.Context, id string) ([]Snapshot, error) {
	var out list[Snapshot]
	err := c.call(ctx, http.MethodGet, instancePath(id, "/snapshots"), nil, &out)
	return out.Items, err
}

// Snapshot gives one by its name or id.
func (c *Client) Snapshot(ctx context.Context, id, snapshot string) (Snapshot, error) {
	var out Snapshot
	err := c.call(ctx, http.MethodGet, snapshotPath(id, snapshot, ""), nil, &out)
	return out, err
}

// CreateSnapshot asks for a snapshot of an instance. What its server does shows in its state.
func (c *Client) CreateSnapshot(ctx context.Context, id string, in SnapshotCreate) (Snapshot, error) {
	var out Snapshot
	err := c.call(ctx, http.MethodPost, instancePath(id, "/snapshots"), in, &out)
	return out, err
}

// DeleteSnapshot has a snapshot destroyed by its server. It is there, as deleting, until the
// server says that nothing of it is left.
func (c *Client) DeleteSnapshot(ctx context.Context, id, snapshot string) (Snapshot, error) {
	var out Snapshot
	err := c.call(ctx, http.MethodDelete, snapshotPath(id, snapshot, ""), nil, &out)
	return out, err
}

// RollBack has an instance made what it was when a snapshot was taken. What is lost with
// that is side effects, which are to be agreed to.
func (c *Client) RollBack(ctx context.Context, id, snapshot string) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodPost, snapshotPath(id, snapshot, "/rollback"), nil, &out)
	return out, err
}

// SetSnapshotSchedule sets by which schedule an instance's server takes snapshots; with
// nothing in it, by none.
func (c *Client) SetSnapshotSchedule(ctx context.Context, id string, in SnapshotSchedule) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodPut, instancePath(id, "/snapshot-schedule"), in, &out)
	return out, err
}
