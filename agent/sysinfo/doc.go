// Package sysinfo reads the hardware of a server from /sys, /proc and SMBIOS.
//
// The roots of these trees are fields, so that a captured tree reads like the
// running system. Nothing is executed and nothing is written; what a disk
// carries is asked of the Content function and remembered by the kernel's disk
// sequence number, so that reading again costs a few hundred small reads.
package sysinfo
