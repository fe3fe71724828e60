package tree

import (
	"strings"
)

// Kind is what an entry is.
type Kind byte

// Kinds of an Entry.
const (
	Dir Kind = iota + 1
	File
	Symlink
	Link // a further name of what is at Entry.Link
	FIFO
)

func (k Kind) String() string {
	return [...]string{"nothing", "a directory", "a file", "a symbolic link", "a hard link", "a FIFO"}[k]
}

// node is a name in the tree that the entries made so far.
type node struct {
	kind   Kind // never Link: both names have the same body
	below  map[string]*node
	target string // of a symbolic link
	body   *body  // of Flatten; nil: of a directory that no layer names
	layer  int    // of Flatten: the last one that has it, or something below it
}

func newDir() *node { return &node{kind: Dir} }

func (n *node) put(name string, c *node) {
	if n.below == nil {
		n.below = map[string]*node{}
	}
	n.below[name] = c
}

// split gives the parts of a name in a tar, or what is wrong with it. The root itself has
// none.
func split(name string) ([]string, string) {
	switch {
	case name == "":
		return nil, "it has no name"
	case name[0] == '/':
		return nil, "its name is absolute"
	case len(name) > maxPath:
		return nil, "its name is longer than 4095 bytes"
	case strings.IndexByte(name, 0) >= 0:
		return nil, "its name has a NUL byte"
	}
	var out []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, `its name has the part "..", which could lead out of the root`
		case len(part) > maxName:
			return nil, "a part of its name is longer than 255 bytes"
		default:
			out = append(out, part)
		}
	}
	if len(out) > maxDepth {
		return nil, "its name has more than 512 parts"
	}
	return out, ""
}

// spot is where a name is: in a directory with no symbolic link on the way.
type spot struct {
	dir  *node
	path []string // of the directory
	name string   // empty: the root
}

func (s spot) node() *node {
	if s.name == "" {
		return s.dir
	}
	return s.dir.below[s.name]
}

func (s spot) String() string {
	if s.name == "" {
		return "."
	}
	return strings.Join(append(s.path[:len(s.path):len(s.path)], s.name), "/")
}

// locate finds where parts lead from root. Symbolic links on the way are followed inside
// the root, as chroot(2) has it; the last part is not followed. Directories that are
// missing are made and given to made, parents first; when made is nil, a missing one is
// wrong.
func locate(root *node, parts []string, made func(path string)) (s spot, wrong string) {
	s.dir = root
	if len(parts) == 0 {
		return s, ""
	}
	dirs := []*node{root} // one more than s.path
	rest, links := parts, 0
	for len(rest) > 1 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(s.path) > 0 {
				s.path, dirs = s.path[:len(s.path)-1], dirs[:len(dirs)-1]
			}
			continue
		}
		dir := dirs[len(dirs)-1]
		next := dir.below[part]
		switch {
		case next == nil && made == nil:
			return s, "there is no " + strings.Join(append(s.path, part), "/")
		case next == nil:
			if len(part) > maxName || len(s.path) >= maxDepth {
				return s, "a symbolic link among its parents leads to a name that is too long"
			}
			next = newDir()
			dir.put(part, next)
			made(strings.Join(append(s.path[:len(s.path):len(s.path)], part), "/"))
			fallthrough
		case next.kind == Dir:
			s.path, dirs = append(s.path[:len(s.path):len(s.path)], part), append(dirs, next)
		case next.kind == Symlink:
			if links++; links > maxLinks {
				return s, "there are more than 40 symbolic links on the way to its parent"
			}
			if strings.HasPrefix(next.target, "/") {
				s.path, dirs = nil, dirs[:1]
			}
			rest = append(strings.Split(next.target, "/"), rest...)
		default:
			return s, "its parent " + strings.Join(append(s.path, part), "/") + " is " + next.kind.String() + ", not a directory"
		}
	}
	s.dir, s.name = dirs[len(dirs)-1], rest[0]
	return s, ""
}
