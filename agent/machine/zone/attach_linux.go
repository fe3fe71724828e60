package zone

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// attachLimit bounds the wait for a zone's first process to ask for its NICs, and its
// wait for them: systemd-nspawn sets the zone up in between.
const attachLimit = time.Minute

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
// before anything of the image runs. The server's side is a process of the zone's unit,
// and goes with the first answer.
const nicSocket = "nics.sock" // in insideDir, and so in Inner

// Words of that socket.
const (
	wordDone = "done"
	wordFail = "failed: "
)

// offer starts what gives the zone its NICs when it asks for them.
func offer(dir string, h Host) error {
	if len(h.NICs) == 0 {
		return nil
	}
	path := filepath.Join(dir, insideDir, nicSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("offer NICs: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("offer NICs: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	// The zone's root is another user here; Give looks who it is.
	if err := os.Chmod(path, 0o666); err != nil {
		return fmt.Errorf("offer NICs: %w", err)
	}
	f, err := l.File()
	if err != nil {
		return fmt.Errorf("offer NICs: %w", err)
	}
	defer f.Close()
	cmd := exec.Command(Program, "give", dir)
	cmd.ExtraFiles, cmd.Stderr, cmd.Dir = []*os.File{f}, os.Stderr, "/"
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("offer NICs: %w", err)
	}
	return cmd.Process.Release() // it ends with the unit at the latest
}

// Give is what offer starts: descriptor 3 is the socket. It gives the zone whose folder is
// dir its NICs, once.
func Give(dir string) error {
	h, err := Read(dir)
	if err != nil {
		return fmt.Errorf("give NICs: %w", err)
	}
	in, err := Now(dir)
	if err != nil {
		return fmt.Errorf("give NICs: %w", err)
	}
	h.NICs = in.of(h)
	f := os.NewFile(3, nicSocket)
	fl, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("give NICs: %w", err)
	}
	l, ok := fl.(*net.UnixListener)
	if !ok {
		return errors.New("give NICs: descriptor 3 is no Unix socket")
	}
	defer l.Close()
	defer os.Remove(filepath.Join(dir, insideDir, nicSocket))
	if err := l.SetDeadline(time.Now().Add(attachLimit)); err != nil {
		return fmt.Errorf("give NICs: %w", err)
	}
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return fmt.Errorf("give NICs: no zone asked for them: %w", err)
		}
		given, err := h.give(c)
		c.Close()
		if given || err != nil {
			return err
		}
	}
}

// give answers who asks; given is false for one that is not the zone's root.
func (h Host) give(c *net.UnixConn) (given bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("give NICs: %w", err)
	}
	var who *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return false, fmt.Errorf("give NICs: %w", err)
	}
	if who.Uid != h.Base {
		return false, nil
	}
	answer := wordDone
	if err = Attach(int(who.Pid), h.NICs); err != nil {
		answer = wordFail + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	_ = c.SetWriteDeadline(time.Now().Add(attachLimit))
	_, werr := fmt.Fprintln(c, answer)
	return true, errors.Join(err, werr)
}

// ask has the zone's NICs given to it, from within.
func ask() error {
	c, err := net.DialTimeout("unix", filepath.Join(Inner, nicSocket), attachLimit)
	if err != nil {
		return fmt.Errorf("ask for NICs: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(attachLimit)); err != nil {
		return fmt.Errorf("ask for NICs: %w", err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return fmt.Errorf("ask for NICs: %w", err)
	}
	if why, failed := strings.CutPrefix(strings.TrimSpace(line), wordFail); failed {
		return errors.New(why)
	}
	return nil
}
