// Package dhcp answers DHCPv4 on the admin network (RFC 2131, 2132, 4578, 3046).
//
// Everything that decides is a pure function on packets: Parse says what a
// message is or why it is dropped, Settings.BootFile which program a machine
// gets, Settings.Handle what is sent back and where. Server is the packet loop
// around them: a bounded queue that drops the oldest message, few workers, and
// one answer at a time for retransmissions of the same message.
//
// Facts the code stands on:
//   - A REQUEST that names another server's identifier is that server's business.
//   - Answers to machines without an address are broadcast: the kernel cannot
//     send to an address that does not answer ARP yet, and every ROM accepts it.
//   - BIOS ROMs skip the boot server discovery when option 43 says so (PXE 2.1,
//     PXE_DISCOVERY_CONTROL bit 3). UEFI ROMs that see "PXEClient" in an offer
//     start the port 4011 exchange, so they get neither option 43 nor 60 and take
//     the file name from the offer; port 4011 answers them if they ask anyway.
//   - UEFI HTTP boot accepts only offers with option 60 "HTTPClient".
package dhcp
