// Package bench measures what an operator waits for: a boot over the network beside
// the same platform booted from a disk, and what an idle server costs.
package bench
