// Package vm is how a virtual machine's QEMU is started (QEMU 10; qemu(1)).
//
// Arguments is pure: the same machine has the same command line each time, whatever it
// holds, so that a machine which is started anew is the one its guest knows, and one that
// moves finds the same on the other server. What QEMU opens by a path is in the machine's
// folder, or is a disk that was given to its unit.
package vm
