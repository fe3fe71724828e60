package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"nereid/bootserver"
	"nereid/headnode"
	"nereid/headnode/svp"
)

// options are the flags of run.
type options struct {
	dir, socket, ipxe, level, format string
	listen                           string
	httpPort, svpPort                int
}

func runCommand(dir *string, stderr io.Writer) *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the head node and its boot server",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.dir = *dir
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop) // nobody catches the second signal: it kills
			return serve(ctx, o, stderr)
		},
	}
	f := c.Flags()
	f.StringVar(&o.socket, "socket", "", "Unix socket of the API (default headnode.sock in the data directory and, as root, also /run/nereid/headnode.sock, where nereid looks)")
	f.StringVar(&o.listen, "listen", "", "address and port of HTTPS (default the admin address, port 8443)")
	f.IntVar(&o.httpPort, "http-port", 80, "port of the boot files; 0 runs no boot server")
	f.IntVar(&o.svpPort, "svp-port", 0, fmt.Sprintf("TCP port at which SmartOS nodes ask for the fabrics' maps; theirs is %d; 0: none", svp.Port))
	f.StringVar(&o.ipxe, "ipxe-dir", "", "directory of iPXE's programs (default where Debian has them)")
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.format, "log-format", "text", "text or json")
	return c
}

// serve joins head node and boot server and runs both.
func serve(ctx context.Context, o options, stderr io.Writer) (err error) {
	log, err := logger(stderr, o)
	if err != nil {
		return err
	}
	cfg := headnode.Config{Dir: o.dir, Socket: o.socket, Version: version, Logger: log}
	cfg.Shared = sharedSocket(o.socket, os.Geteuid(), os.Getenv("RUNTIME_DIRECTORY"))
	if o.listen != "" {
		if cfg.Listen, err = netip.ParseAddrPort(o.listen); err != nil {
			return fmt.Errorf("--listen %q: want an address and a port, as 10.99.99.7:8443", o.listen)
		}
	}
	if o.httpPort < 0 || o.httpPort > 65535 {
		return fmt.Errorf("--http-port %d: want 0 to 65535", o.httpPort)
	}
	if o.svpPort < 0 || o.svpPort > 65535 {
		return fmt.Errorf("--svp-port %d: want 0 to 65535", o.svpPort)
	}
	boot := &bootserver.Server{IPXEDir: o.ipxe, Logger: log, Ports: bootserver.Ports{HTTP: o.httpPort}}
	head, err := headnode.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, head.Close()) }()
	admin := head.Answers().Admin
	if o.listen == "" || o.httpPort != 0 || o.svpPort != 0 {
		if err := here(admin, log.Warn); err != nil {
			return err
		}
	}
	boot.Interface, boot.Address, boot.Clients = admin.Interface, admin.Address, admin.Clients
	boot.Booter, boot.Files, boot.Known, boot.Shed = head, head.Files(), head.Known, head.Shed

	g, ctx := errgroup.WithContext(ctx)
	ready := []<-chan struct{}{head.Ready()}
	if o.httpPort != 0 {
		head.BootServer(boot.Address.Addr(), o.httpPort)
		head.Explain, head.BootAlerts = boot.Explain, boot.Alerts
		under, err := head.BootsUnderWay(ctx)
		if err != nil {
			return err
		}
		boot.Resume(under)
		ready = append(ready, boot.Ready())
		g.Go(func() error { return boot.Run(ctx) })
	}
	if o.svpPort == 0 {
		if err := head.ForgetSVP(ctx); err != nil {
			return err
		}
	} else {
		g.Go(func() error { return head.RunSVP(ctx, netip.AddrPortFrom(admin.Address.Addr(), uint16(o.svpPort))) })
	}
	g.Go(func() error { return head.Run(ctx) })
	g.Go(func() error { return tell(ctx, head, ready, log) })
	return next(g.Wait(), os.Geteuid())
}

// next adds to an error of the system what to do about it.
func next(err error, uid int) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; another program listens there: ss -lntup shows which", err)
	case errors.Is(err, os.ErrPermission) && uid != 0:
		return fmt.Errorf("%w; a head node needs root: sudo nereid-headnode run, or systemctl start nereid-headnode", err)
	}
	return err
}

// sharedSocket is where nereid looks for a head node. Only root's is there, and
// only when no other place was asked for; runtime is what systemd made for it.
func sharedSocket(asked string, uid int, runtime string) string {
	if asked != "" || uid != 0 {
		return ""
	}
	return filepath.Join(cmp.Or(runtime, "/run/nereid"), headnode.SocketFile)
}

// tell keeps systemd informed: ready, alive, stopping.
func tell(ctx context.Context, head *headnode.Server, ready []<-chan struct{}, log *slog.Logger) error {
	for _, r := range ready {
		select {
		case <-r:
		case <-ctx.Done():
			return nil
		}
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read watchdog interval: %w", err)
	}
	var tick <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every / 3)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			_, err := daemon.SdNotify(false, daemon.SdNotifyStopping)
			return err
		case <-tick:
			if err := head.Alive(ctx); err != nil {
				log.Error("not alive; systemd restarts the head node if this goes on", "err", err)
				continue
			}
			if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
				log.Warn("notify watchdog", "err", err)
			}
		}
	}
}

// logger writes to stderr, without times under journald, which has its own.
func logger(w io.Writer, o options) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", o.level)
	}
	opts := &slog.HandlerOptions{Level: level}
	if os.Getenv("JOURNAL_STREAM") != "" {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	switch o.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", o.format)
}
