// Package pxe powers on blank machines with real firmware and follows them until
// they run: the main path, and what may fail along it.
package pxe
