// Package identity is a server's side of trust: its key, its certificate and
// the head node's CA it pins.
//
//   - The key is ECDSA P-256. It lives where the caller keeps it: in RAM until
//     the server is set up, on the system pool afterwards.
//   - The CA is known by the SHA-256 of its DER only. The head node sends the CA
//     as part of its chain; the chain must contain that very certificate, and the
//     leaf must verify against it alone, for the address that was dialled.
//   - Certificates have dates, and a server with a dead clock battery does not
//     know the date. Trust therefore asks a function for the time, and has a
//     second, weaker check (VerifyAnyTime) that judges the chain at a moment
//     inside its own validity. That one is good for exactly one thing: to ask
//     the head node what time it is. Nothing secret travels over it, and the
//     caller refuses an answer older than the file the pin came from, so that an
//     expired and stolen server key cannot turn the clock back. Everything else
//     is verified again, with the time as it was learned.
package identity
