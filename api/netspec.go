package api

// NetworkSpec is a server's network but for its admin address, which comes from
// its boot. It is whole: applying it twice does the same as applying it once.
//
// What it says of NIC tags, bonds, VNIs and routers is all of them. A head node sends NIC
// tags, bonds and the underlay; the rest is filled in by the agent, from the sets that it
// follows. An instance's NIC is removed only when Gone names it: one that is in neither
// list stays as it is, with all that it needs, and is reported. What the agent did not make
// is left alone.
type NetworkSpec struct {
	Bonds    []BondSpec    `json:"bonds,omitempty"`
	Tags     []TagSpec     `json:"nic_tags,omitempty" doc:"NIC tags this server provides"`
	Underlay *UnderlaySpec `json:"underlay,omitempty" doc:"absent: no VNIs here"`
	VNIs     []VNISpec     `json:"vnis,omitempty" doc:"VNIs that have a port or a router here; a head node sends none"`
	Routers  []RouterSpec  `json:"routers,omitempty" doc:"one for each account with a gateway here; a head node sends none"`
	Ports    []PortSpec    `json:"ports,omitempty" doc:"instances' NICs; a head node sends none"`
	Firewall FirewallSpec  `json:"firewall,omitzero" doc:"a head node sends none"`
	Gone     []GoneNIC     `json:"gone,omitempty" doc:"NICs to be removed; a head node sends none"`
	Kept     *Kept         `json:"kept,omitempty" doc:"the agent's own note; a head node sends none"`
	PortsAt  string        `json:"ports_at,omitempty" doc:"epoch:version of the set that Ports and Gone are from; the agent's own note"`
	SetsAt   string        `json:"sets_at,omitempty" doc:"Versions of the accounts' sets that Firewall and Routers are from; the agent's own note"`
}

// GoneNIC is an instance's NIC that was on a server and is to be there no more.
type GoneNIC struct {
	ID       string `json:"id" doc:"of this removal"`
	MAC      string `json:"mac"`
	Instance string `json:"instance" doc:"a NIC of another instance with this MAC stays"`
}

// Kept is what an agent adds to a spec that it was sent: NICs that it was told of
// before and not told to remove, and what they need.
type Kept struct {
	NICs []string `json:"nics" doc:"MACs of Ports"`
	VNIs []uint32 `json:"vnis,omitempty"`
}

// UnexpectedNIC is an instance's NIC that is on a server, although the spec names it
// neither among its ports nor among those that are gone.
type UnexpectedNIC struct {
	MAC       string   `json:"mac"`
	Instance  string   `json:"instance"`
	Owner     string   `json:"owner_uuid,omitempty"`
	Tag       string   `json:"nic_tag,omitempty"`
	VLAN      int      `json:"vlan_id,omitempty"`
	VNI       uint32   `json:"vni,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Closed    bool     `json:"closed,omitempty" doc:"the agent has lost what it was told of the NIC, which sends and takes nothing"`

	Device string `json:"-"`
	Bridge string `json:"-"` // that it is in; empty: none
}

// BondSpec is a bond of this server.
type BondSpec struct {
	Name     string   `json:"name"`
	MACs     []string `json:"macs" doc:"physical NICs; the first gives the bond its MAC"`
	Mode     string   `json:"mode" enum:"active-backup,802.3ad"`
	LACPRate string   `json:"lacp_rate,omitempty" enum:"slow,fast"`
}

// TagSpec says which interface provides a NIC tag. Exactly one of MAC and Bond.
type TagSpec struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"`
	MAC  string `json:"mac,omitempty" doc:"physical NIC"`
	Bond string `json:"bond,omitempty"`
}

// UnderlaySpec is where VXLAN packets come from and go to.
type UnderlaySpec struct {
	Tag     string   `json:"nic_tag"`
	VLAN    int      `json:"vlan_id,omitempty"`
	MTU     int      `json:"mtu"`
	Address string   `json:"address" doc:"with prefix length"`
	Gateway string   `json:"gateway,omitempty" doc:"to other racks' underlay subnets"`
	Subnets []string `json:"subnets,omitempty" doc:"all underlay subnets; VXLAN from anywhere else is dropped and counted"`
}

// VNISpec is a fabric segment that this server takes part in. Its entries are a set
// that the server follows: see MapSet.
type VNISpec struct {
	VNI   uint32 `json:"vni"`
	Owner string `json:"owner_uuid"`
	MTU   int    `json:"mtu"`
}

// RouterSpec is the distributed gateway of one account: a network namespace that
// has the gateway address of each of the account's networks, the same on every
// server.
type RouterSpec struct {
	Owner    string          `json:"owner_uuid"`
	Networks []RouterNetwork `json:"networks"`
	NAT      *NATSpec        `json:"nat,omitempty" doc:"absent: no network has internet_nat"`
}

