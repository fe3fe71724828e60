package api

import "time"

// NICTag names a layer-2 segment. Physical NICs and bonds of servers provide it;
// networks, and by them NICs, use it.
type NICTag struct {
	Name        string `json:"name" doc:"1 to 31 characters of a-z, A-Z, 0-9 and _"`
	MTU         int    `json:"mtu,omitempty" doc:"1500 to 9000; 0: 1500. admin is always 1500"`
	Description string `json:"description,omitempty"`
	Revision    string `json:"revision,omitempty" doc:"ETag"`
}

// Network is one IPv4 or IPv6 subnet on a NIC tag and VLAN, or on a fabric VLAN.
type Network struct {
	UUID           string            `json:"uuid"`
	Name           string            `json:"name" doc:"unique in the datacenter; of a fabric network, unique for its owner"`
	Family         string            `json:"family,omitempty" enum:"ipv4,ipv6" doc:"of the subnet; read-only"`
	NICTag         string            `json:"nic_tag,omitempty" doc:"absent on a fabric network"`
	VLAN           int               `json:"vlan_id" doc:"0 (untagged), 2 to 4094; of a fabric network, the VLAN of its owner's fabric"`
	Subnet         string            `json:"subnet" doc:"CIDR, host bits zero"`
	ProvisionStart string            `json:"provision_start_ip" doc:"first address that may be given out; empty: the first host of the subnet"`
	ProvisionEnd   string            `json:"provision_end_ip" doc:"last one; empty: the last host of the subnet"`
	Gateway        string            `json:"gateway,omitempty"`
	Resolvers      []string          `json:"resolvers,omitempty"`
	Routes         map[string]string `json:"routes,omitempty" doc:"CIDR to next hop, an address in the subnet"`
	Owners         []string          `json:"owner_uuids,omitempty" doc:"accounts that may use it; empty: all"`
	MTU            int               `json:"mtu,omitempty" doc:"576 to 9000 (1280 for IPv6), at most the NIC tag's; 0: the tag's, or the overlay's"`
	Description    string            `json:"description,omitempty"`
	Fabric         bool              `json:"fabric,omitempty"`
	VNI            uint32            `json:"vni,omitempty" doc:"VXLAN network identifier (RFC 7348), 24 bit; read-only"`
	InternetNAT    bool              `json:"internet_nat,omitempty" doc:"fabric networks with a gateway: addresses outside are reached by NAT"`
	Revision       string            `json:"revision,omitempty" doc:"ETag"`
}

// NetworkUpdate changes what may be changed of a network; absent fields stay.
type NetworkUpdate struct {
	Name           *string            `json:"name,omitempty"`
	ProvisionStart *string            `json:"provision_start_ip,omitempty"`
	ProvisionEnd   *string            `json:"provision_end_ip,omitempty"`
	Gateway        *string            `json:"gateway,omitempty" doc:"empty: none"`
	Resolvers      *[]string          `json:"resolvers,omitempty"`
	Routes         *map[string]string `json:"routes,omitempty"`
	Owners         *[]string          `json:"owner_uuids,omitempty"`
	MTU            *int               `json:"mtu,omitempty"`
	Description    *string            `json:"description,omitempty"`
	InternetNAT    *bool              `json:"internet_nat,omitempty"`
}

// NICTagUpdate changes a NIC tag; absent fields stay.
type NICTagUpdate struct {
	MTU         *int    `json:"mtu,omitempty"`
	Description *string `json:"description,omitempty"`
}

// NetworkPool is an ordered list of networks of one family: the first with a free
// address is taken.
type NetworkPool struct {
	UUID        string   `json:"uuid"`
	Name        string   `json:"name"`
	Networks    []string `json:"networks" doc:"UUIDs, in the order in which they are tried"`
	Owners      []string `json:"owner_uuids,omitempty"`
	Family      string   `json:"family,omitempty" enum:"ipv4,ipv6" doc:"read-only"`
	NICTags     []string `json:"nic_tags_present,omitempty" doc:"tags of its networks; read-only. A server gets an address of a network whose tag it provides"`
	Description string   `json:"description,omitempty"`
	Revision    string   `json:"revision,omitempty" doc:"ETag"`
}

// NetworkPoolUpdate changes a pool; absent fields stay.
type NetworkPoolUpdate struct {
	Name        *string   `json:"name,omitempty"`
	Networks    *[]string `json:"networks,omitempty"`
	Owners      *[]string `json:"owner_uuids,omitempty"`
	Description *string   `json:"description,omitempty"`
}

