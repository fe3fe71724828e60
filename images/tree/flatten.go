package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
)

// Layer opens a layer of an OCI image, without compression. It is opened twice, and gives
// the same bytes both times.
type Layer func() (io.ReadCloser, error)

// Marks of OCI layers (image-spec, layer.md).
const (
	whiteout = ".wh."
	reserved = ".wh..wh."
	opaque   = ".wh..wh..opq"
)

// body is what one or more names in a tree are: of a directory only what it says of
// itself.
type body struct {
	Entry
	acl        map[string]string // records of a tar, as the layer has them
	layer, nth int               // the entry it came with
	path       string            // under which it was written
}

// Flatten applies layers, the lowest first, and writes what remains as one tar, in which
// each name is there once. Names are refused, and left out, as a Reader does it; in
// addition an upper layer may put a file where a lower one has a directory with entries.
func Flatten(ctx context.Context, layers []Layer, w io.Writer, l Limits) (Summary, error) {
	f := &flattener{Reader: Reader{l: l, root: newDir(), devices: map[string]bool{}}}
	for n, open := range layers {
		f.layer = n
		err := each(ctx, open, l, func(nth int, h *tar.Header, _ io.Reader) error {
			if wrong := f.apply(nth, h); wrong != "" {
				return &EntryError{Name: h.Name, Reason: wrong}
			}
			if f.names > l.Entries || f.Devices > l.Entries {
				return &LimitError{fmt.Sprintf("the layers have more than %d entries", l.Entries)}
			}
			if f.Bytes > l.Bytes {
				return &LimitError{fmt.Sprintf("the files of the layers have more than %d bytes, at entry %.200q", l.Bytes, h.Name)}
			}
			return nil
		})
		if err != nil {
			return f.Summary, fmt.Errorf("layer %d of %d: %w", n+1, len(layers), err)
		}
	}
	out := tar.NewWriter(w)
	if err := f.write(ctx, layers, out); err != nil {
		return f.Summary, err
	}
	return f.Summary, out.Close()
}

// each calls fn with every entry of a layer, of which nth counts all.
func each(ctx context.Context, open Layer, l Limits, fn func(nth int, h *tar.Header, r io.Reader) error) (err error) {
	src, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	r := Reader{src: ctxReader{ctx, src}, l: l}
	r.tar = tar.NewReader(r.src)
	r.Entries = 1 // an empty layer is one
	for nth := 0; ; nth++ {
		h, err := r.tar.Next()
		switch {
		case errors.Is(err, io.EOF):
			if err := r.rest(); err != io.EOF {
				return err
			}
			return nil
		case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
			return &FormatError{fmt.Sprintf("the tar cannot be read behind entry %d: %v", nth, err)}
		case err != nil:
			return fmt.Errorf("read tar behind entry %d: %w", nth, err)
		}
		if nth > l.Entries {
			return &LimitError{fmt.Sprintf("a layer has more than %d entries", l.Entries)}
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := fn(nth, h, r.tar); err != nil {
			return err
		}
	}
}

// flattener is the tree that layers make.
type flattener struct {
	Reader
	layer int
}

// apply puts one entry of the present layer into the tree.
func (f *flattener) apply(nth int, h *tar.Header) (wrong string) {
	parts, wrong := split(h.Name)
	if wrong != "" {
		return wrong
	}
	if n := len(parts); n > 0 && strings.HasPrefix(parts[n-1], whiteout) {
		return f.wipe(parts[:n-1:n-1], parts[n-1])
	}
	plain := strings.Join(parts, "/")
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		f.leave(h.Name, plain)
		return ""
	}
	e, wrong := entryOf(h)
	if wrong != "" {
		return wrong
	}
	at, wrong := locate(f.root, parts, func(string) { f.names++ })
	if wrong != "" {
		return wrong
	}
	f.touch(at.path)
	was := at.node()
	n := &node{kind: e.Kind, target: e.Link, layer: f.layer, body: &body{Entry: *e, acl: map[string]string{}, layer: f.layer, nth: nth}}
	for record, attribute := range aclRecords {
		if _, kept := e.Xattrs[attribute]; kept {
			n.body.acl[record] = h.PAXRecords[record]
			delete(n.body.Xattrs, attribute)
		}
	}
	if e.Kind == Link {
		to, left, wrong := f.linked(h.Linkname, nil)
		if left {
			f.leave(h.Name, plain)
		}
		if left || wrong != "" {
			return wrong
		}
		other := to.node()
		n.kind, n.target, n.body = other.kind, other.target, other.body
	}
	delete(f.devices, plain)
	switch {
	case at.name == "" && e.Kind != Dir:
		return "it would be the root, and is " + e.Kind.String()
	case was != nil && was.kind == Dir && e.Kind == Dir:
		was.body, was.layer = n.body, f.layer
		return ""
	case was == nil:
		f.names++
	}
	f.Bytes += e.Size
	at.dir.put(at.name, n)
	return ""
}