// RouterNetwork is one network behind a router.
type RouterNetwork struct {
	VNI         uint32            `json:"vni"`
	Gateway     string            `json:"gateway" doc:"address with the subnet's prefix length"`
	MAC         string            `json:"mac" doc:"of the gateway, the same on every server"`
	InternetNAT bool              `json:"internet_nat,omitempty"`
	Routes      map[string]string `json:"routes,omitempty"`
}

// NATSpec is how a router reaches what is outside. With Tag this server does it
// itself; otherwise Via are the servers that do, the first that answers is used.
type NATSpec struct {
	Tag      string        `json:"nic_tag,omitempty" doc:"external NIC tag, provided by this server"`
	VLAN     int           `json:"vlan_id,omitempty"`
	Address  string        `json:"address,omitempty" doc:"external address with prefix length"`
	Gateway  string        `json:"gateway,omitempty"`
	VNI      uint32        `json:"vni,omitempty" doc:"transit VNI between this account's routers and its gateway servers"`
	Transit  string        `json:"transit,omitempty" doc:"this router's address on the transit VNI, with prefix length"`
	Via      []string      `json:"via,omitempty" doc:"gateway servers' addresses on the transit VNI, best first"`
	Forwards []PortForward `json:"forwards,omitempty"`
}

// PortForward sends what comes to an external address and port to an instance.
type PortForward struct {
	Protocol string `json:"protocol" enum:"tcp,udp"`
	External string `json:"external" doc:"address and port"`
	Internal string `json:"internal" doc:"address and port on a network of the account"`
}

// PortSpec is an instance's NIC on this server. It is on a NIC tag and VLAN, or on
// a VNI.
type PortSpec struct {
	MAC       string            `json:"mac"`
	Instance  string            `json:"instance" doc:"UUID of what it belongs to"`
	Owner     string            `json:"owner_uuid"`
	Brand     string            `json:"brand,omitempty" doc:"of the instance; empty: no instance of ours has the NIC, and a network namespace stands in for it"`
	Tag       string            `json:"nic_tag,omitempty"`
	VLAN      int               `json:"vlan_id,omitempty"`
	VNI       uint32            `json:"vni,omitempty"`
	MTU       int               `json:"mtu"`
	Primary   bool              `json:"primary,omitempty" doc:"its gateway is the default route"`
	Addresses []PortAddress     `json:"addresses"`
	Firewall  bool              `json:"firewall" doc:"in blocked, out allowed, but for FirewallSpec; false: no firewall"`
	Tags      map[string]string `json:"tags,omitempty" doc:"firewall tags of the instance, by which rules name it"`
	SpoofFlags
}

// PortAddress is an address of a port.
type PortAddress struct {
	Address string            `json:"address" doc:"with the subnet's prefix length"`
	Gateway string            `json:"gateway,omitempty"`
	Routes  map[string]string `json:"routes,omitempty"`
}

// NetworkReport is what the agent observed of its network.
type NetworkReport struct {
	Applied    bool              `json:"applied" doc:"all of the spec is there"`
	Problems   []string          `json:"problems,omitempty"`
	Links      []LinkReport      `json:"links,omitempty" doc:"physical NICs and bonds"`
	Maps       map[uint32]string `json:"maps,omitempty" doc:"VNI to epoch:version of the map in use"`
	Ports      string            `json:"ports,omitempty" doc:"epoch:version of the set of ports that was applied last"`
	Sets       string            `json:"sets,omitempty" doc:"Versions of the accounts' sets that were applied last"`
	Gateways   []GatewayReport   `json:"gateways,omitempty" doc:"of routers whose server does no NAT itself"`
	Unexpected []UnexpectedNIC   `json:"-"` // what Report says
	Gone       []string          `json:"-"`

	Drops map[string]uint64 `json:"drops,omitempty" doc:"packets dropped since the agent's rules were made, by the name of the rules' counter; those of routers behind router_"`
}

// GatewayReport is which of its gateway servers an account's router uses.
type GatewayReport struct {
	Owner string   `json:"owner_uuid"`
	Used  string   `json:"used" doc:"transit address of the gateway server that the default route leads to"`
	Down  []string `json:"down,omitempty" doc:"transit addresses of those that do not answer"`
}

// LinkReport is a physical NIC or bond.
type LinkReport struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Bond      string   `json:"bond,omitempty" doc:"it is a member of"`
	NICTags   []string `json:"nic_tags_provided,omitempty"`
	Up        bool     `json:"up" doc:"carrier"`
	SpeedMbps int      `json:"speed_mbps,omitempty"`
	MTU       int      `json:"mtu"`
	LACP      string   `json:"lacp,omitempty" doc:"802.3ad: collecting, waiting or down, as the partner lets it"`
	RxBytes   uint64   `json:"rx_bytes"`
	TxBytes   uint64   `json:"tx_bytes"`
	RxErrors  uint64   `json:"rx_errors,omitempty"`
	TxErrors  uint64   `json:"tx_errors,omitempty"`
	RxDropped uint64   `json:"rx_dropped,omitempty"`
	TxDropped uint64   `json:"tx_dropped,omitempty"`
}
