// Package instance tests instances as their users see them: zones made by the
// operator's program on the standard rack, from an image to a shell in them.
package instance