// touch notes that the present layer has entries below the directories of a path.
func (f *flattener) touch(path []string) {
	n := f.root
	n.layer = f.layer
	for _, part := range path {
		n = n.below[part]
		n.layer = f.layer
	}
}

// wipe does what a mark says, to what lower layers made.
func (f *flattener) wipe(dir []string, mark string) (wrong string) {
	name := strings.TrimPrefix(mark, whiteout)
	if name == "" || name == "." || name == ".." {
		return "it is a whiteout of nothing"
	}
	if mark != opaque && strings.HasPrefix(mark, reserved) {
		return "" // of other tools
	}
	at, wrong := locate(f.root, append(slices.Clone(dir), "x"), nil)
	if wrong != "" {
		return "" // nothing is there
	}
	if mark == opaque {
		f.purge(at.dir)
	} else if n := at.dir.below[name]; n != nil && f.purge(n) {
		delete(at.dir.below, name)
	}
	return ""
}

// purge removes what lower layers put below a node, and says whether nothing of the
// present one is there.
func (f *flattener) purge(n *node) bool {
	for name, c := range n.below {
		if f.purge(c) {
			delete(n.below, name)
		}
	}
	return n.layer != f.layer
}

// write writes the tree: first all that has no bytes, then the files in the order of the
// layers.
func (f *flattener) write(ctx context.Context, layers []Layer, w *tar.Writer) error {
	f.Entries, f.Bytes = 0, 0
	files := map[[2]int][]string{}
	var bodies = map[[2]int]*body{}
	err := f.walk(f.root, "", func(path string, n *node) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.Entries++
		b := n.body
		switch {
		case n.kind == File:
			id := [2]int{b.layer, b.nth}
			files[id], bodies[id] = append(files[id], path), b
			return nil
		case b == nil:
			b = &body{Entry: Entry{Kind: Dir, Mode: fs.ModeDir | 0o755, ModTime: time.Unix(0, 0)}}
		case n.kind != Dir && b.path != "":
			return w.WriteHeader(&tar.Header{Name: path, Typeflag: tar.TypeLink, Linkname: b.path})
		}
		b.path = path
		return w.WriteHeader(b.header(path, n.kind))
	})
	if err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	for n, open := range layers {
		err := each(ctx, open, f.l, func(nth int, _ *tar.Header, r io.Reader) error {
			names, b := files[[2]int{n, nth}], bodies[[2]int{n, nth}]
			if len(names) == 0 {
				return nil
			}
			delete(files, [2]int{n, nth})
			f.Bytes += b.Size
			err := w.WriteHeader(b.header(names[0], File))
			if err == nil {
				_, err = io.CopyN(w, r, b.Size)
			}
			for _, more := range names[1:] {
				if err == nil {
					err = w.WriteHeader(&tar.Header{Name: more, Typeflag: tar.TypeLink, Linkname: names[0]})
				}
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("write tar of layer %d: %w", n+1, err)
		}
	}
	if len(files) > 0 {
		return errors.New("write tar: a layer had other entries when it was read again")
	}
	return nil
}

// walk calls fn with every name, in order, directories before what is in them.
func (f *flattener) walk(n *node, path string, fn func(path string, n *node) error) error {
	if path != "" {
		if err := fn(path, n); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.below)) {
		below := name
		if path != "" {
			below = path + "/" + name
		}
		if err := f.walk(n.below[name], below, fn); err != nil {
			return err
		}
	}
	return nil
}

// header is an entry of the tar that is written.
func (b *body) header(path string, kind Kind) *tar.Header {
	h := &tar.Header{Name: path, Mode: int64(b.Mode.Perm()), Uid: b.UID, Gid: b.GID, ModTime: b.ModTime.Truncate(time.Second), Format: tar.FormatPAX,
		Typeflag: map[Kind]byte{Dir: tar.TypeDir, File: tar.TypeReg, Symlink: tar.TypeSymlink, FIFO: tar.TypeFifo}[kind]}
	for bit, mode := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if b.Mode&mode != 0 {
			h.Mode |= bit
		}
	}
	switch kind {
	case Dir:
		h.Name += "/"
	case File:
		h.Size = b.Size
	case Symlink:
		h.Linkname = b.Link
	}
	h.PAXRecords = maps.Clone(b.acl)
	for name, v := range b.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = v
	}
	return h
}
