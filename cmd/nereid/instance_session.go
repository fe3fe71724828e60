package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) instanceExec() *cobra.Command {
	var r api.SessionRequest
	var tty bool
	cmd := &cobra.Command{
		Use:   "exec NAME -- PROGRAM [ARGUMENT...]",
		Short: "Run a program in an instance, and end with its exit status",
		Long: `Runs a program in an instance with this command's input and output, and ends with the program's exit status; 126 and 127 say that there
was none. What it writes comes byte for byte. With --tty the program has a terminal. In a virtual machine the guest's agent (qemu-guest-agent) runs it
as root: without a terminal, with at most 1 MiB of input, and what it writes comes when it has ended.`,
		Example: lines("nereid instance exec web0 -- cat /etc/hostname",
			"nereid instance exec web0 --user www-data -- tar x -C /srv < site.tar",
			"nereid instance exec web0 --tty -- top"),
		Args:              wants("NAME", "PROGRAM..."),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			r.Kind, r.Command = api.SessionExec, args[1:]
			if !tty && isTerminal(a.stdin) {
				i, err := c.Instances().Get(ctx, args[0])
				if err != nil {
					return err
				}
				if i.Brand == api.BrandKVM { // what a program there reads goes with its start
					return exitStatus(a.session(ctx, c, args[0], r, nil, a.stdout, a.stderr))
				}
			}
			return a.enter(ctx, c, args[0], r, tty)
		}),
	}
	cmd.Flags().StringVar(&r.User, "user", "", "user inside, by name or number (default root)")
	cmd.Flags().StringVar(&r.Dir, "dir", "", "working directory (default the user's home)")
	cmd.Flags().StringArrayVar(&r.Env, "env", nil, "NAME=VALUE for the program's environment; may be given again")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "give the program a terminal")
	return cmd
}

func (a *app) instanceShell() *cobra.Command {
	var r api.SessionRequest
	cmd := &cobra.Command{
		Use:   "shell NAME",
		Short: "Open a login shell in an instance",
		Long: `Opens the user's login shell in an instance, on a terminal of this one's size. It ends with the shell; when the head node or the server goes
away meanwhile, the shell is ended too.`,
		Example:           lines("nereid instance shell web0", "nereid instance shell web0 --user alice"),
		Args:              wants("NAME"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			r.Kind = api.SessionExec
			return a.enter(ctx, c, args[0], r, isTerminal(a.stdin))
		}),
	}
	cmd.Flags().StringVar(&r.User, "user", "", "user inside, by name or number (default root)")
	return cmd
}

// enter runs a program in an instance, on a terminal or not.
func (a *app) enter(ctx context.Context, c *api.Client, instance string, r api.SessionRequest, tty bool) error {
	if tty {
		size := a.terminalSize()
		r.TTY = &size
		restore, err := a.rawTerminal()
		if err != nil {
			return err
		}
		defer restore()
	}
	return exitStatus(a.session(ctx, c, instance, r, a.stdin, a.stdout, a.stderr))
}

func (a *app) instanceLogs() *cobra.Command {
	follow := false
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Show what an instance wrote to its console",
		Long: `Shows what an instance wrote to its console: at most the last 1 MiB, which the server keeps on its pool, so that what was written before anybody
looked is there.`,
		Example:           lines("nereid instance logs web0 --follow"),
		Args:              wants("NAME"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			return exitStatus(a.session(ctx, c, args[0], api.SessionRequest{Kind: api.SessionConsole, Follow: follow}, nil, consoleWriter(a.stdout), a.stderr))
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written from now on, until Ctrl-C")
	return cmd
}

// consoleWriter keeps what an instance wrote from driving a terminal: its control
// sequences are left out there. A file gets every byte.
func consoleWriter(w io.Writer) io.Writer {
	if !isTerminal(w) {
		return w
	}
	return cleaner{w}
}

type cleaner struct{ w io.Writer }

func (c cleaner) Write(b []byte) (int, error) {
	if _, err := io.WriteString(c.w, clean(strings.ReplaceAll(string(b), "\r\n", "\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (a *app) instancePush() *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use:   "push FILE NAME:PATH",
		Short: "Copy a file into an instance",
		Long: `Copies a file into an instance, as root there. - is standard input. The file appears under its name when it is whole. A PATH that ends with /
is a directory.`,
		Example: lines("nereid instance push site.conf web0:/etc/nginx/conf.d/", "nereid instance push - web0:/tmp/now"),
		Args:    wants("FILE", "NAME:PATH"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, to string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveDefault // files
			}
			return a.completeInstances()(cmd, nil, to)
		},
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			name, to, err := instancePath(args[1])
			if err != nil {
				return err
			}
			r := api.SessionRequest{Kind: api.SessionPush, Path: to}
			in := a.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("push: %w", err)
				}
				defer f.Close()
				st, err := f.Stat()
				if err != nil {
					return fmt.Errorf("push: %w", err)
				}
				if !st.Mode().IsRegular() {
					return fmt.Errorf("push: %s is no file; to copy a directory: tar c %s | nereid instance exec %s -- tar x -C %s", args[0], args[0], name, to)
				}
				in, r.Mode = f, uint32(st.Mode().Perm())
				if strings.HasSuffix(to, "/") {
					r.Path = path.Join(to, filepath.Base(args[0]))
				}
			}
			if mode != "" {
				if _, err := fmt.Sscanf(mode, "%o", &r.Mode); err != nil {
					return usagef("--mode %q: want permissions as 0644", mode)
				}
			}
			return exitStatus(a.session(ctx, c, name, r, in, a.stdout, a.stderr))
		}),
	}
	cmd.Flags().StringVar(&mode, "mode", "", "permissions of the new file, as 0644 (default those of FILE)")
	return cmd
}

func (a *app) instancePull() *cobra.Command {
	return &cobra.Command{
		Use:               "pull NAME:PATH FILE",
		Short:             "Copy a file out of an instance",
		Long:              `Copies a file out of an instance, as root there. - is standard output. FILE appears when it is whole; a directory keeps the file's name.`,
		Example:           lines("nereid instance pull web0:/var/log/syslog syslog", "nereid instance pull web0:/etc/hosts -"),
		Args:              wants("NAME:PATH", "FILE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			name, from, err := instancePath(args[0])
			if err != nil {
				return err
			}
			r := api.SessionRequest{Kind: api.SessionPull, Path: from}
			if args[1] == "-" {
				return exitStatus(a.session(ctx, c, name, r, nil, a.stdout, a.stderr))
			}
			to := args[1]
			if st, err := os.Stat(to); err == nil && st.IsDir() {
				to = filepath.Join(to, path.Base(from))
			}
			f, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o644))
			if err != nil {
				return fmt.Errorf("pull: %w", err)
			}
			defer f.Cleanup()
			if err := exitStatus(a.session(ctx, c, name, r, nil, f, a.stderr)); err != nil {
				return err
			}
			if err := f.CloseAtomicallyReplace(); err != nil {
				return fmt.Errorf("pull: %w", err)
			}
			return nil
		}),
	}
}

// instancePath takes NAME:PATH apart.
func instancePath(s string) (name, at string, err error) {
	name, at, ok := strings.Cut(s, ":")
	if !ok || name == "" || !path.IsAbs(at) {
		return "", "", usagef("%q: want NAME:PATH with an absolute path, as web0:/etc/hosts", s)
	}
	return name, at, nil
}
