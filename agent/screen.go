package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"

	"nereid/agent/machine/vm"
	"nereid/api"
)

// screen is what is done for a session with a virtual machine's screen, whose sockets are
// in dir; nil: the session is of another kind.
func (z ZoneEntry) screen(kind string) func(ctx context.Context, dir, instance string, stdin io.ReadCloser, stdout io.Writer) error {
	switch kind {
	case api.SessionScreen:
		return func(ctx context.Context, dir, _ string, stdin io.ReadCloser, stdout io.Writer) error {
			return view(ctx, filepath.Join(dir, vm.Screen), stdin, stdout)
		}
	case api.SessionScreenshot:
		return func(ctx context.Context, _, instance string, _ io.ReadCloser, stdout io.Writer) error {
			png, err := z.VM.Screenshot(ctx, instance)
			if err == nil {
				_, err = stdout.Write(png)
			}
			return err
		}
	case api.SessionNMI:
		return func(ctx context.Context, _, instance string, _ io.ReadCloser, _ io.Writer) error {
			return z.VM.NMI(ctx, instance)
		}
	}
	return nil
}

// view has a viewer talk with a machine's VNC server, until either ends. Neither is
// understood here.
func view(ctx context.Context, socket string, stdin io.ReadCloser, stdout io.Writer) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("the instance does not run, or its screen cannot be reached: %w", err)
	}
	var saying sync.WaitGroup
	defer saying.Wait()
	defer stdin.Close()
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	saying.Go(func() {
		_, _ = io.Copy(c, stdin) // a server that has ended is told of below
		c.Close()                // the viewer has gone
	})
	if _, err := io.Copy(stdout, c); err != nil && ctx.Err() == nil {
		return nil // either has gone
	}
	return ctx.Err()
}
