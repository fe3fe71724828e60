package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// Tree is a root file system that somebody else filled, as a zone's. Names are paths in
// it, with or without a slash before them. Every symbolic link on the way, absolute or
// not, leads to what it means inside (openat2(2), RESOLVE_IN_ROOT): no name leads out,
// whatever the tree holds. Nobody else may change the tree meanwhile: an instance must
// be stopped. Close it after use.
type Tree struct {
	dir *os.File // what is "/" in it
	top *os.File // of the dataset; Close ends its mount
}

// Owner is who owns a file in a Tree, by number, and what is allowed on it.
type Owner struct {
	UID, GID int
	Mode     fs.FileMode // permission bits, ModeSetuid, ModeSetgid, ModeSticky
}

// ErrOutside says that a name is not one of a file inside a tree.
var ErrOutside = errors.New("the name leads out of the tree")

// inside is a name as a path below the top of a tree, "." for the top itself.
func inside(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%q: %w", name, ErrOutside)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q: %w", name, ErrOutside)
		}
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

// Close ends the tree's mount.
func (t *Tree) Close() error { return errors.Join(t.dir.Close(), t.top.Close()) }

// entry is what becomes of a new file: its owner, its time and its attributes.
type entry struct {
	Owner
	time   time.Time // zero: now
	xattrs []xattr
}

// xattr is an extended attribute.
type xattr struct {
	name  string
	value []byte
}
