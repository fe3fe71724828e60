package zone

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"nereid/agent/machine/mdata"
)

// Bounds of what zones may take of the server that answers them.
const (
	zoneSockets = 8  // connections of one zone
	largeLines  = 32 // lines beyond 4 KiB, of all zones
)

// Answerer answers what zones ask of their metadata, at their terminals and sockets. It
// keeps nothing that cannot be lost: one that starts finds all zones that run.
type Answerer struct {
	Entries string // as Metadata; empty: that
	Zones   string // as Dir; empty: that
	Changes Changes
	Log     *slog.Logger // nil: discard
}

// Run answers until ctx ends.
func (a *Answerer) Run(ctx context.Context) error {
	if a.Entries == "" {
		a.Entries, a.Zones = Metadata, Dir
	}
	if a.Changes.Dir == "" {
		a.Changes.Dir = WrittenDir()
	}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(a.Entries, 0o700); err != nil {
		return fmt.Errorf("answer zones: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	h := &hall{Answerer: a, all: map[string]*guest{}, large: make(chan struct{}, largeLines)}
	defer h.work.Wait()
	defer h.end()
	defer cancel()
	err := follow(ctx, a.Entries, func() error { return h.list(ctx) }, func(name string, gone bool) {
		if gone {
			h.drop(name)
		} else {
			h.add(ctx, name)
		}
	})
	if err != nil {
		return fmt.Errorf("answer zones: %w", err)
	}
	return nil
}

// hall has the zones that are answered. all is the following goroutine's.
type hall struct {
	*Answerer
	all   map[string]*guest
	large chan struct{}
	work  sync.WaitGroup
}

// guest is a zone that is answered.
type guest struct {
	terminal *os.File
	peer     *os.File // held so that a program that closes it is no hangup
	socket   *net.UnixListener
	cancel   context.CancelFunc
}

func (h *hall) list(ctx context.Context) error {
	entries, err := os.ReadDir(h.Entries)
	if err != nil {
		return err
	}
	for _, e := range entries {
		h.add(ctx, e.Name())
	}
	return nil
}

// add answers a zone that started. One that was answered under its name ended.
func (h *hall) add(ctx context.Context, uuid string) {
	if strings.HasSuffix(uuid, nextSuffix) {
		return
	}
	h.drop(uuid)
	ctx, cancel := context.WithCancel(ctx)
	g := &guest{cancel: cancel}
	h.all[uuid] = g
	src := &source{uuid: uuid, file: filepath.Join(h.Zones, uuid, guestFile), changes: h.Changes}
	entry := filepath.Join(h.Entries, uuid)
	if p, err := readProcess(entry); err == nil && p.Socket != "" {
		h.work.Go(func() { h.machine(ctx, entry, p, src) })
		return
	}
	if err := h.listen(g, uuid); err != nil {
		h.Log.Error("listen for a zone", "zone", uuid, "err", err)
	} else {
		h.work.Go(func() { h.accept(ctx, g.socket, src) })
	}
	if err := g.open(entry); err != nil {
		if !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) { // it has ended
			h.Log.Error("open a zone's terminal", "zone", uuid, "err", err)
		}
		return
	}
	h.work.Go(func() {
		err := mdata.Serve(ctx, mdata.Line{Conn: g.terminal, Serial: true, Large: h.large, Stuck: g.stuck}, src)
		if err != nil && ctx.Err() == nil {
			h.Log.Info("a zone's terminal is served no more", "zone", uuid, "err", err)
		}
	})
}

// open takes the zone's terminal.
func (g *guest) open(entry string) (err error) {
	if g.terminal, err = terminalOf(entry); err != nil {
		return err
	}
	c, err := g.terminal.SyscallConn()
	if err != nil {
		return err
	}
	var peer int
	cerr := c.Control(func(fd uintptr) { peer, err = peerOf(int(fd)) })
	if err = errors.Join(cerr, err); err != nil {
		return err
	}
	g.peer = os.NewFile(uintptr(peer), "terminal")
	return nil
}

// stuck makes the terminal as it was: an answer that nobody read is let go, and one that
// repeats what it is told stops that.
func (g *guest) stuck(unread bool) {
	c, err := g.peer.SyscallConn()
	if err != nil {
		return // it was closed
	}
	_ = c.Control(func(fd uintptr) { // what fails here ends by the next answer
		_ = rawTerminal(int(fd))
		if unread {
			_ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIFLUSH)
		}
	})
}

// listen makes the zone's socket, for its root alone.
func (h *hall) listen(g *guest, uuid string) error {
	dir := filepath.Join(h.Zones, uuid)
	z, err := Read(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, insideDir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // the next one may have its place
	if err := errors.Join(os.Chmod(path, 0o600), own(path, z.Base)); err != nil {
		l.Close()
		return err
	}
	g.socket = l
	return nil
}

// own gives a file to the user of a zone's root. Without one it stays.
func own(path string, base uint32) error {
	if base == 0 {
		return nil
	}
	return os.Chown(path, int(base), int(base))
}

func (h *hall) accept(ctx context.Context, l *net.UnixListener, src mdata.Source) {
	var open atomic.Int32
	for {
		c, err := l.Accept()
		if err != nil {
			return // it was closed
		}
		if open.Add(1) > zoneSockets {
			open.Add(-1)
			c.Close()
			continue
		}
		h.work.Go(func() {
			defer open.Add(-1)
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			_ = mdata.Serve(ctx, mdata.Line{Conn: c, Large: h.large}, src) // a guest may hang up as it likes
		})
	}
}

// drop ends answering a zone.
func (h *hall) drop(uuid string) {
	g := h.all[uuid]
	if g == nil {
		return
	}
	delete(h.all, uuid)
	g.cancel()
	if g.socket != nil {
		g.socket.Close()
	}
	for _, f := range []*os.File{g.terminal, g.peer} {
		if f != nil {
			f.Close()
		}
	}
}

func (h *hall) end() {
	for uuid := range h.all {
		h.drop(uuid)
	}
}

// Watch tells of the zones that have changes: at first of all that have some, then of
// each that has another one, until ctx ends.
func (c Changes) Watch(ctx context.Context, changed func(instance string)) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("watch changes of metadata: %w", err)
	}
	err := follow(ctx, c.Dir, func() error {
		all, err := c.All()
		for _, uuid := range all {
			changed(uuid)
		}
		return err
	}, func(name string, gone bool) {
		if !gone {
			changed(name)
		}
	})
	if err != nil {
		return fmt.Errorf("watch changes of metadata: %w", err)
	}
	return nil
}
