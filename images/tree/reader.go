package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// Entry is what a tar says of one name, checked.
type Entry struct {
	Path     string // inside the root, without "/" before it; no parent is a symbolic link; "." is the root
	Kind     Kind
	Replaces bool // a file, a link or an empty directory is at Path, and goes first
	Made     bool // a parent that the tar does not name: mode 0755, of 0:0

	// Link is the target of a Symlink, byte for byte. Of a Link it is the path of the
	// other name, which is there, is no directory, and is written as Path is.
	Link string

	Mode    fs.FileMode // permissions, with ModeSetuid, ModeSetgid and ModeSticky; of a Dir with ModeDir
	UID     int         // 0 to MaxID; those of a Link say nothing
	GID     int
	Size    int64 // of a File, which Read gives
	ModTime time.Time
	Xattrs  map[string]string // user.*, security.capability and ACLs as Linux keeps them; others are left out
}

// Summary is what a Reader met.
type Summary struct {
	Entries int      // that were given, without made parents
	Bytes   int64    // of the files
	Devices int      // nodes, and hard links to them, that were left out
	Left    []string // the names of the first few of these
}

// maxLeft is how many names Summary.Left has.
const maxLeft = 10

// Reader reads a tar.
type Reader struct {
	Summary

	tar     *tar.Reader
	src     io.Reader
	l       Limits
	root    *node
	names   int // nodes that were made
	pending []*Entry
	devices map[string]bool
	err     error
}

// NewReader reads the tar that r gives, without compression.
func NewReader(r io.Reader, l Limits) *Reader {
	return &Reader{tar: tar.NewReader(r), src: r, l: l, root: newDir(), devices: map[string]bool{}}
}

// Next gives the next entry. At the end of the tar it reads on to the end of r, where
// only zeros may be, and gives io.EOF. Any other error is final.
func (r *Reader) Next() (*Entry, error) {
	for r.err == nil && len(r.pending) == 0 {
		r.err = r.step()
	}
	if len(r.pending) > 0 {
		e := r.pending[0]
		r.pending = r.pending[1:]
		return e, nil
	}
	return nil, r.err
}

// Read gives the bytes of the File that Next gave last.
func (r *Reader) Read(p []byte) (int, error) { return r.tar.Read(p) }

// step reads one header, and queues what comes of it.
func (r *Reader) step() error {
	h, err := r.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return r.rest()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{fmt.Sprintf("the tar is cut behind entry %d", r.Entries)}
	case errors.Is(err, tar.ErrHeader):
		return &FormatError{fmt.Sprintf("the tar cannot be read behind entry %d: %v", r.Entries, err)}
	case err != nil:
		return fmt.Errorf("read tar behind entry %d: %w", r.Entries, err)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if wrong := r.enter(h); wrong != "" {
		return &EntryError{Name: h.Name, Reason: wrong}
	}
	if r.names > r.l.Entries || r.Entries+r.Devices > r.l.Entries {
		return &LimitError{fmt.Sprintf("the image has more than %d entries", r.l.Entries)}
	}
	if r.Bytes > r.l.Bytes {
		return &LimitError{fmt.Sprintf("the files of the image have more than %d bytes, at entry %.200q", r.l.Bytes, h.Name)}
	}
	return nil
}

// rest reads what is behind the end of the tar.
func (r *Reader) rest() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.src.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return &FormatError{"something else than zeros is behind the end of the tar"}
			}
		}
		if err != nil {
			if err == io.EOF && r.Entries == 0 {
				return &FormatError{"the tar has no entries"}
			}
			return err
		}
	}
}

// enter puts an entry into the tree, and queues it.
func (r *Reader) enter(h *tar.Header) (wrong string) {
	parts, wrong := split(h.Name)
	if wrong != "" {
		return wrong
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		r.leave(h.Name, strings.Join(parts, "/"))
		return ""
	}
	e, wrong := entryOf(h)
	if wrong != "" {
		return wrong
	}
	at, wrong := locate(r.root, parts, func(path string) {
		r.names++
		r.pending = append(r.pending, &Entry{Path: path, Kind: Dir, Made: true, Mode: fs.ModeDir | 0o755})
	})
	if wrong != "" {
		return wrong
	}
	e.Path = at.String()
	was := at.node()
	if e.Kind == Link {
		to, left, wrong := r.linked(h.Linkname, was)
		if left {
			r.leave(h.Name, strings.Join(parts, "/"))
		}
		if left || wrong != "" {
			return wrong
		}
		e.Link = to.String()
		r.set(at, e, &node{kind: to.node().kind, target: to.node().target})
		return ""
	}
	switch {
	case at.name == "" && e.Kind != Dir:
		return "it would be the root, and is " + e.Kind.String()
	case was != nil && was.kind == Dir && e.Kind == Dir:
		r.set(at, e, nil)
		return ""
	case was != nil && was.kind == Dir && len(was.below) > 0:
		return "it is " + e.Kind.String() + " where a directory with entries is"
	}
	r.set(at, e, &node{kind: e.Kind, target: e.Link})
	return ""
}

