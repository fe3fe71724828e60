package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"nereid/images/tree"
)

// chunk is how much of a file is written at once: a record of ZFS.
const chunk = 128 << 10

// unpacker writes the entries of a tar into a tree. The reader of the tar resolved names
// already; the kernel is asked once more, with every symbolic link on the way refused
// (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).
type unpacker struct {
	to   *Tree
	buf  []byte
	dir  string // the folder that was used last, and its descriptor
	fd   int
	late []late
}

// late is a folder whose time is set when all is in it.
type late struct {
	path string
	time time.Time
}

// unpack makes everything that r gives. Owners need root.
func unpack(ctx context.Context, to *Tree, r *tree.Reader) (_ tree.Summary, err error) {
	u := &unpacker{to: to, buf: make([]byte, chunk), fd: -1}
	defer u.leave()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Summary, u.times()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return r.Summary, err
		}
		if err := u.make(ctx, e, r); err != nil {
			return r.Summary, fmt.Errorf("entry %.200q: %w", e.Path, err)
		}
	}
}

// leave closes the folder that was used last.
func (u *unpacker) leave() {
	if u.fd >= 0 {
		unix.Close(u.fd)
	}
	u.fd, u.dir = -1, ""
}

// enter opens a folder, or gives the one that is open.
func (u *unpacker) enter(dir string) (int, error) {
	if u.fd >= 0 && u.dir == dir {
		return u.fd, nil
	}
	u.leave()
	fd, err := openBelow(u.to.fd(), dir)
	if err != nil {
		return -1, fmt.Errorf("open its folder: %w", err)
	}
	u.dir, u.fd = dir, fd
	return fd, nil
}

// openBelow opens a folder whose path has no symbolic link.
func openBelow(root int, dir string) (int, error) {
	return unix.Openat2(root, dir, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// make makes one entry.
func (u *unpacker) make(ctx context.Context, e *tree.Entry, r io.Reader) error {
	want := entry{Owner: Owner{UID: e.UID, GID: e.GID, Mode: e.Mode}, time: e.ModTime}
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		want.xattrs = append(want.xattrs, xattr{k, []byte(e.Xattrs[k])})
	}
	if e.Path == "." {
		return u.folder(u.to.fd(), ".", e, want)
	}
	dir, err := u.enter(path.Dir(e.Path))
	if err != nil {
		return err
	}
	base := path.Base(e.Path)
	if e.Replaces {
		if u.dir == e.Path || strings.HasPrefix(u.dir, e.Path+"/") {
			u.leave()
		}
		if err := unlink(dir, base); err != nil {
			return fmt.Errorf("replace: %w", err)
		}
	}
	switch e.Kind {
	case tree.Dir:
		if err := unix.Mkdirat(dir, base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return u.folder(dir, base, e, want)
	case tree.File:
		if err := u.file(ctx, dir, base, e.Size, r); err != nil {
			return err
		}
	case tree.Symlink:
		if err := unix.Symlinkat(e.Link, dir, base); err != nil {
			return err
		}
	case tree.FIFO:
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case tree.Link:
		return u.link(dir, base, e.Link)
	default:
		return fmt.Errorf("it is %s", e.Kind)
	}
	return finish(dir, base, want)
}

// folder gives a folder what belongs to it; its time waits until all is in it.
func (u *unpacker) folder(dir int, base string, e *tree.Entry, want entry) error {
	if !e.Made {
		u.late = append(u.late, late{e.Path, e.ModTime})
	}
	want.time = time.Time{}
	return finish(dir, base, want)
}

// times sets the times of folders, the last entry's first: the first that is set for a
// folder is the one that counts.
func (u *unpacker) times() error {
	set := map[string]bool{}
	for _, l := range slices.Backward(u.late) {
		if set[l.path] {
			continue
		}
		set[l.path] = true
		dir, err := u.enter(path.Dir(l.path))
		if err == nil && !l.time.IsZero() {
			err = setTime(dir, path.Base(l.path), l.time)
		}
		// A folder that a later entry replaced has no time to set.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return fmt.Errorf("entry %.200q: %w", l.path, err)
		}
	}
	return nil
}

// link makes a further name of a file in the tree.
func (u *unpacker) link(dir int, base, target string) error {
	from, err := openBelow(u.to.fd(), path.Dir(target))
	if err != nil {
		return fmt.Errorf("open the folder of what it is a hard link to: %w", err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, path.Base(target), dir, base, 0); err != nil {
		return fmt.Errorf("hard link to %.200q: %w", target, err)
	}
	return nil
}

// file writes a new file. Zeros that fill a chunk are a hole.
func (u *unpacker) file(ctx context.Context, dir int, base string, size int64, r io.Reader) (err error) {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	for at := int64(0); at < size; {
		n := min(size-at, chunk)
		if _, err := io.ReadFull(r, u.buf[:n]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return &tree.FormatError{Text: fmt.Sprintf("the tar is cut, or says a wrong size: %v", err)}
			}
			return err
		}
		if n < chunk || !zeros(u.buf[:n]) {
			if _, err := f.WriteAt(u.buf[:n], at); err != nil {
				return err
			}
		} else if err := ctx.Err(); err != nil {
			return err
		}
		at += n
	}
	if size > 0 && size%chunk == 0 {
		return f.Truncate(size) // it may end with a hole
	}
	return nil
}
