// Package setup makes pools on real ZFS while the power fails, beside disks whose
// data belongs to somebody else.
package setup
