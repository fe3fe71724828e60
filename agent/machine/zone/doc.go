// Package zone is what happens around a zone without the agent: what enters it on the
// server, what runs in it before its image's init, and what keeps what it prints. It is
// all that the program nereid-zone does, and imports little: it runs at each start and
// reboot of each zone, and as a zone's first process.
//
// The agent leaves two files for a zone, in a folder of its own in the run directory:
//
//	zones/UUID/host.json       Host: dataset, range of user IDs, NICs; for the server
//	zones/UUID/in/zone.json    Inside: name, addresses, resolvers; bound into the zone
//
// The zone's unit reads them anew at each start, so that a reboot from inside comes up
// with what is wanted now, and with the agent away. Its commands, in order:
//
//	nereid-zone prepare DIR    before a start: leftovers go, NICs are made and settle
//	nereid-zone enter DIR      the unit's process: mounts the dataset in a mount
//	                           namespace of its own and becomes systemd-nspawn
//	nereid-zone started DIR    after it: the out-of-memory killer spares nspawn
//	/run/nereid/init           in the zone: sets names and NICs, becomes the image's init
//
// Beside them, one for a server:
//
//	nereid-zone consoles       keeps the last MiB of what each zone printed
package zone
