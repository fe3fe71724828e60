// Package instances keeps the instances: what is wanted of them, what their servers
// reported, what they use of a server, and what was asked of them.
//
// It is a subject: functions over a store.Tx. A function that returns an error may
// have written before; the transaction is then to be given up. Refusals are
// *api.Problem. Facts of other subjects, such as the server that was chosen and the
// NICs that were made, are arguments.
//
// What a server is to do is in three sets of the journal, all kept: Set, ImageSet and
// SnapshotSet. Snapshots that a server takes by a schedule are in none: the schedule is in
// the instance's spec.
// The value of an instance's key in Set is its api.InstanceSpec, and that is where its
// metadata and what it runs are; the record has the rest.
//
// Keys, all below "instances/":
//
//   - instance/UUID: the Record of one that is there; deleted/UUID: that of a deleted one
//   - state/UUID: what its server reported last
//   - name/NAME/OWNER, owner/OWNER/UUID, server/SERVER/OWNER/UUID,
//     image/IMAGE/SERVER/UUID: instances that are there, by what they are found by
//   - use/SERVER: the sums of the limits of its instances
//   - placement/UUID: why it is on its server
//   - steps/UUID: where the time of its create went on its server
//   - audit/UUID/TIME-ID: what was asked of it, the oldest first
//   - expiry/TIME/UUID: deleted ones, by when they are forgotten
//   - unexpected/SERVER/UUID: what a server has and was not told of
//   - snapshot/UUID/ID: a snapshot of it, an api.Snapshot
//   - settings: api.InstanceSettings
//
// Two instances on different servers have no key in common that is written.
package instances
