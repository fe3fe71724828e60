// Package inventory keeps the servers: who they are, what the operator decided
// about them, what is wanted of them and what they reported.
//
// A server is keyed by its SMBIOS UUID and known by its MACs. What is stored is
// a Record (identity, decisions, desired state) and what was Observed (report
// and hardware, written only when they change); its state is computed when read
// and never stored.
//
//   - server/UUID    Record; a change of it wakes the server's sync
//   - observed/UUID  Observed, but for the hardware
//   - hardware/UUID  api.Sysinfo
//   - mac/MAC        Owner: the one server a MAC belongs to
//   - hostname/NAME  UUID; names are unique
//
// Nobody overwrites anybody: a machine that claims the UUID of another (their
// MACs are disjoint) becomes a Claim on the record, and both are held until an
// operator approves one by MAC; a MAC found in another server becomes a Move,
// and moves when an operator approves that server.
package inventory
