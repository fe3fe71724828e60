package api

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
)

// Objects are the requests that every kind of network object has: T is the
// object, U what may be changed of it.
type Objects[T, U any] struct {
	c    *Client
	path string
}

// All goes over the objects that match a query, a page at a time. An error ends
// it.
func (o Objects[T, U]) All(ctx context.Context, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := url.Values{}
		for k, v := range query {
			q[k] = v
		}
		for {
			path := o.path
			if len(q) > 0 {
				path += "?" + q.Encode()
			}
			var page list[T]
			if err := o.c.call(ctx, http.MethodGet, path, nil, &page); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, v := range page.Items {
				if !yield(v, nil) {
					return
				}
			}
			if page.Next == "" || page.Next == q.Get("after") {
				return
			}
			q.Set("after", page.Next)
		}
	}
}

// Get gives one object by its id or name.
func (o Objects[T, U]) Get(ctx context.Context, id string) (T, error) {
	var out T
	err := o.c.call(ctx, http.MethodGet, o.path+"/"+url.PathEscape(id), nil, &out)
	return out, err
}

// Create makes an object and gives it as it is stored.
func (o Objects[T, U]) Create(ctx context.Context, v T) (T, error) {
	var out T
	err := o.c.call(ctx, http.MethodPost, o.path, v, &out)
	return out, err
}

// Update changes an object. A revision, when given, must still be the object's
// (If-Match); empty: whatever it is.
func (o Objects[T, U]) Update(ctx context.Context, id string, u U, revision string) (T, error) {
	var out T
	r, err := o.c.jsonRequest(http.MethodPatch, o.path+"/"+url.PathEscape(id), u)
	if err != nil {
		return out, err
	}
	if revision != "" {
		r.header.Set("If-Match", strconv.Quote(revision))
	}
	err = o.c.exchange(ctx, r, &out)
	return out, err
}

// Delete deletes an object that nothing uses.
func (o Objects[T, U]) Delete(ctx context.Context, id string) error {
	return o.c.call(ctx, http.MethodDelete, o.path+"/"+url.PathEscape(id), nil, nil)
}

// NICTags are the datacenter's NIC tags, by name.
func (c *Client) NICTags() Objects[NICTag, NICTagUpdate] {
	return Objects[NICTag, NICTagUpdate]{c, "/v1/nic-tags"}
}

// Networks are the networks of all kinds, by UUID or name. Queries: nic_tag,
// owner, fabric (true, false).
func (c *Client) Networks() Objects[Network, NetworkUpdate] {
	return Objects[Network, NetworkUpdate]{c, "/v1/networks"}
}

// NetworkPools are the network pools, by UUID or name.
func (c *Client) NetworkPools() Objects[NetworkPool, NetworkPoolUpdate] {
	return Objects[NetworkPool, NetworkPoolUpdate]{c, "/v1/network-pools"}
}

// NICs are the NICs with addresses, by MAC. Queries: owner, belongs_to, server,
// network.
func (c *Client) NICs() Objects[NetworkNIC, NICUpdate] {
	return Objects[NetworkNIC, NICUpdate]{c, "/v1/nics"}
}

// IPs are the addresses of a network that something is known of. They are made
// and deleted by what uses them.
func (c *Client) IPs(network string) Objects[IPAddress, IPUpdate] {
	return Objects[IPAddress, IPUpdate]{c, "/v1/networks/" + url.PathEscape(network) + "/ips"}
}

// Bonds are a server's bonds, by name. They are replaced as a whole (Create on
// one that is there).
func (c *Client) Bonds(server string) Objects[Bond, Bond] {
	return Objects[Bond, Bond]{c, serverPath(server, "/bonds")}
}

// FirewallRules are the rules of all accounts, by UUID. Queries: owner, global.
func (c *Client) FirewallRules() Objects[FirewallRule, FirewallRuleUpdate] {
	return Objects[FirewallRule, FirewallRuleUpdate]{c, "/v1/firewall/rules"}
}

