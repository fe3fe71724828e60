// Package fabric keeps the accounts' fabrics: their VLANs, the VNI of each, and
// the map that says behind which underlay address an address of a VNI is.
//
// # VNIs
//
// Each fabric VLAN has one VXLAN network identifier (RFC 7348, 24 bits, never 0).
// It is drawn at random, not counted: after a restore from backup a counter would
// give VNIs that servers still use to other accounts. One that was given back
// rests for Quarantine.
//
// # The map
//
// The map of a VNI is a set of package journal, which says what versions, epochs,
// deltas and snapshots are, and wakes those who follow. This package keeps the
// indexes beside it: by MAC, and by underlay address.
//
// # SmartOS
//
// Compute nodes that speak SVP (Triton's portolan protocol) ask by address and
// cache the answers. For each of them hints are kept, about what changed in the
// VNIs it is on, until it removes them. See svp.go.
//
// Keys (all below "fabric/", but for the sets "vni/<VNI>" of the journal, whose keys
// are addresses; VNIs have 6 hexadecimal digits, addresses "4" and 8 digits or "6"
// and 32):
//
//   - vlan/<owner>/<VLAN, 4 digits>, name/<owner>/<name>: VLANs, and their names
//   - vni/<VNI>, freed/<time>/<VNI>: what a VNI is used for, and which rest
//   - transit/<owner>: the VNI of an account's transit segment
//   - mac/<VNI>/<MAC>/<IP>, at/<underlay>/<VNI>/<IP>: indexes of the live entries
//   - svp/...: SmartOS nodes and what is to be told to them
package fabric