// Bond is an aggregation of physical NICs of one server.
type Bond struct {
	Server   string   `json:"server" doc:"UUID"`
	Name     string   `json:"name" doc:"1 to 15 characters of a-z and 0-9, unique on the server"`
	MACs     []string `json:"macs" doc:"1 to 16 physical NICs; the first gives the bond its MAC"`
	Mode     string   `json:"mode" enum:"active-backup,802.3ad"`
	LACPRate string   `json:"lacp_rate,omitempty" enum:"slow,fast" doc:"802.3ad only; empty: slow"`
	NICTags  []string `json:"nic_tags_provided,omitempty"`
	Revision string   `json:"revision,omitempty" doc:"ETag"`
}

// NICTagUse says which NIC tags a physical NIC of a server provides.
type NICTagUse struct {
	MAC     string   `json:"mac"`
	NICTags []string `json:"nic_tags_provided"`
}

// What a NetworkNIC or an address belongs to.
const (
	BelongsToZone   = "zone" // an instance
	BelongsToServer = "server"
	BelongsToOther  = "other"
)

// NetworkNIC is a NIC with addresses: of an instance, of a server (its underlay
// address), or of something else that the datacenter must know.
type NetworkNIC struct {
	MAC           string            `json:"mac" doc:"empty in a request: one is made from the datacenter's prefix"`
	Owner         string            `json:"owner_uuid"`
	BelongsTo     string            `json:"belongs_to_uuid"`
	BelongsToType string            `json:"belongs_to_type" enum:"zone,server,other"`
	Brand         string            `json:"brand,omitempty" doc:"of the instance that has it; read-only. Empty: no instance of ours has it"`
	Server        string            `json:"server,omitempty" doc:"UUID of the server it is on; empty: none yet"`
	Addresses     []NICAddress      `json:"addresses" doc:"all on one layer-2 segment; at most 16"`
	NICTag        string            `json:"nic_tag,omitempty" doc:"read-only, as vlan_id, vni and mtu: of its networks"`
	VLAN          int               `json:"vlan_id"`
	VNI           uint32            `json:"vni,omitempty"`
	MTU           int               `json:"mtu,omitempty"`
	Primary       bool              `json:"primary,omitempty"`
	Underlay      bool              `json:"underlay,omitempty" doc:"a server's address on the underlay: VXLAN packets come from and go to it"`
	State         string            `json:"state,omitempty" enum:"provisioning,stopped,running"`
	Tags          map[string]string `json:"tags,omitempty" doc:"firewall tags of what it belongs to; NICs of one instance have the same"`
	NoFirewall    bool              `json:"no_firewall,omitempty" doc:"everything may come in and go out"`
	Created       time.Time         `json:"created,omitzero"`
	Revision      string            `json:"revision,omitempty" doc:"ETag"`
	SpoofFlags
}

// NICAddress is an address of a NIC, and where it comes from.
type NICAddress struct {
	Network string `json:"network_uuid" doc:"in a request also a network's name, or a pool's UUID or name"`
	IP      string `json:"ip,omitempty" doc:"empty in a request: a free one is chosen"`
}

// SpoofFlags lift, one by one, the limits on what a NIC may send. Without them it
// sends from its own MAC and addresses, serves no DHCP, advertises no router, and
// speaks IPv4, ARP and IPv6 only (Triton's flags).
type SpoofFlags struct {
	AllowIPSpoofing        bool     `json:"allow_ip_spoofing,omitempty"`
	AllowMACSpoofing       bool     `json:"allow_mac_spoofing,omitempty"`
	AllowDHCPSpoofing      bool     `json:"allow_dhcp_spoofing,omitempty" doc:"DHCP server, DHCPv6 server and router advertisements"`
	AllowRestrictedTraffic bool     `json:"allow_restricted_traffic,omitempty" doc:"other EtherTypes than IPv4, ARP and IPv6"`
	AllowedIPs             []string `json:"allowed_ips,omitempty" doc:"further addresses or CIDRs that it may send from; at most 64"`
}

// NICUpdate changes a NIC; absent fields stay.
type NICUpdate struct {
	Owner      *string            `json:"owner_uuid,omitempty"`
	BelongsTo  *string            `json:"belongs_to_uuid,omitempty"`
	Server     *string            `json:"server,omitempty" doc:"moves the NIC to another server, with its addresses"`
	Primary    *bool              `json:"primary,omitempty"`
	State      *string            `json:"state,omitempty"`
	Tags       *map[string]string `json:"tags,omitempty" doc:"as a whole"`
	NoFirewall *bool              `json:"no_firewall,omitempty"`
	Flags      *SpoofFlags        `json:"flags,omitempty" doc:"all five, as a whole"`
}

