package api

import (
	"context"
	"net/http"
	"net/url"
)

// Instances are the instances of all accounts, by UUID, or by a name that one account's
// instance has. They are made with CreateInstance and deleted with DeleteInstance.
// Queries: owner, server, image, package, name, state (deleted ones are listed with
// deleted only), tag (NAME=VALUE). Lists leave the metadata out.
func (c *Client) Instances() Objects[Instance, InstanceUpdate] {
	return Objects[Instance, InstanceUpdate]{c, "/v1/instances"}
}

func instancePath(id, more string) string { return "/v1/instances/" + url.PathEscape(id) + more }

// CreateInstance makes an instance. What its server does with it shows in its state.
func (c *Client) CreateInstance(ctx context.Context, in InstanceCreate) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodPost, "/v1/instances", in, &out)
	return out, err
}

// DeleteInstance has an instance removed by its server. lost frees at once what it had,
// of a server that will not come back.
func (c *Client) DeleteInstance(ctx context.Context, id string, lost bool) (Instance, error) {
	var out Instance
	path := instancePath(id, "")
	if lost {
		path += "?server_lost=true"
	}
	err := c.call(ctx, http.MethodDelete, path, nil, &out)
	return out, err
}

// StartInstance has an instance run.
func (c *Client) StartInstance(ctx context.Context, id string) (Instance, error) {
	return c.actOn(ctx, id, "/start", InstanceAction{})
}

// StopInstance has an instance stop; with force it is killed, and not asked.
func (c *Client) StopInstance(ctx context.Context, id string, force bool) (Instance, error) {
	return c.actOn(ctx, id, "/stop", InstanceAction{Force: force})
}

// RebootInstance has an instance stop and start; with force it is killed, and not asked.
func (c *Client) RebootInstance(ctx context.Context, id string, force bool) (Instance, error) {
	return c.actOn(ctx, id, "/reboot", InstanceAction{Force: force})
}

// KillInstance sends a signal to the first process of an instance.
func (c *Client) KillInstance(ctx context.Context, id, signal string) (Instance, error) {
	return c.actOn(ctx, id, "/kill", InstanceKill{Signal: signal})
}

// AddInstanceNIC gives an instance a NIC.
func (c *Client) AddInstanceNIC(ctx context.Context, id string, n InstanceNetwork) (Instance, error) {
	return c.actOn(ctx, id, "/nics", n)
}

// RemoveInstanceNIC takes a NIC from an instance.
func (c *Client) RemoveInstanceNIC(ctx context.Context, id, mac string) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodDelete, instancePath(id, "/nics/"+url.PathEscape(mac)), nil, &out)
	return out, err
}

// AddInstanceDisk gives a virtual machine a disk: size is MiB, or remaining.
func (c *Client) AddInstanceDisk(ctx context.Context, id, size string) (Instance, error) {
	return c.actOn(ctx, id, "/disks", VMDiskAdd{Size: size})
}

// GrowInstanceDisk makes a disk of a virtual machine larger.
func (c *Client) GrowInstanceDisk(ctx context.Context, id, disk string, mib int) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodPut, instancePath(id, "/disks/"+url.PathEscape(disk)), VMDiskGrow{SizeMiB: mib}, &out)
	return out, err
}

// RemoveInstanceDisk takes a disk from a virtual machine, with what is on it.
func (c *Client) RemoveInstanceDisk(ctx context.Context, id, disk string) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodDelete, instancePath(id, "/disks/"+url.PathEscape(disk)), nil, &out)
	return out, err
}

func (c *Client) actOn(ctx context.Context, id, verb string, body any) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodPost, instancePath(id, verb), body, &out)
	return out, err
}

// InstancePlacement says why an instance is on its server.
func (c *Client) InstancePlacement(ctx context.Context, id string) (Placement, error) {
	var out Placement
	err := c.call(ctx, http.MethodGet, instancePath(id, "/placement"), nil, &out)
	return out, err
}

// InstanceTimeline says where the time of an instance's create went.
func (c *Client) InstanceTimeline(ctx context.Context, id string) (InstanceTimeline, error) {
	var out InstanceTimeline
	err := c.call(ctx, http.MethodGet, instancePath(id, "/timeline"), nil, &out)
	return out, err
}

// InstanceAudit lists what was asked of an instance, the newest first.
func (c *Client) InstanceAudit(ctx context.Context, id string) ([]InstanceAudit, error) {
	var out list[InstanceAudit]
	err := c.call(ctx, http.MethodGet, instancePath(id, "/audit"), nil, &out)
	return out.Items, err
}

// UnexpectedInstances lists what servers have and were not told of; of all servers
// where none is named.
func (c *Client) UnexpectedInstances(ctx context.Context, server string) ([]UnexpectedInstance, error) {
	var out list[UnexpectedInstance]
	path := "/v1/unexpected-instances"
	if server != "" {
		path += "?" + url.Values{"server": {server}}.Encode()
	}
	err := c.call(ctx, http.MethodGet, path, nil, &out)
	return out.Items, err
}

// AdoptInstance takes back one of these, by UUID or name.
func (c *Client) AdoptInstance(ctx context.Context, id string, a InstanceAdopt) (Instance, error) {
	var out Instance
	err := c.call(ctx, http.MethodPost, "/v1/unexpected-instances/"+url.PathEscape(id)+"/adopt", a, &out)
	return out, err
}

// InstanceSettings gives the datacenter's settings of instances.
func (c *Client) InstanceSettings(ctx context.Context) (InstanceSettings, error) {
	var out InstanceSettings
	err := c.call(ctx, http.MethodGet, "/v1/instance-settings", nil, &out)
	return out, err
}

// SetInstanceSettings replaces them. A revision in s must still be theirs.
func (c *Client) SetInstanceSettings(ctx context.Context, s InstanceSettings) (InstanceSettings, error) {
	var out InstanceSettings
	err := c.call(ctx, http.MethodPut, "/v1/instance-settings", s, &out)
	return out, err
}
