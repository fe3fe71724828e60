// Package fleet is any number of simulated servers in one process, against a real
// head node. A simulated server has its own MAC, UUID, key and certificate. It boots
// as a machine does, with DHCP messages, a script and a configuration that the head
// node decides, enrols with its one-boot token, reports the hardware of a captured
// server, takes setup, power and network orders, and follows what the head node wants
// in the long polls of an agent. It has no disks and moves no packets.
//
// Only package api is used. The legs of a boot go over HTTPS with an operator's token
// (api.Client.BootRequest and the like), so that nothing here needs root; the
// boot server's own DHCP, TFTP and HTTP are not exercised.
//
// Memory is bounded: a server has one goroutine and one connection, one of each more
// while it hosts a VNI, and of delays only the last are kept.
package fleet
