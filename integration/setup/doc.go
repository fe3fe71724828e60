// Package setup makes pools on real ZFS while the power fails, beside disks whose
// data belongs to somebody else, and runs the agent's own tests that need a server's
// kernel.
package setup
