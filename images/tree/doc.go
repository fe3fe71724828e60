// Package tree reads the root file systems of images, of which it believes nothing.
//
// A Reader gives the entries of a tar, one by one, as who unpacks them needs them: with
// paths in which no part is a symbolic link, inside the root, after parents that are
// missing, within Limits. What leads out of the root, or could not be unpacked, ends it
// with an *EntryError that has the entry's name. Device nodes are left out and counted.
//
// Decompress goes by the first bytes of a file, and refuses a file that is something else
// than was said. Check does all of it for a whole file and gives what there is to write
// into an image's manifest. ReadStream reads the first record of a ZFS stream.
//
// Flatten applies the layers of an OCI image, with their whiteouts, and writes one tar.
package tree
