package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nereid/api"
)

// defaultHeadnode is the socket of a packaged head node on this machine.
const defaultHeadnode = "/run/nereid/headnode.sock"

// defaultWait is how long --wait waits when --timeout does not say.
const defaultWait = 30 * time.Minute

// app is one run of the program.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string
	now    func() time.Time

	started bool // the command line was right; what fails now is not its fault
	client  *api.Client

	headnode  string
	tokenFile string
	caSHA256  string
	output    string
	timeout   time.Duration
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, now: time.Now}
}

func (a *app) close() {
	if a.client != nil {
		a.client.Close()
	}
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.headnode, "server", "", "head node: path of its Unix socket, or https://HOST:8443 (env NEREID_SERVER; default "+defaultHeadnode+")")
	f.StringVar(&a.tokenFile, "token-file", "", "file that holds an operator's token (env NEREID_TOKEN_FILE)")
	f.StringVar(&a.caSHA256, "ca-sha256", "", "SHA-256 of the head node's CA certificate, to trust no other (env NEREID_CA_SHA256)")
	f.StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	f.DurationVar(&a.timeout, "timeout", 0, "limit of one request, and of --wait (default 30s, and 30m with --wait)")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

// start runs once the command line has been read and before the command.
func (a *app) start(cmd *cobra.Command, _ []string) error {
	switch a.output {
	case "table", "json", "yaml":
	default:
		return fmt.Errorf("output %q: want table, json or yaml", a.output)
	}
	if a.timeout < 0 {
		return fmt.Errorf("timeout %v: want more than 0", a.timeout)
	}
	if err := cmd.ValidateRequiredFlags(); err != nil { // cobra does it later, as if the command had begun
		return err
	}
	a.started = true
	return nil
}

// firstOf gives the first text that is not empty.
func firstOf(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

// withAPI is the work of a command that speaks to the head node.
func (a *app) withAPI(do func(ctx context.Context, c *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.api()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args)
	}
}

// withServer is the work of a command whose first argument names a server.
func (a *app) withServer(do func(ctx context.Context, c *api.Client, s api.Server, args []string) error) func(*cobra.Command, []string) error {
	return a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
		s, err := a.find(ctx, c, args[0])
		if err != nil {
			return err
		}
		return do(ctx, c, s, args)
	})
}

// api gives the client the flags and the environment ask for.
func (a *app) api() (*api.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	c := api.NewClient(firstOf(a.headnode, a.getenv("NEREID_SERVER"), defaultHeadnode))
	c.CASHA256 = firstOf(a.caSHA256, a.getenv("NEREID_CA_SHA256"))
	c.Timeout = a.timeout
	if err := c.Check(); err != nil {
		return nil, usageError{err: err, see: "nereid --help"}
	}
	if name := firstOf(a.tokenFile, a.getenv("NEREID_TOKEN_FILE")); name != "" {
		token, err := readToken(name)
		if err != nil {
			return nil, err
		}
		c.Token = token
	}
	a.client = c
	return c, nil
}

// readToken reads a token's secret, and refuses a file that everybody can read.
func readToken(name string) (string, error) {
	st, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if st.Mode().IsRegular() && st.Mode().Perm()&0o004 != 0 {
		return "", fmt.Errorf("read token: every user of this machine can read %s, so the token is no secret; make it private with chmod 600, and make a new token if others may have seen this one", name)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf(`read token: %s holds no token; write the secret that "nereid token create" printed into it, and nothing else`, name)
	}
	return token, nil
}

// noun makes the command that only groups verbs.
func noun(use, short, example string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: verbOf, RunE: needsVerb, DisableFlagsInUseLine: true}
	c.AddCommand(verbs...)
	return c
}

// verbOf refuses what is no verb of a noun, and says what may have been meant.
func verbOf(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	hint := ""
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		hint = ", did you mean " + strings.Join(s, " or ") + "?"
	}
	return fmt.Errorf("%s has no command %q%s", cmd.CommandPath(), args[0], hint)
}

func needsVerb(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(cmd.ErrOrStderr())
	if err := cmd.Help(); err != nil {
		return err
	}
	return usageError{err: errors.New("say what to do"), see: cmd.CommandPath() + " --help"}
}

// lines joins the lines of a help text's examples.
func lines(s ...string) string { return "  " + strings.Join(s, "\n  ") }

// wants checks that a command has its arguments, which it names; the last may
// be one or more, as "SERVER...".
func wants(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		more := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s: %s is missing", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		case len(args) > len(names) && !more:
			return fmt.Errorf("%s: unexpected argument %q; it takes %s", cmd.CommandPath(), args[len(names)], firstOf(strings.Join(names, " and "), "no arguments"))
		}
		return nil
	}
}
