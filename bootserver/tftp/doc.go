// Package tftp sends a fixed set of files over TFTP (RFC 1350, 2347, 2348, 2349),
// read only.
//
// The files are bytes in memory, found by their names in any form that firmware
// writes them in: no path reaches a file system. The protocol engine is
// github.com/pin/tftp; in front of it stands a gate that reads every datagram of
// port 69, answers refusals itself with the right error code and a sentence, and
// lets a read through only when a slot is free. So a flood of half-open reads costs
// no more than the slots, and machines that have a lease keep slots of their own.
//
// Facts the code stands on:
//   - Firmware gives up at an ERROR but asks again after silence, so a read that
//     finds no slot is dropped, not refused.
//   - OVMF asks for tsize, aborts with error 8 when it has it, and asks again.
//     Such a read is not a transfer and is not reported.
//   - windowsize (RFC 7440) is not negotiated: it is left out of the OACK, which
//     the RFC allows, and blocks go one by one.
package tftp
