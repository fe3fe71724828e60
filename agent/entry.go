package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"nereid/agent/machine/enter"
	"nereid/agent/machine/ga"
	"nereid/agent/machine/vm"
	"nereid/api"
)

// ZoneEntry is the way into zones.
type ZoneEntry struct {
	Program string                                                  // nereid-zone
	Leader  func(ctx context.Context, instance string) (int, error) // a zone's first process
	Log     func(instance string) string                            // where what it printed is kept
	Console func(instance string) (pid int, err error)              // process that has its console
	Image   func(instance string) api.ImageRun                      // what its image says of programs
	// Sockets is the folder of a virtual machine's sockets; empty: the instance is none.
	Sockets func(instance string) string
	VM      VirtualMachines
	// Keyboards are those of virtual machines.
	Keyboards *Keyboards
}

// VirtualMachines are what virtual machines have that zones have not.
type VirtualMachines interface {
	// Screenshot is what is on a machine's screen, as PNG.
	Screenshot(ctx context.Context, instance string) (png []byte, err error)
	// NMI sends a machine's guest an interrupt that it cannot ignore.
	NMI(ctx context.Context, instance string) error
	// Guest is the agent in a machine's guest.
	Guest(ctx context.Context, instance string) (*ga.Agent, error)
}

// Enter has a session with a zone: see Entry.
func (z ZoneEntry) Enter(ctx context.Context, instance string, r api.SessionRequest, stdin io.ReadCloser, stdout, stderr io.Writer, resize <-chan api.TerminalSize) (int, error) {
	if r.Kind == api.SessionConsole {
		if err := z.console(ctx, instance, r, stdin, stdout, stderr, resize); err != nil {
			return noProgram, err
		}
		return 0, nil
	}
	if dir := z.sockets(instance); dir != "" {
		if do := z.screen(r.Kind); do != nil {
			if err := do(ctx, dir, instance, stdin, stdout); err != nil {
				return noProgram, err
			}
			return 0, nil
		}
		if err := unableInGuest(r); err != nil {
			return noProgram, err
		}
		g, err := z.VM.Guest(ctx, instance)
		if err != nil {
			return noProgram, err
		}
		return inGuest(ctx, g, r, stdin, stdout, stderr)
	}
	if z.screen(r.Kind) != nil {
		return noProgram, errors.New("the instance is a zone, which has no screen and takes no NMI: use its console, or a shell in it")
	}
	leader, err := z.Leader(ctx, instance)
	if err != nil {
		return noProgram, fmt.Errorf("the instance does not run: %w", err)
	}
	image := z.Image(instance)
	want := enter.Request{Kind: r.Kind, Command: r.Command, Env: append(image.Env[:len(image.Env):len(image.Env)], r.Env...), User: r.User, Dir: r.Dir, Path: r.Path, Mode: r.Mode}
	if r.TTY != nil {
		want.TTY = &enter.Size{Rows: r.TTY.Rows, Columns: r.TTY.Columns}
	}
	sizes := make(chan enter.Size)
	var forwarding sync.WaitGroup
	defer forwarding.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	forwarding.Go(func() { forward(ctx, resize, sizes) })
	return enter.Run(ctx, z.Program, leader, want, stdin, stdout, stderr, sizes)
}

// console shows what an instance printed and prints, and with input types at it.
func (z ZoneEntry) console(ctx context.Context, instance string, r api.SessionRequest, stdin io.ReadCloser, stdout, stderr io.Writer, resize <-chan api.TerminalSize) error {
	if !r.Input {
		return enter.Console(ctx, z.Log(instance), r.Follow, stdout, stdout)
	}
	if dir := z.sockets(instance); dir != "" {
		return z.machine(ctx, filepath.Join(dir, vm.Console), instance, stdin, stdout, stderr)
	}
	if _, err := z.Console(instance); err != nil {
		return fmt.Errorf("the instance does not run: %w", err)
	}
	var size *enter.Size
	if r.TTY != nil {
		size = &enter.Size{Rows: r.TTY.Rows, Columns: r.TTY.Columns}
	}
	var typing sync.WaitGroup
	defer typing.Wait()
	defer stdin.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sizes := make(chan enter.Size)
	typing.Go(func() { forward(ctx, resize, sizes) })
	typing.Go(func() {
		enter.Type(ctx, func() (int, error) { return z.Console(instance) }, stdin, size, sizes)
	})
	return enter.Console(ctx, z.Log(instance), true, stderr, stdout)
}

func (z ZoneEntry) sockets(instance string) string {
	if z.Sockets == nil {
		return ""
	}
	return z.Sockets(instance)
}

// machine is console with input for a virtual machine. Its serial port has one line, and
// one keyboard: see Keyboards. What is printed is read from the log, by as many as like.
func (z ZoneEntry) machine(ctx context.Context, socket, instance string, stdin io.ReadCloser, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &typist{turn: z.Keyboards.turn(instance), socket: socket}
	defer t.let()
	if err := t.take(ctx); err != nil {
		return err
	}
	var typing sync.WaitGroup
	defer typing.Wait()
	defer stdin.Close()
	defer cancel() // a machine that does not read holds up who types, until they go
	typing.Go(func() { t.listen(ctx, stdin, stdout) })
	return enter.Console(ctx, z.Log(instance), true, stderr, stdout)
}

// forward hands sizes of a terminal over until ctx ends.
func forward(ctx context.Context, from <-chan api.TerminalSize, to chan<- enter.Size) {
	for {
		select {
		case s := <-from:
			select {
			case to <- enter.Size{Rows: s.Rows, Columns: s.Columns}:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
