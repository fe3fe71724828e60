// Package store is the head node's transactional key/value store.
//
// Keys are strings, ordered by their bytes; values are bytes, by custom JSON
// (Get, Put and Scan are the typed helpers). Subjects own key prefixes and are
// functions over a Tx, so that one request is one transaction.
//
//   - An Update returns only after its writes are on disk; what it acknowledged
//     survives a kill and a power cut.
//   - Updates are serializable: each sees all those before it, and nothing of
//     those that failed.
//   - An Update function may run more than once, so it has no effects but those
//     on its Tx and on variables it sets anew on each run.
//   - Neither View nor Update may be called from inside another one.
//   - Watch says that something below a prefix changed, not what.
//
// OpenBolt is the backend of a single head node: one bbolt file. storetest is
// the suite every backend passes.
package store
