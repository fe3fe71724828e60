// Package boots keeps the record of every boot.
//
// A boot id is minted when a machine's firmware asks for an address, or iPXE does
// where the NIC's ROM is iPXE. A DISCOVER alone is kept in memory (Pending): the
// record is written with the first event that is recorded, so that DISCOVER is
// answered from a read transaction. The newest MaxPerMAC boots of a MAC are kept,
// MaxBoots in all, and MaxEvents events of a boot.
//
// Keys (all below "boot/"): id/<boot id> holds the record, mac/<MAC>/<inverted
// time>/<id> and uuid/<UUID>/<inverted time>/<id> list it newest first,
// time/<time>/<id> lists all, oldest first, and count holds their number.
package boots
