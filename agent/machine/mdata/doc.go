// Package mdata is the metadata protocol of Joyent's machines, versions 1 and 2, as their
// guests speak it over a serial line or a socket, and what a guest reads of itself by it.
// Guests are hostile: nothing that one sends makes this package keep more than a line of
// MaxLine bytes, or wait for it longer than Serve says.
//
//	V2 LEN CRC ID COMMAND [BASE64]    a request
//	V2 LEN CRC ID CODE [BASE64]       its answer
//
// LEN is the length in bytes, and CRC the CRC-32 (IEEE) in hexadecimal, of what follows
// it. A request that does not check has no answer, so that its guest asks again. Lines
// end in LF, and each begins anew: a line that was cut spoils itself alone.
//
// Sources: the protocol's specification (eng.joyent.com/mdata/protocol.html), and its
// clients: mdata-get and its kin, and cloud-init's data source SmartOS.
package mdata
