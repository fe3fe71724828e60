// Package headnode composes the head node's subjects into its HTTP API, the sync
// with agents and the decisions of the boot server.
//
// Open gives a Server over a data directory that Init made; Run serves until its
// context ends. Boot, Plan, Config, Record and Manifest are what a boot server
// asks (its Booter), each one short transaction.
//
//	DIR/headnode.db    the store
//	DIR/ca.pem         the CA and its key, 0600
//	DIR/images/        platform files by digest
//	DIR/headnode.sock  the API for root on this machine
//
// Requests come over the Unix socket (who is at the other end is asked of the
// kernel) or HTTPS (an operator's token, or a server's client certificate). Last
// seen and usage live in memory; only what changed is written.
//
// What is many is not in a server's spec but in sets of the journal, which its agent
// follows in its sync:
//
//	server/<server>/ports, /instances, /images  its own; only a tombstone removes
//	server/<server>/nat                         the accounts that it is a gateway of, its external and transit address
//	vni/<VNI>                                   maps, where something of the VNI is
//	account/<owner>/networks, /nat              what its routers need, where it has one
//	account/<owner>/rules                       firewall rules, where the account has NICs
//	account/<owner>/addresses/<name>            of the instances that its rules name so as peers
//	account/all/rules, /addresses/<name>        the same of global rules, everywhere
//
// Sets of VNIs, accounts and NAT are replaced by a snapshot. Whether a server may follow one
// is looked up at each answer, and refused for that set alone. An agent computes VNIs and
// routers from the sets: its spec has NIC tags, bonds and the underlay. A NIC that comes, or
// a gateway that changes, wakes the servers whose sets changed, and no others. A set of addresses is there
// while a rule names it: a NIC that comes, changes or goes looks up which of the sets that
// it may be in are there, reads no rule, and changes no server's record. An agent computes
// from its ports and the rules which addresses it has to follow, and what the rules mean
// for each port.
//
// What is left in the spec has a revision in the server's record. touch renews it: of the
// servers that provide a NIC tag whose MTU changes; of one whose NIC tags, bonds, underlay
// address or stale NICs change, or that boots from another admin network; and touchAll of
// all, when the underlay's NIC tag or a network on it changes. A digest of the spec in its
// place would have each poll read and encode all of that, to find that it is as before.
// With the revision a poll that brings nothing reads the record alone, and the write of the
// record wakes the one poll that waits for it. What touches is an operator's work on racks
// and servers, and a server's report of stale NICs; no NIC of an instance, no instance and
// no rule does.
//
// Who does not follow account/all/rules and server/<server>/nat is of an older platform,
// which had its rules or its routers in its spec. It hears nothing of its ports and keeps the
// network that it has.
package headnode
