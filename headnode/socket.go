package headnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// errSocketTaken says that a process listens on a socket already.
var errSocketTaken = errors.New("another head node has it")

// socket is a Unix socket for this user and root alone. Its lock, a file beside
// it, is held while it is open: the kernel gives it back when the process dies,
// so that a socket without one is a dead one.
type socket struct {
	net.Listener
	path string
	lock *os.File
}

// listenUnix opens a socket, in place of a dead one.
func listenUnix(ctx context.Context, path string) (_ *socket, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("listen on %s: %w", path, err)
		}
	}()
	if len(path) > 107 {
		return nil, errors.New("the path is longer than the 107 bytes a Unix socket may have; choose a shorter one")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	switch err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, errSocketTaken
	case err != nil:
		return nil, fmt.Errorf("lock: %w", err)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
		if c, err := (&net.Dialer{}).DialContext(ctx, "unix", path); err == nil { // one that knows of no lock
			_ = c.Close()
			return nil, errSocketTaken
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // removed when all is done
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return &socket{Listener: l, path: path, lock: lock}, nil
}

// remove takes the socket away once nobody is served any more.
func (s *socket) remove() error {
	err := os.Remove(s.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.lock.Close())
}

// sockets opens the head node's own socket, and the one where the CLI looks
// unless another head node of this machine has that.
func (s *Server) sockets(ctx context.Context) (open []*socket, err error) {
	own, err := listenUnix(ctx, s.cfg.Socket)
	if err != nil {
		return nil, err
	}
	open = append(open, own)
	if s.cfg.Shared == "" || s.cfg.Shared == s.cfg.Socket {
		return open, nil
	}
	shared, err := listenUnix(ctx, s.cfg.Shared)
	if err != nil {
		s.log.Warn("nereid does not find this head node by itself; tell it where: nereid --server "+s.cfg.Socket, "err", err)
		return open, nil
	}
	return append(open, shared), nil
}
