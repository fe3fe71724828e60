package api

import "time"

// Capabilities is the answer to GET /v1: what this head node can do, by name.
type Capabilities struct {
	Datacenter   string   `json:"datacenter"`
	Version      string   `json:"version"`
	Capabilities []string `json:"capabilities"`
}

// Datacenter is what "nereid datacenter show" prints.
type Datacenter struct {
	Name       string       `json:"name"`
	DNSDomain  string       `json:"dns_domain"`
	Version    string       `json:"version"`
	CASHA256   string       `json:"ca_sha256"`
	Admin      AdminNetwork `json:"admin"`
	Servers    int          `json:"servers"`
	Platforms  int          `json:"platforms"`
	Default    string       `json:"default_platform,omitempty"`
	AddressCap int          `json:"addresses_total" doc:"size of the admin range"`
	AddressUse int          `json:"addresses_used"`
	Alerts     []string     `json:"alerts,omitempty"`
}

// AdminNetwork is the network servers boot from.
type AdminNetwork struct {
	Interface string   `json:"interface"`
	Address   string   `json:"address" doc:"the head node's own, with prefix length"`
	Range     []string `json:"range" doc:"first and last address for servers"`
	Gateway   string   `json:"gateway,omitempty"`
	DNS       []string `json:"dns,omitempty"`
	NTP       []string `json:"ntp,omitempty"`
	Lease     string   `json:"lease"`
	Clients   string   `json:"clients" enum:"pxe,all"`
}

// Token is an operator's token. Secret is there only in the answer to its creation.
type Token struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
	Used    *time.Time `json:"used,omitempty"`
	Scope   Scope      `json:"scope"`
	Secret  string     `json:"secret,omitempty"`
}

// TokenCreate asks for an operator's token.
type TokenCreate struct {
	Name string `json:"name" minLength:"1" maxLength:"64"`
	TTL  string `json:"ttl,omitempty" doc:"Go duration, as 720h; empty: no end"`

	Scope Scope `json:"scope,omitempty" enum:",read,operate,admin" doc:"what it allows; empty: admin"`
}

// Scope is what a token allows. Each has what those before it have.
type Scope string

// Scopes of tokens.
const (
	ScopeRead    Scope = "read"    // to look at everything but secrets
	ScopeOperate Scope = "operate" // to make, change, enter and delete instances
	ScopeAdmin   Scope = "admin"   // everything
)

// Allows says whether a token of this scope may do what needs another. A token of
// before there were scopes has none, and may do everything.
func (s Scope) Allows(need Scope) bool {
	return s == "" || s == ScopeAdmin || s == need || s == ScopeOperate && need == ScopeRead
}

// ServerUpdate changes a server; absent fields stay.
type ServerUpdate struct {
	Hostname *string `json:"hostname,omitempty"`
	Platform *string `json:"platform,omitempty" doc:"stamp to assign; empty: the default"`

	Rack     *string            `json:"rack,omitempty" doc:"where it is, for placement; empty: nowhere in particular"`
	Traits   *map[string]string `json:"traits,omitempty" doc:"what packages may ask of it, as a whole"`
	Reserved *bool              `json:"reserved,omitempty" doc:"new instances stay away unless they name it"`
}

// ServerReset confirms a factory reset.
type ServerReset struct {
	Hostname string `json:"hostname" doc:"the server's hostname, typed as confirmation"`
}

// Kinds of events that are no things.
const (
	EventReset = "reset" // events were missed: read anew what you look at
	EventSet   = "set"   // a set of the journal changed; only for who asks for kind=set or for a set
)

// Event is one message of GET /v1/events. It says what to read again. Of what
// networks are made of the kind is the thing's name: nic_tag, network, nic, bond ...
type Event struct {
	ID     string    `json:"id,omitempty" doc:"what Last-Event-ID, or ?since=, names to go on behind it"`
	Time   time.Time `json:"time,omitzero" doc:"when the change had been made"`
	Kind   string    `json:"kind" doc:"server, boot, platform, reset, set, or what Path names: nic_tag, network, nic, firewall_rule ..."`
	Server string    `json:"server,omitempty" doc:"UUID of the server that it is about"`
	Owner  string    `json:"owner_uuid,omitempty" doc:"account that it is about"`
	Name   string    `json:"name,omitempty" doc:"hostname of a server, id of a boot, or what an object is called in its list"`
	Path   string    `json:"path,omitempty" doc:"of the object that changed or is gone, or of the list that a new one is in"`
	Set    string    `json:"set,omitempty" doc:"set of the journal that changed"`
}
