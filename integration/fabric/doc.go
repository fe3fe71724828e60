// Package fabric joins real servers in QEMU by VXLAN and proves with packets who
// reaches whom: fabrics of two accounts with the same subnets, the firewall, moves,
// a head node that is away.
package fabric
