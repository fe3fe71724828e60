//go:build !linux

package sysinfo

// switchedOff is not known on this system.
func (t tree) switchedOff() bool { return offRE.MatchString("") }
