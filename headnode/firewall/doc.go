// Package firewall keeps the firewall's rules and says what they mean: for the
// operator who writes one (Parse, Format), for a server that must obey them (Publish,
// Move), and for whoever asks about one packet (Resolver, Decide).
//
// The language is Triton's FWRULE, versions 1 to 4:
//
//	rule      = "FROM" targets "TO" targets action protocol [ "PRIORITY" 0-100 ]
//	targets   = "ANY" | "(" "ANY" ")" | "ALL" "VMS" | "(" "ALL" "VMS" ")"
//	          | target | "(" target { "OR" target } ")"
//	target    = "IP" address | "SUBNET" cidr | "VM" uuid | "TAG" name [ "=" name ]
//	action    = "ALLOW" | "BLOCK"
//	protocol  = ( "TCP" | "UDP" ) ports | ( "ICMP" | "ICMP6" ) types | "AH" | "ESP"
//	ports     = all-ports | "(" all-ports ")" | port | "(" port { "AND" port } ")"
//	          | "PORTS" range { "," range }
//	all-ports = ( "PORT" | "PORTS" ) "ALL"
//	port      = "PORT" 1-65535
//	range     = 1-65535 [ "-" 1-65535 ]
//	types     = all-types | "(" all-types ")" | type | "(" type { "AND" type } ")"
//	all-types = "TYPE" "ALL"
//	type      = "TYPE" 0-255 [ "CODE" 0-255 ]
//	name      = 1 or more of a-z, A-Z, 0-9, "_" and "-", no keyword | string
//	string    = double quotes around characters and escapes:
//	            \" \\ \/ \( \) \b \f \n \r \t \uHHHH (UTF-16, as JSON has it)
//
// Keywords and UUIDs are written in any case; white space, line ends among it,
// separates words. MaxText, MaxTargets, MaxItems and MaxName bound a rule.
//
// A rule is about instances: one side at least names a tag, a VM or all VMs.
// These mean instances of the rule's owner; on a global rule, of everybody. FROM
// x TO y is about packets that open a connection: to instances of y when the peer
// is in x (direction in), and from instances of x when the peer is in y
// (direction out). Addresses name peers only, also where the address is an
// instance's.
//
// With no rule, what comes in is blocked and what goes out is allowed. Of the
// rules that match a packet the one with the highest priority decides; where an
// ALLOW and a BLOCK are equal, ALLOW does inwards and BLOCK outwards.
//
// Servers follow sets of the journal: the enabled rules of an owner, and the global ones
// (api.RuleSet), and for each tag, VM or all VMs that a rule names as peers the addresses
// of these instances. Publish brings them up to date with a change of a rule, Move with one
// of a NIC.
//
// Keys (all below "firewall/"): rule/UUID holds the rule, owner/OWNER/UUID and
// global/UUID order them, count/OWNER and count/global say how many there are.
// named/SET counts the rules that name a set of addresses; published is there once the
// rules of an older head node are in the journal.
package firewall
