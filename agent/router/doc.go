// Package router makes the distributed gateway of fabric networks: on each
// server one network namespace per account, so that accounts with the same
// subnets never meet.
//
// # A router
//
// Routers.Apply makes what api.RouterSpec says, and removes what it made before
// and the spec no longer has. A router's namespace nr-<owner> has a leg (veth) on
// the bridge of each of its VNIs, with the gateway addresses and the gateway's
// MAC, both the same on every server that has the router:
//
//	instance -- vb100 -- vr... | v100-0001  nr-aaaaaaaa  v200-0001 | vr... -- vb200 -- vx200 -- other server
//
// So a packet between two networks is routed where it is sent, and the answer
// where that is sent: each server sees one direction. What stays inside the
// account is therefore not tracked by conntrack, and reverse path filters are
// off.
//
// A leg's port does not learn and gets no unknown unicast, but broadcast and
// multicast: the router itself answers ARP and neighbour solicitations for the
// gateway. The bridge (net/bridge/br_arp_nd_proxy.c) cannot do it for both families:
//
//   - It does not answer what comes in by a port with neigh_suppress. With it on the
//     leg's port the router could not resolve what is behind the VXLAN device.
//   - To a port with proxy_arp_wifi it does not pass on what is for a neighbour that
//     it knows, although it answers for that port in IPv4 only.
//
// The gateway's permanent neighbour entries on the bridge keep these questions from
// leaving by the VXLAN device, which has neigh_suppress, and the static forwarding
// entry of the gateway's MAC keeps it from moving there.
//
// # The Internet
//
// Where the server provides the external NIC tag, all routers share the external
// address. Connection tracking is per network namespace, and so is its limit
// (nf_conntrack_max entries each): the state of all NAT is in the account's own
// namespace, and what they share has none:
//
//	nr-aaaaaaaa ext | vr...  nr-external-<tag>-<vlan>  up | vr... -- bridge of the tag
//	SNAT to the external address,  finds the router by
//	ports of a block of its own    destination port, no conntrack
//
// Each router has a block of 64 to 1024 ports of 32768 to 65535 for what goes
// out (RFC 7422 calls this deterministic NAT), and forwarded ports are below that. The
// namespace in between routes what comes back by the port, ICMP errors by the
// port in the packet they quote. So an account that fills its connection table,
// or takes all ports towards one destination, hurts no other. An external address
// serves about 160 accounts. The link between the two namespaces has no addresses but
// fe80::1 and fe80::2; IPv4 uses these as next hops too (RFC 5549), so that no
// subnet is taken away from anybody. IPv6 is translated in the same way (NAT66)
// when the external address is an IPv6 address.
//
// Where the server does not provide the tag, the router sends by the transit VNI
// to one of the gateway servers, from its transit address; Monitor sees which of
// these answer. A connection that comes in by a forward is given the gateway
// server's transit address as its source before it goes to the instance, when
// there is one, so that the answer finds the way back to that server from any
// other.
//
// NAT is for the family of the external (or transit) address; a RouterSpec has one.
//
// Only networks with internet_nat get out, and never to the admin network, the
// underlay or private addresses other than the external network's own.
package router
