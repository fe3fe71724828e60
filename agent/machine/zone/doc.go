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
//	nereid-zone prepare DIR    before a start: leftovers go, NICs are made
//	nereid-zone enter DIR      the unit's process: mounts the dataset in a mount
//	                           namespace of its own and becomes systemd-nspawn
//	nereid-zone give DIR       beside it: gives the zone its NICs when it asks for them
//	/run/nereid/init           in the zone: asks for the NICs, sets them and names up,
//	                           becomes the image's init
//	nereid-zone started DIR    after that: the out-of-memory killer spares nspawn
//
// What was set in a zone is beside what is wanted of it, in in/now.json. Where they differ
// the agent gives the zone the NICs that it has not, and has /run/nereid/init again set in
// it what is wanted. A NIC that is no more wanted goes by itself: a pair's ends go together.
//
// Beside them, one for a server:
//
//	nereid-zone consoles       keeps the last MiB of what each zone printed
package zone
