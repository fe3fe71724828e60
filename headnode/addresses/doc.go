// Package addresses gives out the addresses of the admin network.
//
// A MAC keeps its address: the same one is offered for as long as no other
// machine needed it. A newcomer gets an address that nobody had yet, else the one
// that has been free for the longest. An address held by a server of the inventory
// is reserved and never expires. An offer lives in memory (Offers, bounded); what
// an ACK promises was committed before (Commit).
//
// A MAC that is a NIC's of the network gets that NIC's address (Static).
//
// Who has an address is not decided here: the Registry is asked, which also knows
// NICs and reservations, and told in the same transaction. An address that has a
// record here, other than a freed one, is taken there.
//
// Keys (all below "address/"): ip/<8 hex digits> holds the Lease, mac/<MAC> its
// address, expiry/<16 hex digits of Unix seconds>/<ip> orders what is not
// reserved by the time it becomes free, bad/<ip> lists what was declined.
package addresses
