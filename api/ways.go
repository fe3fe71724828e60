package api

// NetworkSet names the set of the networks of an account's fabrics: AccountNetworks, by
// UUID. Servers follow it that have a router of the account.
func NetworkSet(owner string) string { return AccountSet(owner, "networks") }

// AccountNetwork is a network of an account's fabrics, with its gateway; without a
// gateway nothing is routed.
type AccountNetwork struct {
	UUID string `json:"uuid"`
	MTU  int    `json:"mtu"`
	RouterNetwork
}

// NATSet names the set of the ways by which an account reaches what is outside, and is
// reached: AccountNATs, by UUID. Servers follow it that have a router of the account.
func NATSet(owner string) string { return AccountSet(owner, "nat") }

// GatewaysKey is the UUID of the AccountNAT that has the account's gateway servers; the
// others have a port forward each.
const GatewaysKey = "gateways"

// AccountNAT is a part of an account's NAT.
type AccountNAT struct {
	UUID     string       `json:"uuid" doc:"of the port forward; gateways: it has the gateway servers"`
	VNI      uint32       `json:"vni,omitempty" doc:"transit VNI between this account's routers and its gateway servers"`
	Gateways []Gateway    `json:"gateways,omitempty" doc:"best first"`
	Forward  *ForwardSpec `json:"forward,omitempty"`
}

// Gateway is a server that other servers' routers of an account go out by.
type Gateway struct {
	Server  string `json:"server_uuid"`
	Address string `json:"address" doc:"on transit VNIs"`
}

// ForwardSpec is a port forward as gateway servers do it, each at its own external
// address.
type ForwardSpec struct {
	Protocol string `json:"protocol" enum:"tcp,udp"`
	Port     uint16 `json:"port"`
	Internal string `json:"internal" doc:"address and port on a network of the account"`
}

// ServerNATSet names the set of what a server has to do with NAT: ServerNATs, by UUID. It
// has no data of its own: a snapshot replaces what was known. An agent that does not follow
// it takes its routers from the spec, which has none any more.
func ServerNATSet(server string) string { return "server/" + server + "/nat" }

// SelfKey is the UUID of the ServerNAT that is about the server itself; the others name
// the accounts that it is a gateway of.
const SelfKey = "self"

// ServerNAT is a part of what a server has to do with NAT.
type ServerNAT struct {
	UUID     string    `json:"uuid" doc:"of an account that the server is a gateway of; self: of the server"`
	Transit  string    `json:"transit,omitempty" doc:"self: its routers' address on transit VNIs, with prefix length"`
	External *External `json:"external,omitempty" doc:"self: it does NAT; absent: its routers go out by gateway servers"`
}

// External is how a server that does NAT reaches what is outside. Without an address it
// would do NAT, and cannot.
type External struct {
	Tag     string `json:"nic_tag,omitempty"`
	VLAN    int    `json:"vlan_id,omitempty"`
	Address string `json:"address,omitempty" doc:"with prefix length"`
	Gateway string `json:"gateway,omitempty"`
}
