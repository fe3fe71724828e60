package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"nereid/agent"
	"nereid/agent/power"
	"nereid/agent/storage"
	"nereid/agent/sysinfo"
)

// version is set when the platform is built (-ldflags -X main.version=...).
var version = "devel"

// exitConfig is EX_CONFIG of sysexits.h: starting again does not help.
const exitConfig = 78

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal, the next one ends the program.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "nereid-agent: "+err.Error())
	if errors.Is(err, agent.ErrNotBooted) {
		os.Exit(exitConfig)
	}
	os.Exit(1)
}

// run is the program without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	root := &cobra.Command{
		Use:           "nereid-agent",
		Short:         "Make this server match what its head node wants of it",
		Long:          "nereid-agent runs on every server that Nereid booted. It imports the pool,\nenrols with the head node, reports, and makes the server match its spec. Without\na command it does \"run\".",
		Example:       "  nereid-agent run\n  nereid-agent status\n  nereid-agent disklayout --disks disks.json --layout raidz2 --spares 1",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), o, stderr) },
	}
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "FlagUsages", "FlagUsagesWrapped 80"))
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&o.dir, "run-dir", "/run/nereid", "folder of this boot's files, in RAM")
	root.PersistentFlags().BoolVar(&o.stateless, "stateless-firewall", false, "judge every packet by itself, replies too: for kernels without connection tracking on bridges")
	root.PersistentFlags().StringVar(&o.log, "log-level", "info", "debug, info, warn or error")
	root.AddCommand(runCommand(&o, stderr), layoutCommand(), sysinfoCommand(), statusCommand(&o), versionCommand())
	return root.ExecuteContext(ctx)
}

func runCommand(o *options, stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:     "run",
		Short:   "Run the agent until it is told to stop (the default)",
		Example: "  nereid-agent run --log-level debug",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), *o, stderr) },
	}
}

// runAgent joins the agent with the operating system.
func runAgent(ctx context.Context, o options, stderr io.Writer) (err error) {
	console := agent.Console("/dev/console")
	defer func() { // as a service it has no other way to tell people
		if err != nil && os.Getenv("NOTIFY_SOCKET") != "" {
			fmt.Fprintf(console, "nereid: The agent could not start: %v.\r\n", err)
		}
	}()
	log, err := newLog(o.log, stderr)
	if err != nil {
		return err
	}
	boot, err := agent.ReadBoot(o.dir)
	if err != nil {
		return err
	}
	hw, err := sysinfo.Read(ctx, sysinfo.Roots{})
	if err != nil {
		return fmt.Errorf("read hardware: %w", err)
	}
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read watchdog settings: %w", err)
	}
	st := &storage.Storage{UUID: agent.ServerUUID(o.dir, boot, hw.UUID), Log: log}
	reader := &sysinfo.Reader{Content: st.Content, InUse: st.InUse}
	a := &agent.Agent{
		Boot: boot, UUID: st.UUID, Dir: o.dir, Version: version,
		Pools: st, Config: st, Hardware: reader,
		Power: power.Manager{}, Host: agent.OS{},
		Console: console, Log: log, Watchdog: period,
		Notify: func(state string) error { _, err := daemon.SdNotify(false, state); return err },
	}
	st.BeforeComplete = a.StoreKey
	stop, err := joinNetwork(a, o.stateless)
	if err != nil {
		return err
	}
	defer stop()
	defer joinZones(a, st, reader)()
	log.Info("starting", "version", version, "server", st.UUID, "boot", boot.BootID, "platform", boot.Platform)
	return a.Run(ctx)
}

// newLog writes to standard error, without times where the journal adds them.
func newLog(level string, w io.Writer) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	if os.Getenv("JOURNAL_STREAM") != "" {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

// printJSON writes v for people and programs alike.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
