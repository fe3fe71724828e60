package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// Once the first signal has come, a second one kills as if none was caught.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program; it gives the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := newApp(stdin, stdout, stderr)
	defer a.close()
	root := a.rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.started {
		err = usageError{err: err, see: cmd.CommandPath() + " --help"}
	}
	return a.fail(err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "nereid",
		Short: "Operate a Nereid datacenter: servers, platform images, networks, tokens",
		Long: `nereid shows and changes what a head node knows, and builds and imports platform images.

On the head node, as root, it uses the head node's Unix socket and needs no token. From elsewhere:

  export NEREID_SERVER=https://10.99.99.7:8443
  export NEREID_TOKEN_FILE=~/.nereid-token      # of "nereid token create"
  export NEREID_CA_SHA256=...                   # of "nereid datacenter show"

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not found, 4 refused, 5 head node does not answer,
6 timed out while waiting, 130 interrupted.`,
		Example: strings.TrimRight(`  nereid server list
  nereid server approve 4e455245-4944-4000-8000-000000000010 --hostname cn0
  nereid server setup cn0 --plan
  nereid server boot-log cn0
  nereid explain --mac 52:54:00:00:00:10`, "\n"),
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              verbOf,
		RunE:              needsVerb,
		PersistentPreRunE: a.start,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	a.globalFlags(root)
	root.AddCommand(
		a.serverCommand(),
		a.platformCommand(), a.imageCommand(),
		a.datacenterCommand(),
		a.instanceCommand(), a.packageCommand(),
		a.nictagCommand(), a.networkCommand(), a.poolCommand(), a.ipCommand(), a.nicCommand(), a.fabricCommand(), a.bondCommand(),
		a.firewallCommand(),
		a.tokenCommand(),
		a.eventsCommand(),
		a.explainCommand(),
		a.versionCommand(),
	)
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			documentCompletion(c)
		}
	}
	fitFlags(root)
	fitHelp(root)
	return root
}
