package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) instanceScreenshot() *cobra.Command {
	return &cobra.Command{
		Use:   "screenshot NAME FILE.png",
		Short: "Save what is on the screen of a virtual machine",
		Long: `Saves what is on the screen of a virtual machine that runs, as PNG. - is standard output. FILE appears when it is whole. A zone has no screen:
see logs for what it printed.`,
		Example: lines("nereid instance screenshot vm0 vm0.png"),
		Args:    wants("NAME", "FILE.png"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, to string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeInstances()(cmd, nil, to)
			}
			return nil, cobra.ShellCompDirectiveDefault // files
		},
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			r := api.SessionRequest{Kind: api.SessionScreenshot}
			if args[1] == "-" {
				return exitStatus(a.session(ctx, c, args[0], r, nil, a.stdout, a.stderr))
			}
			f, err := renameio.NewPendingFile(args[1], renameio.WithPermissions(0o644))
			if err != nil {
				return fmt.Errorf("save screenshot: %w", err)
			}
			defer f.Cleanup()
			if err := exitStatus(a.session(ctx, c, args[0], r, nil, f, a.stderr)); err != nil {
				return err
			}
			if err := f.CloseAtomicallyReplace(); err != nil {
				return fmt.Errorf("save screenshot: %w", err)
			}
			return a.done(map[string]string{"file": args[1]}, "screenshot of %s is %s", args[0], args[1])
		}),
	}
}

func (a *app) instanceNMI() *cobra.Command {
	return &cobra.Command{
		Use:   "nmi NAME",
		Short: "Interrupt a virtual machine whose kernel hangs",
		Long: `Sends a virtual machine that runs an interrupt which its guest cannot ignore (NMI). What comes of it is the guest's matter: many kernels can be
told to write a dump of their memory then, or to panic. Linux says no more than a line in its log, unless kernel.unknown_nmi_panic is 1.`,
		Example:           lines("nereid instance nmi vm0"),
		Args:              wants("NAME"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			if err := exitStatus(a.session(ctx, c, args[0], api.SessionRequest{Kind: api.SessionNMI}, nil, io.Discard, a.stderr)); err != nil {
				return err
			}
			return a.done(map[string]string{"instance": args[0]}, "instance %s was sent an NMI", args[0])
		}),
	}
}

// Ports that VNC viewers know by numbers of displays from 1 on (RFC 6143, section 8.1.1).
const (
	firstDisplay = 5901
	lastDisplay  = 5999
)

func (a *app) instanceVNC() *cobra.Command {
	port := 0
	cmd := &cobra.Command{
		Use:   "vnc NAME",
		Short: "Show the screen of a virtual machine in a VNC viewer",
		Long: `Opens a port on this machine for a VNC viewer of yours, and carries what that and the screen of a virtual machine say, until Ctrl-C. One viewer is
served at a time; the next one is when it has gone. The port is at 127.0.0.1, where every user of this machine reaches it, without a password.`,
		Example:           lines("nereid instance vnc vm0", "nereid instance vnc vm0 --port 5999"),
		Args:              wants("NAME"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			if port < 0 || port > 65535 {
				return usagef("--port %d: want 1 to 65535", port)
			}
			i, err := c.Instances().Get(ctx, args[0])
			if err != nil {
				return err
			}
			if i.Brand != api.BrandKVM {
				return refusedf("instance %s is a zone, which has no screen; sit at its console: nereid instance console %s", i.Name, i.UUID)
			}
			l, err := listenVNC(ctx, port)
			if err != nil {
				return err
			}
			defer l.Close()
			return a.serveVNC(ctx, c, i, l)
		}),
	}
	cmd.Flags().IntVar(&port, "port", 0, "port at 127.0.0.1 (default the first free one from 5901 on)")
	return cmd
}

// listenVNC listens at a port of this machine; 0: the first free one that a viewer knows
// by the number of a display.
func listenVNC(ctx context.Context, port int) (net.Listener, error) {
	last := port
	if port == 0 {
		port, last = firstDisplay, lastDisplay
	}
	for {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return l, nil
		}
		if port++; port > last {
			return nil, fmt.Errorf("open a port for a viewer: %w; take another one with --port", err)
		}
	}
}

// serveVNC serves viewers, one after the other, until ctx ends.
func (a *app) serveVNC(ctx context.Context, c *api.Client, i api.Instance, l net.Listener) error {
	at := l.Addr().String()
	if err := a.done(map[string]string{"address": at}, "screen of %s: point a VNC viewer at %s; Ctrl-C ends this", i.Name, at); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		viewer, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				viewer.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for a viewer: %w", err)
		}
		_, err = a.session(ctx, c, i.UUID, api.SessionRequest{Kind: api.SessionScreen}, viewer, viewer, io.Discard)
		viewer.Close()
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(a.stderr, "nereid: a viewer was not served:", oneLine(err.Error()))
		}
	}
}
