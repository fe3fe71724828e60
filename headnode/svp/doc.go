// Package svp serves version 1 of SVP, the protocol by which SmartOS compute nodes
// (illumos's varpd) ask where the addresses of a VXLAN fabric are; Triton's server
// for it is portolan. TCP, port 1296.
//
// # Messages
//
// All numbers are big-endian. A header of 16 bytes (version, operation, size of the
// payload, id, CRC-32) and a payload. The CRC is the IEEE one over header and
// payload with the CRC field zero. Addresses have 16 bytes, IPv4 ones mapped
// (RFC 4291, section 2.5.5.2). An answer has the id of its request. Message has the
// types; all of them are encoded and decoded here, those of servers too.
//
// # What a server does
//
// Requests of one connection are answered in their order, also when many are sent
// at once. PING, VL2, VL3, LOG and LOG_RM get their answer; SHOOTDOWN has none by
// the protocol (it says that an address was not where it was said to be) and is
// counted. Nothing else is met with silence, as it is by portolan:
//
//   - BULK_REQ gets BULK_ACK with status BADBULK, whatever type it asks for: the
//     protocol never said what the data looks like.
//   - An operation that is unknown, or is an answer, gets its own operation with
//     UnknownReply (0x8000) set, the id, and a payload of one 32-bit status, FATAL.
//     By the meaning of FATAL the connection is then closed.
//   - A PING of another version gets a PONG of version 1, by which the client learns
//     what is spoken here; anything else of another version is answered as an
//     unknown operation is.
//   - A request whose payload cannot be taken apart is answered in the same way.
//   - When the map cannot be read, the status is FATAL, and the connection closed:
//     the client asks elsewhere.
//
// A message with a wrong CRC, or with a payload of more than MaxPayload, ends the
// connection without an answer: nothing in it, its id included, is to be trusted.
//
// # What varpd does
//
// Facts the code stands on, seen in illumos's usr/src/lib/varpd/svp:
//
//   - The payload of LOG_ACK must have at most the bytes that LOG_REQ allows, its
//     status included: varpd reads it into a buffer of that size (1024) unchecked.
//   - To act on a VL3 record varpd asks for the address as type 2, IPv6, also when it
//     is a mapped IPv4 one. So type and address are not held against each other.
//   - A VL3 record with an IPv6 address, once looked up, makes it abort. Records
//     with one are never sent.
//   - Any answer it did not ask for makes it connect anew.
//
// # Trust
//
// SVP has no authentication and no encryption. Whoever can connect can read the map
// and other nodes' logs. Server therefore asks Allow about each peer; only underlay
// and admin addresses of servers should pass, and the network must keep others from
// using those. Nothing but log records can be changed by this protocol, and only by
// who knows their random ids.
package svp
