// Package lab builds virtual racks: a network namespace with a bridge that
// stands for the admin network, a head node process in it, and QEMU machines
// with real firmware that boot from it.
//
//	       namespace nereid-3f9a1c
//	+---------------------------------------+
//	|  nereid-headnode     10.99.99.7/24    |
//	|        |                              |
//	|     admin0 (bridge)                   |
//	|      |        |                       |
//	|    tap cn0  tap cn1 ...               |
//	+------|--------|-----------------------+
//	     QEMU     QEMU
//
// A Server stands in the place of a machine where a kernel of its own is not what
// a test is about: namespaces with the real agent in them, which boot from the same
// head node in a second.
//
// The standard rack, two running servers, is for all that needs no blank server. One
// process makes it (integration/rack) and shares it with the tests of every package,
// one after the other; each undoes what it made.
//
// It needs root, and the packages that packages.sh installs. Nothing leaves the
// namespace: it has no route to anywhere.
package lab
