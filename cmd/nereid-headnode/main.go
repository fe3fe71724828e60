package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"nereid/headnode"
)

// version is set by the Makefile (-ldflags -X main.version=...).
var version = "devel"

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "nereid-headnode:", err)
		os.Exit(1)
	}
}

// run is the program; tests call it too.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := command(stdin, stderr)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// command is the program's command line.
func command(stdin io.Reader, stderr io.Writer) *cobra.Command {
	dir := "/var/lib/nereid"
	root := &cobra.Command{
		Use:           "nereid-headnode",
		Short:         "The head node of a Nereid datacenter",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "FlagUsages", "FlagUsagesWrapped 80"))
	root.PersistentFlags().StringVar(&dir, "data-dir", dir, "directory that holds all state")
	root.AddCommand(initCommand(&dir, stdin), runCommand(&dir, stderr), &cobra.Command{
		Use: "unit", Short: "Print the systemd unit", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := io.WriteString(c.OutOrStdout(), headnode.Unit)
			return err
		},
	}, &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), version)
			return err
		},
	})
	return root
}
