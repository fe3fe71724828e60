// Package placement chooses servers for instances. It is pure: what is known of the
// servers, and what is wanted, are arguments, and the answer has the reasons.
//
// Filters leave out each server that an instance cannot be on, with all the reasons.
// Those that are left are weighed; the weights are Triton's where it has the same
// (DAPI, sdc-designation). Of servers that weigh the same, a digest of both UUIDs
// decides, so that instances spread and the same question has the same answer.
package placement
