// Package faults breaks things while servers boot and run: the head node dies
// between any two legs, a platform does not come up.
package faults
