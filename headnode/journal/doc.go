// Package journal keeps versioned sets: collections of small values that many
// followers copy, and of which a change costs what changed.
//
// # Versions
//
// A set maps keys to JSON values. Every change of a key gets a version of its own,
// one more than the last of its set. A key is in the set's log once, under its
// newest version, so the log of what lives is the set itself. A deletion leaves a
// tombstone, which holds the last value. A delta therefore has at most one entry
// per key.
//
// An ordinary set keeps as many tombstones as it has live keys, and at least
// MinGone; the set's floor is the newest tombstone that was forgotten. A follower
// that missed a forgotten tombstone gets a snapshot in place of a delta. A set
// that is kept (Set.Keep) forgets a tombstone only when Acknowledge says that the
// follower has it; its snapshots carry the tombstones.
//
// # Epochs
//
// A head node that is restored from a backup has versions again that followers
// know with another meaning. So the head node calls Begin at every start, and the
// first change of a set after that begins a new epoch. The last epochs are
// remembered with the version they ended at. A follower that saw no more than that
// gets a delta, and takes over the new epoch from it. A follower that saw more, or
// asks for a version that is not there yet, gets a snapshot.
//
// # Parts
//
// Changes cuts an answer by size. A part ends at the version of its last entry,
// and says which version the set had (Delta.Toward). The follower asks for the
// next part with both. A set as it was at a former version is nowhere: a key that
// changed again behind a part's version is not in the part. So a follower in the
// middle of an answer gets the rest only from a store that knows the version which
// the answer led to; a store that was restored from before it begins a snapshot.
//
// # Followers
//
// A Hub wakes those who follow a set when it changes. It reads one feed of the
// store for all followers.
//
// Keys (all below "journal/"; versions as 16 hexadecimal digits):
//
//   - run: random id of this start of the head node
//   - set/<set>: the set's State; written with every change of the set
//   - entry/<set>:<version>/<key>, gone/<set>:<version>/<key>: values, and tombstones
//   - key/<set>:<key>: where the newest entry or tombstone of a key is
//
// Two changes of different sets write no common key.
package journal
