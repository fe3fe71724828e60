// Package fabric joins servers by VXLAN and proves with packets who reaches whom:
// fabrics of two accounts with the same subnets, the firewall, moves, NAT, a gateway
// server that fails, a head node that is away. The servers are two in QEMU (vm tier),
// and four whole ones in namespaces (netns tier).
package fabric