// FabricVLANs are the VLANs of an account's fabric, by number.
func (c *Client) FabricVLANs(owner string) Objects[FabricVLAN, FabricVLANUpdate] {
	return Objects[FabricVLAN, FabricVLANUpdate]{c, "/v1/accounts/" + url.PathEscape(owner) + "/fabric/vlans"}
}

// FabricNetworks are the networks on one VLAN of an account's fabric, by UUID or
// name.
func (c *Client) FabricNetworks(owner string, vlan int) Objects[Network, NetworkUpdate] {
	return Objects[Network, NetworkUpdate]{c, "/v1/accounts/" + url.PathEscape(owner) + "/fabric/vlans/" + strconv.Itoa(vlan) + "/networks"}
}

// FabricSettings gives the datacenter's fabric settings.
func (c *Client) FabricSettings(ctx context.Context) (FabricSettings, error) {
	var out FabricSettings
	err := c.call(ctx, http.MethodGet, "/v1/fabric-settings", nil, &out)
	return out, err
}

// SetFabricSettings replaces them. A revision in s must still be theirs.
func (c *Client) SetFabricSettings(ctx context.Context, s FabricSettings) (FabricSettings, error) {
	var out FabricSettings
	err := c.call(ctx, http.MethodPut, "/v1/fabric-settings", s, &out)
	return out, err
}

// FabricMap gives a VNI's map, or what changed in it since a version of an epoch;
// it is held while nothing did.
func (c *Client) FabricMap(ctx context.Context, vni uint32, epoch string, since uint64) (FabricMap, error) {
	var out FabricMap
	q := url.Values{}
	if epoch != "" {
		q.Set("epoch", epoch)
		q.Set("since", strconv.FormatUint(since, 10))
	}
	path := "/v1/fabrics/vni/" + strconv.FormatUint(uint64(vni), 10) + "/map"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	err := c.call(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

// ProvideNICTags says which NIC tags a physical NIC of a server provides.
func (c *Client) ProvideNICTags(ctx context.Context, server string, use NICTagUse) error {
	return c.call(ctx, http.MethodPut, serverPath(server, "/nic-tags"), use, nil)
}

// ProvidedNICTags lists which physical NIC of a server provides which NIC tags.
func (c *Client) ProvidedNICTags(ctx context.Context, server string) ([]NICTagUse, error) {
	var out list[NICTagUse]
	err := c.call(ctx, http.MethodGet, serverPath(server, "/nic-tags"), nil, &out)
	return out.Items, err
}

// SearchIPs finds an address in all networks.
func (c *Client) SearchIPs(ctx context.Context, ip string) ([]IPAddress, error) {
	var out list[IPAddress]
	err := c.call(ctx, http.MethodGet, "/v1/search/ips?"+url.Values{"ip": {ip}}.Encode(), nil, &out)
	return out.Items, err
}

// SearchNICs finds what has a MAC: NICs with addresses, and servers.
func (c *Client) SearchNICs(ctx context.Context, mac string) ([]NetworkNIC, error) {
	var out list[NetworkNIC]
	err := c.call(ctx, http.MethodGet, "/v1/search/nics?"+url.Values{"mac": {mac}}.Encode(), nil, &out)
	return out.Items, err
}

// TraceNetwork says which way a packet would take, and what is in it.
func (c *Client) TraceNetwork(ctx context.Context, r TraceRequest) (Trace, error) {
	var out Trace
	err := c.call(ctx, http.MethodPost, "/v1/network-trace", r, &out)
	return out, err
}

// Packages are the sizes that instances are made in, by UUID or, when active, by name.
// They are never deleted. Queries: owner, active (true, false), name.
func (c *Client) Packages() Objects[Package, PackageUpdate] {
	return Objects[Package, PackageUpdate]{c, "/v1/packages"}
}
