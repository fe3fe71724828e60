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
package headnode
