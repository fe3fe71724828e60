// Package hints finds the commands that the programs' texts tell people to type,
// and tries them on the programs' own command lines.
package hints
