// Package bootserver takes a machine from power-on to its kernel: DHCP, TFTP and
// HTTP on the admin network, with one decision (Booter) behind all of them.
//
// One file per leg: dhcp/ and dhcpleg.go, tftp/ and tftpleg.go, http*.go,
// script.go (what iPXE is told), config.go (the second initrd), ra.go (IPv6
// router advertisements, without which iPXE waits 15 s for one), explain.go (the
// same decisions without a machine).
//
// The bootserver keeps no state that matters: two bounded maps of recent boots
// (address to boot id for TFTP, boot id to files for the record) are rebuilt by
// the next request of a machine. Everything a boot did is told to Booter.Record.
//
// Facts the code stands on:
//   - iPXE throws away the body of every answer but 2xx, so what a person should
//     read on its screen is sent as a script with status 200; everybody else gets
//     the status and one sentence as text/plain.
//   - The configuration holds a secret. It is downloaded last, so that a kernel
//     that could not be fetched has not used it up.
//   - Linux's EFI stub joins the files of several initrd= arguments without
//     padding and its unpacker wants a cpio header at a multiple of four bytes, so
//     the configuration, an uncompressed cpio of a multiple of 512 bytes, is named
//     first. BIOS iPXE pads by itself and Linux ignores initrd= there.
package bootserver
