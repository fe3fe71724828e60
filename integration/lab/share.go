package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// A rack's head node and machines are children of the process that made it, and end
// with it. Share lets other processes, one test after the other (Turn), use the rack:
// what only the parent can do, it does at their word.
//
//	process of the rack --- DIR/rack.sock (net/rpc) --- a process that joined
//	     |                                                |
//	head node, QEMU  <--- its API, the machines' shells --+

// card is what a rack's directory says of it to who joins.
type card struct {
	Namespace string
	Accel     Accel
	Machines  []MachineSpec
	Born      []string // its state at Settle
}

func cardFile(dir string) string { return filepath.Join(dir, "rack.json") }

// RackLog is the file that the rack's process logs to: among others, what it did for a
// machine whose emulator failed.
func RackLog(dir string) string { return filepath.Join(dir, "rack.log") }

// Turn gives the rack in a directory to the caller alone, once all who had it before have
// called the function that it gives, or ended. Racks are for one test at a time.
func Turn(dir string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "rack.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("wait for a turn on the rack: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for a turn on the rack in %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing it is what gives the lock away
}

func orderSocket(dir string) string { return filepath.Join(dir, "rack.sock") }

// Share lets other processes join the rack until ctx ends, or Close ends the rack.
func (r *Rack) Share(ctx context.Context) error {
	c := card{Namespace: r.Namespace, Accel: r.opts.Accel, Born: r.born}
	for _, m := range r.Machines() {
		c.Machines = append(c.Machines, m.Spec)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("share the rack: %w", err)
	}
	ctx, r.unshare = context.WithCancel(ctx)
	orders := rpc.NewServer()
	if err := orders.RegisterName("Rack", &owner{ctx, r}); err != nil {
		return fmt.Errorf("share the rack: %w", err)
	}
	_ = os.Remove(orderSocket(r.opts.Dir))
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", orderSocket(r.opts.Dir))
	if err != nil {
		return fmt.Errorf("share the rack: %w", err)
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	r.wait.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // ctx ended, or the rack was closed
			}
			r.wait.Go(func() {
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				orders.ServeConn(conn) // until the other process has what it wanted, or ended
			})
		}
	})
	if err := os.WriteFile(cardFile(r.opts.Dir), b, 0o600); err != nil {
		return fmt.Errorf("share the rack: %w", err)
	}
	return nil
}

// Order is something to do to the head node or, when it names one, to a machine.
type Order struct {
	Machine string
	Do      string
	Args    []any // names and values in turn, of a command of QEMU's monitor
}

// owner carries orders out. Its context is the rack's own: what it starts outlives
// who asked for it.
type owner struct {
	ctx  context.Context
	rack *Rack
}

// Do carries an order out. pid is the head node's process id after it.
func (o *owner) Do(order Order, pid *int) error {
	defer func() { *pid = o.rack.HeadnodePID() }()
	if order.Machine == "" {
		switch order.Do {
		case "start":
			return o.rack.StartHeadnode(o.ctx)
		case "stop":
			o.rack.StopHeadnode()
		case "kill":
			o.rack.KillHeadnode()
		case "look":
		default:
			return fmt.Errorf("the head node cannot %s", order.Do)
		}
		return nil
	}
	m := o.rack.machine(order.Machine)
	switch {
	case m == nil:
		return fmt.Errorf("the rack has no machine %s", order.Machine)
	case order.Do == "power on":
		return m.PowerOn(o.ctx)
	case order.Do == "power off":
		m.PowerOff()
		return nil
	case order.Do == "await off":
		select {
		case <-m.Off():
			return nil
		case <-o.ctx.Done():
			return o.ctx.Err()
		}
	}
	return m.command(o.ctx, order.Do, order.Args...)
}

func (r *Rack) machine(name string) *Machine {
	for _, m := range r.Machines() {
		if m.Spec.Name == name {
			return m
		}
	}
	return nil
}

// Join gives the rack that another process shares in a directory. Close leaves it as it
// is.
func Join(dir string, log *slog.Logger) (*Rack, error) {
	var c card
	b, err := os.ReadFile(cardFile(dir))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return nil, fmt.Errorf("join the rack in %s: %w", dir, err)
	}
	orders, err := rpc.Dial("unix", orderSocket(dir))
	if err != nil {
		return nil, fmt.Errorf("join the rack in %s: %w", dir, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Rack{opts: Options{Dir: dir, Accel: c.Accel}, log: log, Namespace: c.Namespace, parent: orders, born: c.Born}
	for _, spec := range c.Machines {
		r.machines = append(r.machines, &Machine{rack: r, Spec: spec})
	}
	return r, nil
}

// Machines are the rack's machines, in the order they were added.
func (r *Rack) Machines() []*Machine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.machines)
}

// order lets the rack's own process do something, and gives the head node's process id.
func (r *Rack) order(ctx context.Context, o Order) (pid int, err error) {
	call := r.parent.Go("Rack.Do", o, &pid, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		return pid, call.Error
	case <-ctx.Done():
		return 0, fmt.Errorf("%s %s: %w", o.Do, o.Machine, ctx.Err())
	}
}

// tell lets the rack's own process do something that nobody breaks off, and gives the
// head node's process id. A rack whose process ended does nothing.
func (r *Rack) tell(o Order) (pid int) {
	_ = r.parent.Call("Rack.Do", o, &pid) // the rack is gone: so is what it is told to end
	return pid
}

// offOf is closed when a machine of another process's rack goes off.
func (m *Machine) offOf() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off == nil {
		off := make(chan struct{})
		call := m.rack.parent.Go("Rack.Do", Order{Machine: m.Spec.Name, Do: "await off"}, new(int), make(chan *rpc.Call, 1))
		m.rack.wait.Go(func() {
			<-call.Done // also when the rack's process ended, or Close ended the conversation
			close(off)
		})
		m.off = off
	}
	return m.off
}

var errJoined = errors.New("the rack is another process's")
