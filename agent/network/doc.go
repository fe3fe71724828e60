// Package network makes one server's network as its spec says: bonds, NIC tags,
// VLANs, bridges, the underlay, VXLAN segments and instances' NICs.
//
//	spec ──> plan(spec, state) ──> steps ──> System.Do ──> kernel
//	              ^                                          │
//	              └────────── System.Read (dumps) <──────────┘
//
// Apply makes all of a spec. SetPort and DropPort make one instance's NIC, from the
// spec of this one and from what is in memory of its link (seen.go): what the last Read
// said, and since then what Watch is told and what is done here. So one NIC costs the
// same beside 2,000 as beside 2, and its failure is its own.
//
//	SetPort ──> planPort(port, bridge, link) ──> steps ──> System.Do ──> kernel
//	   ^                        memory <── link's events and System.Read(name) ──┘
//	   └── Disturbed <── Watch, Apply
//
// Who makes what: bonds, NIC tags, the underlay, VNIs and bridges are infrastructure.
// A port that finds none of its own has it made, by an Apply of the last spec; what no
// port stands on any more Watch removes, by another. Ports that were set are changed by
// SetPort alone: Apply and Watch say which of them want it.
//
// Facts to know before changing it:
//
//   - A plan is a pure function of the spec and of what three netlink dumps say is
//     there. Every step is safe to stop after: the next plan does what is left.
//   - Absence removes no NIC of an instance: only a spec that names it as gone does.
//     One that the spec does not name stays connected as it is, and is reported.
//   - What was made here says so in its ifalias. Only that is ever removed. Other
//     links are used as the spec says (a NIC is put into a bridge) and never deleted;
//     a foreign link with a name that is needed is a problem, not an obstacle to be
//     cleared away. Addresses and routes made here carry Protocol.
//   - In a VNI nothing is learnt and nothing unknown is sent. Forwarding entries and
//     neighbours come from the map (RFC 7348 without its multicast part). ARP and
//     neighbour discovery for what is elsewhere are answered by the bridge
//     (neigh_suppress on the VXLAN port), ARP for what is here too (proxy_arp_wifi
//     on instances' ports). Neighbour solicitations for what is here are flooded
//     to instances' ports of the same VNI on this server, and answered by their
//     owner: net/bridge/br_arp_nd_proxy.c answers only for ports that themselves
//     have neigh_suppress, and never to such a port.
//   - The host has no IP on bridges that are not its own: no link-local address,
//     no router advertisements, ARP is not answered (arp_ignore 8) and strict
//     reverse path filtering drops IPv4. IPv6 must stay enabled on a VNI's bridge,
//     because its neighbour table answers; the firewall has to drop what comes in
//     there for the host.
//   - An entry costs no request of its own: batches of messages go to the kernel in
//     one sendmsg, and one acknowledgement ends each (see batch_linux.go).
//   - A change that touches the way to the head node is written to a file first and
//     undone unless the head node answers after it (see guard.go).
package network
