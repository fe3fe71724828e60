// Package boots keeps the record of every boot.
//
// A boot id is minted when a machine's firmware asks for an address, or iPXE does
// where the NIC's ROM is iPXE. A DISCOVER alone is kept in memory (Pending): the
// record is written with the first event that is recorded, so that DISCOVER is
// answered from a read transaction. Of a written boot, what a crash must not undo is
// recorded (Record); anything else is noted in memory (Note), folded, and written
// with other boots' (Flush).
//
// The newest MaxPerMAC boots of a MAC of a server are kept, and MaxEvents events of
// a boot. Machines whose MAC belongs to no server are strangers. Their MACs may be
// invented, so they have bounds of their own, in memory and on disk, and one that
// got further is kept over one that only asked for an address.
//
// Keys (all below "boot/"): id/<boot id> holds the record, mac/<MAC>/<inverted
// time>/<id> and uuid/<UUID>/<inverted time>/<id> list it newest first. time/<time>/<id>
// lists those of servers, stranger/<rank>/<time>/<id> those of strangers, oldest first.
package boots
