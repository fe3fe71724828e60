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
// Every change of an address gets a version of its own, one more than the last of
// its VNI. An address is in the log once, under its newest version, and so the log
// of what lives is the map itself; only deletions are kept beside it, as many as
// there are live addresses and at least MinGone. A delta therefore has at most one
// entry per address, and is refused, with a snapshot in its place, only to those who
// missed a deletion that is forgotten.
//
// A restored backup may have versions again that agents know with another meaning.
// So the head node calls Begin at every start, and the first change of a VNI after
// that begins a new epoch. The last epochs are remembered with the version they
// ended at: who saw no more than that gets a delta (with the new epoch, which it
// takes over), who saw more, or asks for a version that is not there yet, gets a
// snapshot.
//
// # Followers
//
// A Hub wakes those who follow a VNI when it changes; it is one watcher of the
// store for all of them. Changes answers one request for many VNIs.
//
// # SmartOS
//
// Compute nodes that speak SVP (Triton's portolan protocol) ask by address and
// cache the answers. For each of them hints are kept, about what changed in the
// VNIs it is on, until it removes them. See svp.go.
//
// Keys (all below "fabric/"; VNIs as 6 hexadecimal digits, versions as 16,
// addresses as "4" and 8 digits or "6" and 32):
//
//   - vlan/<owner>/<VLAN, 4 digits>, name/<owner>/<name>: VLANs, and their names
//   - vni/<VNI>, freed/<time>/<VNI>: what a VNI is used for, and which rest
//   - transit/<owner>: the VNI of an account's transit segment
//   - map/<VNI>: state of the map; written with every change
//   - entry/<VNI>/<version>, gone/<VNI>/<version>: live entries, and deletions
//   - ip/<VNI>/<IP>: version of the newest entry or deletion of an address
//   - mac/<VNI>/<MAC>/<IP>, at/<underlay>/<VNI>/<IP>: indexes of the live entries
//   - run: random id of this start of the head node
//   - seq, changed/<number>: which VNIs changed, in order, each VNI once
//   - svp/...: SmartOS nodes and what is to be told to them
package fabric
