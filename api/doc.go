// Package api holds every type that crosses a process boundary in Nereid, the
// error codes, and the Go client of the head node's API.
//
// It imports the standard library only and has no behaviour but Validate, so
// that an agent, a stub in an initrd and a foreign program can all depend on it.
// Sizes are bytes, times are RFC 3339 in UTC, UUIDs and MAC addresses are lower
// case (MACs with colons), digests are lower-case hexadecimal SHA-256.
package api
