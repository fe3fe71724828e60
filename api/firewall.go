package api

import "time"

// FirewallRule is a rule of an account, or of all. With the firewall on and no
// rule, a NIC takes nothing in and lets everything out.
type FirewallRule struct {
	UUID        string    `json:"uuid"`
	Rule        string    `json:"rule" doc:"FROM ... TO ... ALLOW|BLOCK ..., in canonical form once stored"`
	Enabled     bool      `json:"enabled"`
	Owner       string    `json:"owner_uuid,omitempty" doc:"account whose instances it is about; absent on a global rule"`
	Global      bool      `json:"global,omitempty" doc:"about all instances"`
	Log         bool      `json:"log,omitempty" doc:"packets it decides about that open a connection are logged"`
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created,omitzero"`
	Revision    string    `json:"revision,omitempty" doc:"ETag"`
}

// FirewallRuleUpdate changes a rule; absent fields stay.
type FirewallRuleUpdate struct {
	Rule        *string `json:"rule,omitempty"`
	Enabled     *bool   `json:"enabled,omitempty"`
	Log         *bool   `json:"log,omitempty"`
	Description *string `json:"description,omitempty"`
}

// ParsedRule is a rule as parsed.
type ParsedRule struct {
	From     []RuleTarget `json:"from"`
	To       []RuleTarget `json:"to"`
	Action   string       `json:"action" enum:"allow,block"`
	Protocol string       `json:"protocol" enum:"tcp,udp,icmp,icmp6,ah,esp"`
	Ports    []PortRange  `json:"ports,omitempty" doc:"tcp and udp: sorted, not overlapping"`
	Types    []ICMPType   `json:"types,omitempty" doc:"icmp and icmp6; empty: all"`
	Priority int          `json:"priority" doc:"0 to 100; the greater decides"`
}

// Kinds of a RuleTarget.
const (
	TargetAny    = "any"     // every address
	TargetAllVMs = "all_vms" // every instance of the rule's owner; of a global rule, every instance
	TargetIP     = "ip"
	TargetSubnet = "subnet"
	TargetVM     = "vm"
	TargetTag    = "tag"
)

// RuleTarget is one side, or a part of one side, of a rule.
type RuleTarget struct {
	Kind     string  `json:"kind" enum:"any,all_vms,ip,subnet,vm,tag"`
	Value    string  `json:"value,omitempty" doc:"address, CIDR, instance UUID or tag name"`
	TagValue *string `json:"tag_value,omitempty" doc:"tag: absent means any value"`
}

// PortRange is First to Last, both included; 1 to 65535 is PORT ALL.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// ICMPType is a type, and a code unless all codes are meant (RFC 792, RFC 4443).
type ICMPType struct {
	Type uint8  `json:"type"`
	Code *uint8 `json:"code,omitempty"`
}

// RuleSpec is an enabled rule as servers follow it: see RuleSet.
type RuleSpec struct {
	UUID string `json:"uuid"`
	ParsedRule
	Log       bool        `json:"log,omitempty"`
	FromPeers []RulePeers `json:"from_peers,omitempty" doc:"what From comes to, but for any; absent where To names no instances"`
	ToPeers   []RulePeers `json:"to_peers,omitempty" doc:"what To comes to, but for any; absent where From names no instances"`
}

// RulePeers are addresses and CIDRs that a side of a rule names, under the name that an
// AddressSet has: Members, or what the set says that servers follow. Its values are the
// keys, as JSON strings: MemberKeys.
type RulePeers struct {
	Name    string   `json:"name"`
	Set     string   `json:"set,omitempty" doc:"an AccountSet; empty: Members"`
	Members []string `json:"members,omitempty"`
}

// MemberKey is the key of a NIC's address in the sets that it is a member of.
func MemberKey(ip, mac string) string { return ip + "/" + mac }

// FirewallSpec is what one server's firewall does: the rules that concern its
// ports, with tags and instances resolved to addresses.
type FirewallSpec struct {
	Sets  []AddressSet    `json:"sets,omitempty" doc:"addresses that rules name, each set once"`
	Rules []FirewallEntry `json:"rules,omitempty"`
}

// AddressSet is a list of addresses and CIDRs with a name.
type AddressSet struct {
	Name    string   `json:"name" doc:"^[a-z0-9_]{1,31}$"`
	Members []string `json:"members" doc:"addresses and CIDRs of both families; may overlap"`
}

// FirewallEntry is one rule in one direction. It concerns Ports; Peers are the
// other side.
type FirewallEntry struct {
	Rule      string      `json:"rule" doc:"UUID of the FirewallRule"`
	Direction string      `json:"direction" enum:"in,out" doc:"in: to the ports. out: from them"`
	Ports     []string    `json:"ports" doc:"MACs of PortSpecs of this server"`
	Peers     []string    `json:"peers,omitempty" doc:"names of AddressSets; empty: every address"`
	Action    string      `json:"action" enum:"allow,block"`
	Protocol  string      `json:"protocol" enum:"tcp,udp,icmp,icmp6,ah,esp"`
	Dst       []PortRange `json:"dst_ports,omitempty"`
	Types     []ICMPType  `json:"types,omitempty"`
	Priority  int         `json:"priority"`
	Log       bool        `json:"log,omitempty"`
}
