package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openTree mounts a dataset for this process alone and opens the folder root in it.
func openTree(ctx context.Context, m Mounts, dataset string, readOnly bool) (*Tree, error) {
	top, err := m.Mount(ctx, dataset, readOnly)
	if err != nil {
		return nil, err
	}
	fd, err := openIn(int(top.Fd()), rootFolder, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s in %s: %w", rootFolder, dataset, err), top.Close())
	}
	return &Tree{dir: os.NewFile(uintptr(fd), rootFolder), top: top}, nil
}

// makeRoot makes the folder root at the top of a new dataset.
func makeRoot(ctx context.Context, m Mounts, dataset string) (err error) {
	top, err := m.Mount(ctx, dataset, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, top.Close()) }()
	if err := mkdir(int(top.Fd()), rootFolder, 0o755); err != nil {
		return fmt.Errorf("make %s in %s: %w", rootFolder, dataset, err)
	}
	return nil
}

// mkdir makes a folder with exactly that mode: the agent's umask is 0077.
func mkdir(dir int, name string, mode uint32) error {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return err
	}
	return unix.Fchmodat(dir, name, mode, 0)
}

// openIn opens a name as if dir were the root of everything.
func openIn(dir int, name string, flags int, mode uint64) (int, error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: mode,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for range 1000 {
		fd, err := unix.Openat2(dir, name, &how)
		// A rename or mount anywhere on the machine, while ".." was followed (openat2(2)).
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// folder opens the folder of that name, a descriptor for what is done in it, and makes
// what is missing of it, for root and mode 0755.
func (t *Tree) folder(name string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	fd, err := openIn(t.fd(), name, flags, 0)
	if !errors.Is(err, unix.ENOENT) || name == "." {
		return fd, err
	}
	above, err := t.folder(path.Dir(name))
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	if err := mkdir(above, path.Base(name), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return openIn(t.fd(), name, flags, 0) // a link that leads nowhere stays ENOENT
}

func (t *Tree) fd() int { return int(t.dir.Fd()) }

// do calls fn with the folder of a name and its last part.
func (t *Tree) do(verb, name string, fn func(dir int, base string) error) error {
	clean, err := inside(name)
	if err == nil && clean == "." {
		err = fs.ErrExist
	}
	if err == nil {
		var dir int
		if dir, err = t.folder(path.Dir(clean)); err == nil {
			err = fn(dir, path.Base(clean))
			unix.Close(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	return nil
}

// WriteFile replaces what has the name, also a link, by a file; a folder is not
// replaced. Folders above that are missing are made, of root and mode 0755.
func (t *Tree) WriteFile(name string, data []byte, o Owner) error {
	return t.do("write", name, func(dir int, base string) error {
		part := ".nereid-" + rand.Text()
		fd, err := unix.Openat(dir, part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		_, err = f.Write(data)
		err = errors.Join(err, f.Chown(o.UID, o.GID), f.Chmod(o.Mode), f.Close())
		if err == nil {
			err = unix.Renameat(dir, part, dir, base)
		}
		if err != nil {
			err = errors.Join(err, unix.Unlinkat(dir, part, 0))
		}
		return err
	})
}

// MkdirAll makes a folder, and gives it its owner and mode when it was not there. A link
// to a folder is one.
func (t *Tree) MkdirAll(name string, o Owner) error {
	return t.do("make folder", name, func(dir int, base string) error {
		err := unix.Mkdirat(dir, base, 0o700)
		if errors.Is(err, unix.EEXIST) {
			fd, err := t.folder(strings.TrimLeft(path.Clean(name), "/"))
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		if err != nil {
			return err
		}
		return finish(dir, base, entry{Owner: o})
	})
}

// Symlink replaces what has the name, but a folder, by a symbolic link.
func (t *Tree) Symlink(target, name string) error {
	return t.do("link", name, func(dir int, base string) error {
		if err := unlink(dir, base); err != nil {
			return err
		}
		return unix.Symlinkat(target, dir, base)
	})
}

// Remove removes a file, a link or an empty folder; what is not there is no error.
func (t *Tree) Remove(name string) error {
	return t.do("remove", name, func(dir int, base string) error {
		err := unix.Unlinkat(dir, base, 0)
		if errors.Is(err, unix.EISDIR) {
			err = unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
		}
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

// ReadFile reads a regular file of at most limit bytes; anything else is an error. Its
// errors wrap fs.ErrNotExist where nothing has the name.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	clean, err := inside(name)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	fd, err := openIn(t.fd(), clean, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read %s: it is no regular file", name)
	case info.Size() > limit:
		return nil, fmt.Errorf("read %s: it has %d bytes, more than the %d that are read", name, info.Size(), limit)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// Stat says what a name leads to, links followed.
func (t *Tree) Stat(name string) (fs.FileInfo, error) {
	clean, err := inside(name)
	if err != nil {
		return nil, fmt.Errorf("look at: %w", err)
	}
	fd, err := openIn(t.fd(), clean, unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.Stat()
}

// unlink removes what is no folder, and an empty folder.
func unlink(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// finish gives a new file what belongs to it, whatever its kind, in the order in which
// none undoes another: a change of owner takes set-user-ID bits and capabilities away.
func finish(dir int, base string, e entry) error {
	if err := unix.Fchownat(dir, base, e.UID, e.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", e.UID, e.GID, err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFLNK {
		// Nothing follows: the name is no link, and nobody else is in this tree.
		if err := unix.Fchmodat(dir, base, unixMode(e.Mode), 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if kind == unix.S_IFREG || kind == unix.S_IFDIR {
		if err := setXattrs(dir, base, e.xattrs); err != nil {
			return err
		}
	}
	if e.time.IsZero() {
		return nil
	}
	return setTime(dir, base, e.time)
}

// unixMode is the mode of chmod(2).
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		u |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		u |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		u |= unix.S_ISVTX
	}
	return u
}

// setXattrs sets extended attributes through a descriptor that followed no link.
func setXattrs(dir int, base string, xattrs []xattr) error {
	if len(xattrs) == 0 {
		return nil
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set attributes: %w", err)
	}
	defer unix.Close(fd)
	for _, x := range xattrs {
		if err := unix.Fsetxattr(fd, x.name, x.value, 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", x.name, err)
		}
	}
	return nil
}

func setTime(dir int, base string, at time.Time) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return fmt.Errorf("set time %s: %w", at, err)
	}
	if err := unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}
