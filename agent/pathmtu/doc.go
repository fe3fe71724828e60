// Package pathmtu measures how large a packet may be that gets from one server's
// address to another's and back. It asks by ICMP echo requests that may not be
// fragmented (RFC 792, RFC 4443), many sizes at once, and believes answers only: what
// a router says of its links (RFC 1191) does not help against one that says nothing.
//
//	want ----x   1400 --> 1400   a few sizes between those that get through
//	 576 --> 576  ...            and those that do not, until no size is left
package pathmtu
