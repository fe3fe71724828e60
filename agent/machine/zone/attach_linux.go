package zone

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// firstLimit bounds the waits of a zone's first process and of the process that serves it
// for one another: systemd-nspawn sets the zone up in between.
const firstLimit = time.Minute

// Attach gives NICs that wait on the server to a zone, whose first process is leader: into
// its network namespace, under their names. One that is there is left as it is. The pair's
// other end stays in its bridge.
func Attach(leader int, nics []NIC) error {
	ns, err := namespaceOf(leader)
	if err != nil {
		return fmt.Errorf("find the zone's network: %w", err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("find the zone's network: %w", err)
	}
	defer inside.Close()
	var errs []error
	for _, n := range nics {
		if err := n.attach(ns, inside); err != nil {
			errs = append(errs, fmt.Errorf("give the zone NIC %s as %s: %w", n.MAC, n.Name, err))
		}
	}
	return errors.Join(errs...)
}

// namespaceOf opens a process's network namespace, and makes sure that it is not another
// process's that has its number now.
func namespaceOf(pid int) (netns.NsHandle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return netns.None(), fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return ns, err
	}
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		ns.Close()
		return netns.None(), fmt.Errorf("process %d: %w", pid, err)
	}
	own, err := netns.Get()
	if err == nil {
		if own.Equal(ns) {
			err = fmt.Errorf("process %d is in no zone", pid)
		}
		own.Close()
	}
	if err != nil {
		ns.Close()
		return netns.None(), err
	}
	return ns, nil
}

func (n NIC) attach(ns netns.NsHandle, inside *netlink.Handle) error {
	waits := Peer(n.MAC)
	l, err := netlink.LinkByName(waits)
	switch {
	case err == nil:
		if err := netlink.LinkSetNsFd(l, int(ns)); err != nil {
			return err
		}
	case !notFound(err):
		return err
	}
	// What was cut half way has the name that it has on the server.
	l, err = inside.LinkByName(waits)
	if notFound(err) {
		if _, err = inside.LinkByName(n.Name); notFound(err) {
			return errors.New("it is neither on the server nor in the zone")
		}
		return err
	}
	if err != nil {
		return err
	}
	if err := inside.LinkSetName(l, n.Name); err != nil {
		return fmt.Errorf("name it: %w", err)
	}
	return nil
}

func notFound(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none)
}

// A zone's first process asks for the zone's NICs on a socket in the folder that it has
// of the server's: so they are in the zone's own namespace, which systemd-nspawn made,
// before anything of the image runs. Once it has set them up it says so, and waits until
// that is noted, before it becomes the image's init. The server's side is a process of the
// zone's unit, and ends with that.
const firstSocket = "first.sock" // in insideDir, and so in Inner

// Words of that socket.
const (
	wordDone = "done"
	wordFail = "failed: "
	wordUp   = "up"
)

// serve starts what a zone's first process asks.
func serve(dir string) error {
	path := filepath.Join(dir, insideDir, firstSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	// The zone's root is another user here; Give looks who it is.
	if err := os.Chmod(path, 0o666); err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	f, err := l.File()
	if err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	defer f.Close()
	cmd := exec.Command(Program, "give", dir)
	cmd.Env = append(os.Environ(), "MAINPID="+strconv.Itoa(os.Getpid()))
	cmd.ExtraFiles, cmd.Stderr, cmd.Dir = []*os.File{f}, os.Stderr, "/"
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	return cmd.Process.Release() // it ends with the unit at the latest
}

// Give is what Enter starts beside the zone; descriptor 3 is its socket. It gives the zone
// whose folder is dir its NICs, and notes that the zone is set up, both once. pid is the
// zone's nspawn.
func Give(dir string, pid int) error {
	small()
	h, err := Read(dir)
	if err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	in, err := Now(dir)
	if err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	h.NICs = in.of(h)
	f := os.NewFile(3, firstSocket)
	fl, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	l, ok := fl.(*net.UnixListener)
	if !ok {
		return errors.New("serve the zone's first process: descriptor 3 is no Unix socket")
	}
	defer l.Close()
	defer os.Remove(filepath.Join(dir, insideDir, firstSocket))
	return h.give(l, func() error { return ran(dir, pid) })
}

// small keeps this process small: it is one of the zone's unit, whose memory it uses. The
// messages of netlink alone would be megabytes before the runtime's first collection.
func small() { debug.SetGCPercent(10) }

// give gives the zone that asks at a socket its NICs, and calls up when it says that it is
// set up.
func (h Host) give(l *net.UnixListener, up func() error) error {
	if err := l.SetDeadline(time.Now().Add(firstLimit)); err != nil {
		return fmt.Errorf("serve the zone's first process: %w", err)
	}
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return fmt.Errorf("serve the zone's first process: it did not ask: %w", err)
		}
		who, err := peer(c)
		if err != nil || who.Uid != h.Base {
			c.Close()
			if err != nil {
				return fmt.Errorf("serve the zone's first process: %w", err)
			}
			continue // it is not the zone's root
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(firstLimit)); err != nil {
			return fmt.Errorf("serve the zone's first process: %w", err)
		}
		if err := answer(c, Attach(int(who.Pid), h.NICs)); err != nil {
			fmt.Fprintln(os.Stderr, "nereid-zone: give NICs:", err) // the zone starts, and tells, too
		}
		line, err := bufio.NewReader(io.LimitReader(c, int64(len(wordUp))+1)).ReadString('\n')
		if err != nil || strings.TrimSpace(line) != wordUp {
			return fmt.Errorf("serve the zone's first process: it said %q, not that it is set up: %w", line, err)
		}
		return answer(c, up())
	}
}

// peer is who is at the other end.
func peer(c *net.UnixConn) (who *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return who, errors.Join(cerr, err)
}

// answer tells what came of what was asked, and gives it.
func answer(c net.Conn, err error) error {
	word := wordDone
	if err != nil {
		word = wordFail + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	_, werr := fmt.Fprintln(c, word)
	return errors.Join(err, werr)
}

// server is what a zone's first process has at the other end of its socket.
type server struct {
	conn net.Conn
	read *bufio.Reader
	err  error // it cannot be reached
}

// ask has the zone's NICs given to it, from within.
func ask(path string) (*server, error) {
	c, err := net.DialTimeout("unix", path, firstLimit)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(firstLimit))
	}
	if err != nil {
		err = fmt.Errorf("ask for NICs: %w", err)
		return &server{err: err}, err
	}
	s := &server{conn: c, read: bufio.NewReader(c)}
	return s, s.answer()
}

// up says that the zone is set up, and returns when that was noted.
func (s *server) up() error {
	if s.err != nil {
		return s.err
	}
	defer s.conn.Close()
	if _, err := fmt.Fprintln(s.conn, wordUp); err != nil {
		return fmt.Errorf("tell that the zone is set up: %w", err)
	}
	if err := s.answer(); err != nil {
		return fmt.Errorf("tell that the zone is set up: %w", err)
	}
	return nil
}

func (s *server) answer() error {
	line, err := s.read.ReadString('\n')
	if err != nil {
		s.err = err
		return err
	}
	if why, failed := strings.CutPrefix(strings.TrimSpace(line), wordFail); failed {
		return errors.New(why)
	}
	return nil
}