// set queues an entry, whose node is n; nil: the directory that is there.
func (r *Reader) set(at spot, e *Entry, n *node) {
	if n != nil {
		if e.Replaces = at.node() != nil; !e.Replaces {
			r.names++
		}
		at.dir.put(at.name, n)
	}
	delete(r.devices, e.Path)
	r.Entries++
	r.Bytes += e.Size
	r.pending = append(r.pending, e)
}

// linked finds the other name of a hard link. left says that it is a device node's.
func (r *Reader) linked(name string, was *node) (to spot, left bool, wrong string) {
	parts, wrong := split(name)
	if wrong != "" {
		return to, false, fmt.Sprintf("it is a hard link to %.200q, which cannot be: %s", name, wrong)
	}
	if r.devices[strings.Join(parts, "/")] {
		return to, true, ""
	}
	to, wrong = locate(r.root, parts, nil)
	n := to.node()
	switch {
	case wrong != "":
	case n == nil:
		wrong = "no entry before it has that name"
	case n.kind == Dir:
		wrong = "that is a directory"
	case n == was:
		wrong = "that is its own name"
	case was != nil && was.kind == Dir && len(was.below) > 0:
		return to, false, "it is a hard link where a directory with entries is"
	}
	if wrong != "" {
		wrong = fmt.Sprintf("it is a hard link to %.200q: %s", name, wrong)
	}
	return to, false, wrong
}

// leave counts a device node.
func (r *Reader) leave(name, path string) {
	r.Devices++
	r.devices[path] = true
	if len(r.Left) < maxLeft {
		r.Left = append(r.Left, name)
	}
}

// entryOf reads what a header says, but for where it is.
func entryOf(h *tar.Header) (*Entry, string) {
	e := &Entry{UID: h.Uid, GID: h.Gid, ModTime: h.ModTime}
	e.Mode = h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	switch h.Typeflag {
	case tar.TypeDir:
		e.Kind = Dir
		e.Mode |= fs.ModeDir
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Kind, e.Size = File, h.Size
	case tar.TypeSymlink:
		e.Kind, e.Link = Symlink, h.Linkname
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, "it is a symbolic link whose target is empty, longer than 4095 bytes, or has a NUL byte"
		}
	case tar.TypeLink:
		e.Kind = Link
	case tar.TypeFifo:
		e.Kind = FIFO
	default:
		return nil, fmt.Sprintf("its type is %q, which no file system has", h.Typeflag)
	}
	if e.Kind != Link && (!validID(e.UID) || !validID(e.GID)) {
		return nil, fmt.Sprintf("it belongs to %d:%d; an instance has the owners and groups 0 to %d", e.UID, e.GID, MaxID)
	}
	for k, v := range h.PAXRecords {
		if name := aclRecords[k]; name != "" && v != "" && (e.Kind == Dir || e.Kind == File && k == "SCHILY.acl.access") {
			value, wrong := parseACL(v)
			if wrong != "" {
				return nil, wrong
			}
			e.attribute(name, value)
			continue
		}
		name, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if ok && (strings.HasPrefix(name, "user.") || name == "security.capability") && e.Kind != Link && e.Kind != FIFO {
			if len(name) > maxName || len(v) > 64<<10 {
				return nil, fmt.Sprintf("its extended attribute %.100q is longer than 64 KiB, or has a name longer than 255 bytes", name)
			}
			e.attribute(name, v)
		}
	}
	return e, ""
}

func (e *Entry) attribute(name, value string) {
	if e.Xattrs == nil {
		e.Xattrs = map[string]string{}
	}
	e.Xattrs[name] = value
}

func validID(id int) bool { return id >= 0 && id <= MaxID }
