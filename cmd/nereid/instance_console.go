package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) instanceConsole() *cobra.Command {
	escape := ""
	cmd := &cobra.Command{
		Use: "console NAME", Short: "Sit at the console of an instance",
		Long: `Shows what an instance wrote to its console, at most the last 1 MiB, and what it writes from now on, and types there what is typed here. On a
terminal every key goes to the instance but one, Ctrl-], which ends this command and nothing else; --escape chooses another one, or none. Anybody else
at the console sees the same. For a program or a shell of your own use exec or shell.`,
		Example:           lines("nereid instance console web0", "nereid instance console web0 --escape ctrl-a"),
		Args:              wants("NAME"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			key, err := escapeKey(escape)
			if err != nil {
				return err
			}
			return a.sitAt(ctx, c, args[0], key, escape)
		}),
	}
	cmd.Flags().StringVar(&escape, "escape", "ctrl-]", "key that ends the command, as ctrl-a, or none")
	return cmd
}

// noKey is no key.
const noKey = -1

// escapeKey reads ctrl-X as the byte that a terminal sends for it (ECMA-48, C0).
func escapeKey(s string) (int, error) {
	if s == "none" {
		return noKey, nil
	}
	name, ok := strings.CutPrefix(strings.ToLower(s), "ctrl-")
	if !ok || len(name) != 1 || !strings.Contains("abcdefghijklmnopqrstuvwxyz[\\]^_", name) {
		return 0, usagef("--escape %q: want ctrl- and a letter or one of [ \\ ] ^ _, or none", s)
	}
	return int(strings.ToUpper(name)[0] & 0x1f), nil
}

// sitAt has a session at an instance's console, until the key is pressed or it ends.
func (a *app) sitAt(ctx context.Context, c *api.Client, instance string, key int, name string) error {
	r := api.SessionRequest{Kind: api.SessionConsole, Follow: true, Input: true}
	if !isTerminal(a.stdin) {
		return exitStatus(a.session(ctx, c, instance, r, endless{ctx, a.stdin}, consoleWriter(a.stdout), consoleWriter(a.stdout)))
	}
	size := a.terminalSize()
	r.TTY = &size
	restore, err := a.rawTerminal()
	if err != nil {
		return err
	}
	defer restore()
	if key != noKey {
		fmt.Fprintf(a.stderr, "The console of %s. %s ends this.\r\n", oneLine(instance), name)
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	k := &keys{in: a.stdin, key: byte(key), end: end, on: key != noKey}
	// What was written before may not drive this terminal; what is written now is meant to.
	_, err = a.session(ctx, c, instance, r, k, a.stdout, rawLines{a.stdout})
	if k.pressed.Load() {
		return nil
	}
	return err
}

// keys are those that are pressed, up to one of them.
type keys struct {
	in      io.Reader
	key     byte
	on      bool
	end     func()
	pressed atomic.Bool
}

func (k *keys) Read(b []byte) (int, error) {
	n, err := k.in.Read(b)
	if at := bytes.IndexByte(b[:n], k.key); k.on && at >= 0 {
		k.pressed.Store(true)
		k.end()
		return at, io.EOF
	}
	return n, err
}

// endless is input whose end is not the session's: what is written is still shown.
type endless struct {
	ctx context.Context
	in  io.Reader
}

func (e endless) Read(b []byte) (int, error) {
	n, err := e.in.Read(b)
	if err != nil && n == 0 {
		<-e.ctx.Done()
	}
	return n, err
}

// rawLines is what was written before, cleaned, on a terminal that begins no line at the
// left by itself.
type rawLines struct{ to io.Writer }

func (r rawLines) Write(b []byte) (int, error) {
	text := clean(strings.ReplaceAll(string(b), "\r\n", "\n"))
	if _, err := io.WriteString(r.to, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		return 0, err
	}
	return len(b), nil
}
