// Package storage makes and keeps a server's ZFS pool.
//
// It plans a pool from a list of disks (Layout, a pure function), makes it so
// that a crash or a power cut at any point can be continued (Setup), imports
// pools at boot (Import), reports them (Pools) and destroys one on a factory
// reset (Destroy). ZFS is driven through the zpool and zfs commands, whose JSON
// (zfs 2.3 and later) is parsed; a Runner runs them.
//
// # What runs zfs
//
// Datasets, Snapshots and Streams are what the agent does to datasets; ZFS does it
// on the system, through go-zfs where go-zfs v3.0.1 can express it: create, clone,
// snapshot, rollback, rename, set, send, destroy of one, volumes. ZFS itself runs
// what go-zfs cannot: a receive with a deadline and options (-s -u -o -x), the
// destruction of a list of snapshots, and the one listing with GUIDs and user
// properties. The pool half (import, status, properties of a new root, JSON) is not
// in go-zfs either; a Runner runs it. go-zfs has no contexts: a call that hangs in
// the kernel holds the one who made it, and nobody else.
//
// # Images and instances
//
// Roots makes the root file systems of images (ImportImage) and of instances
// (CloneImage), lists all with one command (Look), and destroys them by exact names. A
// tar is unpacked by archive/tar behind package images/tree and not by GNU tar in a unit
// of its own: the head node judges an image with the same reader, the reader is fuzzed and
// safe in memory, names are resolved by it and once more by the kernel (openat2(2)), and
// a hostile entry is named in the error. No dataset of a root file system is ever mounted
// where somebody sees it (Mounts); a Tree writes files into one whose links lead
// anywhere.
//
// # Snapshots of instances
//
// They are of a dataset and all below it, and carry what they are (TakeSnapshot, Look,
// DropSnapshot). go-zfs takes none with properties, so ZFS itself does. A rollback is one
// channel program (RollBack): it checks all, then does all, in one transaction.
//
// # What may be overwritten
//
// A disk is written to only when one of these holds, checked immediately before
// and with the device opened exclusively:
//
//   - it is blank: there are only zeros at its beginning and its end, and no
//     signature where a partition of a lost table may have begun or ended
//     (signature.go);
//   - the operator named it in SetupSpec.Wipe;
//   - it carries a mark of this server (see mark.go), and besides it nothing but
//     what an unfinished setup or reset of the same pool leaves behind.
//
// Marks are there only while the pool holds nothing: they are written before
// the first other write and removed before the first dataset is made.
package storage