// IPAddress is what is known of one address of a network.
type IPAddress struct {
	IP            string    `json:"ip"`
	Network       string    `json:"network_uuid"`
	Free          bool      `json:"free" doc:"may be given out"`
	Reserved      bool      `json:"reserved,omitempty" doc:"given out only to those who name it; keeps its owner when the NIC goes"`
	Owner         string    `json:"owner_uuid,omitempty"`
	BelongsTo     string    `json:"belongs_to_uuid,omitempty"`
	BelongsToType string    `json:"belongs_to_type,omitempty"`
	MAC           string    `json:"mac,omitempty"`
	FreedAt       time.Time `json:"freed_at,omitzero" doc:"when it was last given back, while that is remembered"`
}

// IPUpdate reserves an address, or ends that.
type IPUpdate struct {
	Reserved *bool   `json:"reserved,omitempty"`
	Owner    *string `json:"owner_uuid,omitempty"`
}

// FabricSettings are of the whole datacenter.
type FabricSettings struct {
	UnderlayTag string `json:"underlay_nic_tag,omitempty" doc:"NIC tag that carries VXLAN; empty: there are no fabrics yet"`
	OverlayMTU  int    `json:"overlay_mtu,omitempty" doc:"of fabric networks; 0: what the underlay tag leaves after VXLAN's 50 bytes (70 over IPv6)"`
	NATNetwork  string `json:"nat_network,omitempty" doc:"network or pool whose addresses internet_nat uses"`
	MACPrefix   string `json:"mac_prefix,omitempty" doc:"first three bytes of the MACs that are made"`
	Revision    string `json:"revision,omitempty" doc:"ETag"`
}

// FabricVLAN is a layer-2 segment of an account's fabric. Accounts do not see each
// other's, and may use the same numbers and subnets.
type FabricVLAN struct {
	Owner       string `json:"owner_uuid"`
	VLAN        int    `json:"vlan_id" doc:"0, 2 to 4094"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	VNI         uint32 `json:"vni,omitempty" doc:"read-only; unique in the datacenter"`
	Revision    string `json:"revision,omitempty" doc:"ETag"`
}

// FabricVLANUpdate changes a fabric VLAN; absent fields stay.
type FabricVLANUpdate struct {
	Name        *string `json:"name,omitempty"`
	Description *string `json:"description,omitempty"`
}

// MapEntry says behind which underlay address an address of a fabric is.
type MapEntry struct {
	IP       string `json:"ip"`
	MAC      string `json:"mac"`
	Underlay string `json:"underlay" doc:"address of the server; VXLAN is UDP port 4789 there"`
	Version  uint64 `json:"version" doc:"of the VNI's map when this entry was made; of one address the greater wins"`
	Deleted  bool   `json:"deleted,omitempty" doc:"in a delta: the address is nowhere any more"`
}

// FabricMap is a VNI's map, or what changed in it. Versions of a VNI only grow,
// also over a restart of the head node. A follower takes the Epoch of each answer
// over, and gives it back with the version it has.
type FabricMap struct {
	VNI     uint32     `json:"vni"`
	Epoch   string     `json:"epoch"`
	Version uint64     `json:"version" doc:"what to pass as since next time"`
	Full    bool       `json:"full" doc:"a snapshot: what is not in it is gone. Otherwise a delta since the version asked for"`
	Entries []MapEntry `json:"entries"`
}

// TraceRequest asks what would become of the first packet of a connection.
type TraceRequest struct {
	Src      string `json:"src" doc:"MAC of a NIC, or one of its addresses"`
	Dst      string `json:"dst" doc:"MAC of a NIC, or any address"`
	Owner    string `json:"owner_uuid,omitempty" doc:"account, where addresses of fabrics are not unique"`
	Protocol string `json:"protocol,omitempty" enum:",tcp,udp,icmp,icmp6" doc:"empty: icmp, or icmp6 for IPv6"`
	Port     uint16 `json:"port,omitempty" doc:"tcp and udp: destination port"`
	Measure  bool   `json:"measure,omitempty" doc:"between two servers of a fabric, measure how large a packet gets through; takes up to 5 s"`
}

// Trace is what the head node knows of a packet's way, and what was measured of it.
type Trace struct {
	Arrives bool       `json:"arrives" doc:"nothing that the head node knows is in the way"`
	Why     string     `json:"why" doc:"what is in the way, or that nothing is"`
	MTU     int        `json:"mtu,omitempty" doc:"largest packet that the networks on the way are to carry, in bytes"`
	Carried int        `json:"measured_mtu,omitempty" doc:"largest packet, up to mtu, that was seen to get from one server to the other and back; absent: not measured"`
	Hops    []TraceHop `json:"hops"`
}

// TraceHop is one place a packet passes.
type TraceHop struct {
	Where   string `json:"where" doc:"server's hostname"`
	What    string `json:"what" doc:"nic, firewall, router, map, underlay, nat"`
	Detail  string `json:"detail"`
	Blocked bool   `json:"blocked,omitempty" doc:"it ends here"`
}
