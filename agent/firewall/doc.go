// Package firewall keeps what instances may send and receive: anti-spoofing of every
// NIC at the NIC, the firewall of those that have one at the bridge, and what may reach
// the server from VXLAN's port, all in nf_tables.
//
//	ports, rules, options ─> parseInput ─> spec ─> build ─> ruleset ─> difference ─> transaction ─> kernel
//	                                                 │
//	             guard.go: who sends it   judge.go, track.go: may it pass   compile.go: sets from rules
//	  owners.go: whose rules wait
//	one port ─> state.plan ─> transaction (port.go), or all of this
//
// Everything up to the transaction is a pure function. The ruleset is chains of
// expressions, of which a port has one short chain of its own and all have the rest
// in common, and elements of sets, which are most of what a change changes.
//
// # One port
//
// SetPort and DropPort change one port's chain and elements in what Apply left (state.go),
// in place, and send just that. Bridges' elements are counted by the ports that want
// them. Ports with the same rules are a group with a number that stays when ports come
// and go: a port joins its group by one element in each direction. Rules that no other
// port here has, or had, make or end a group; then the groups are compiled anew, of which
// there are as many as there are different lists of rules, and the difference is sent.
// It is an Apply when the program itself changes: with the first or the last port that
// has a firewall, or where an address set that others use has other members; and for
// accounts whose rules cannot be made. That the result is what Apply gives is what
// TestPortsEqualApply shows.
//
// What is there of each chain is known by a digest, read back after it was sent, so that
// VerifyOrRepair knows all and a change reads no more than itself.
//
// # The edge
//
// Transactions are netlink messages, not text for nft -f, for three reasons. A rule
// can keep the results of maps in registers and look them up together, which is what
// makes the cost of a packet independent of the number of rules; nft's language has no
// such thing. A change is as small as it is: nft reads the sets it adds to before it
// adds. And the number of a transaction can be asked for, so that it costs nothing to
// know that nobody touched our tables (VerifyOrRepair). The messages are encoded here
// because github.com/google/nftables v0.3.0 cannot ask for addresses of a connection
// in the bridge family (NFT_CT_SRC_IP with a direction), has each message of a batch
// acknowledged, and does not say which of them failed. nft list ruleset shows all of
// it; rules that nft cannot show well carry a comment.
//
// # Anti-spoofing
//
// It is at the netdev family's ingress hook of each port: before a bridge learns a
// sender or answers it, before connection tracking, and only for what ports send.
// In the bridge family's prerouting hook, what arrives from other servers would pay
// for it as well, and together it would be three times as much.
//
// A chain at ingress goes with its interface, and before Linux 6.16 cannot be made
// without. So Apply makes the chains of interfaces that are there, and who makes a port
// calls Protect before a bridge has it; without Protect's success it stays outside.
//
// A port sends from its MAC; from its addresses and allowed_ips, in IPv4, ARP and
// IPv6; from 0.0.0.0 as a DHCP client and in ARP probes; from :: what RFC 4862 needs.
//
// Of link-local addresses it has one, that made from its MAC (RFC 4291, appendix A).
// If any were allowed, a port could answer for the router's. A system that makes its
// link-local address otherwise (RFC 7217) needs it in allowed_ips.
//
// Neighbour discovery has at most one option, the port's own link-layer address (or a
// nonce in solicitations), and no extension header: nf_tables cannot walk a list.
// Advertisements are for the port's own addresses.
//
// # The firewall
//
// Ports with the same rules are a group, and addresses in the same sets have the same
// pattern. compiler has the maps that lead from interface, address, protocol and port
// to an outcome. Single addresses and ports are in hash tables; CIDRs and ranges of
// ports in trees, whose cost is the logarithm of their number. The tables grow with
// the members of sets once, not once for each rule or port, and with the different
// things that groups do about patterns. Rules that would make more than 1,048,576
// elements are refused, and the error names the one most is due to.
//
// Rules that are refused, for that or because they cannot be read, are refused for
// the owner of their ports only (owners.go): that owner's ports keep the rules in
// force, or are closed when they had none.
//
// ARP and neighbour discovery always pass, being judged by anti-spoofing; other
// EtherTypes reach a port only if it may itself send them. Protocols that no rule can
// name are decided by default. In IPv6 AH is an extension header, for the kernel too:
// what it protects is judged, and a rule about AH matches nothing.
//
// Connections are tracked in one zone per bridge, so that accounts with the same
// addresses never share an entry. Which packet of a connection it is does not matter:
// judged is always the packet that opened it, as tracking remembers it (ct original).
//
// # After a change
//
// A connection that passed is stamped with the generation of the rules (ct mark), and
// as long as that is the current one, its packets pass on that alone. A change of the
// rules is a new generation in the same transaction. So every connection is judged
// once more by its next packet from either side, and one that is now blocked stops at
// once. Deleting entries from the table of connections instead would not do that: the
// next packet of a blocked connection may be the instance's answer, which would open
// it anew as an outgoing one, allowed by default and with it all that comes back. It
// would also be a second step that can fail after the first.
//
// The generation that a packet is judged under travels in its own mark (skb->mark)
// from before the judging to the stamp, where it is set to 0.
//
// # What must be so around it
//
//   - Kernel: Linux 6.3 or later with nf_tables, its netdev family (NETFILTER_INGRESS),
//     nft_ct, nf_conntrack_bridge and nft_meta_bridge. Without these the transaction is
//     refused, and no rules are in force.
//   - net.bridge.bridge-nf-call-iptables, -ip6tables and -arptables are 0 where
//     br_netfilter is loaded; it would track bridged packets once more, without zones,
//     and show them to rules that were made for the host. Apply and VerifyOrRepair see
//     to that.
//   - A full table of connections drops new ones (nf_conntrack_max); traffic of fabric
//     ports without a firewall is not tracked and cannot fill it.
package firewall
