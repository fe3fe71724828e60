package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"nereid/api"
)

func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask")
}

// confirm asks before something that cannot be taken back; what is said in the
// imperative, as "reboot cn0".
func (a *app) confirm(ctx context.Context, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	what := clean(fmt.Sprintf(format, args...))
	if !isTerminal(a.stdin) {
		return usagef("%s: this asks first, and there is no terminal to ask on; add --yes", what)
	}
	answer, err := a.ask(ctx, strings.ToUpper(what[:1])+what[1:]+"? [y/N] ")
	if err != nil {
		return err
	}
	switch strings.ToLower(answer) {
	case "y", "yes":
		return nil
	}
	return refusedf("%s: not confirmed; nothing was done", what)
}

// agree runs a change of a thing. When other things would change with it, it shows
// them and asks, and runs the change again with what was agreed to; with yes it
// agrees beforehand to whatever there is.
func (a *app) agree(ctx context.Context, yes bool, change func(context.Context) error) error {
	if yes {
		ctx = api.WithConfirm(ctx, api.ConfirmAll)
	}
	for {
		err := change(ctx)
		var p *api.Problem
		if !errors.As(err, &p) || p.Code != api.CodeSideEffects {
			return err
		}
		if !isTerminal(a.stdin) {
			told := *p
			told.Next = "there is no terminal to ask on; add --yes to agree to that"
			return &told
		}
		fmt.Fprintf(a.stderr, "%s:\n", clean(p.Detail))
		for _, e := range p.Errors {
			fmt.Fprintf(a.stderr, "  %s\n", strings.Join(wrap(oneLine(e), 76), "\n    "))
		}
		if err := a.confirm(ctx, false, "do that"); err != nil {
			return err
		}
		ctx = api.WithConfirm(ctx, p.Confirm)
	}
}

// ask shows a question and reads a line. Ctrl-C ends it.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.stderr, question)
	if err := a.readable(ctx); err != nil {
		fmt.Fprintln(a.stderr)
		return "", err
	}
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read answer: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// readable waits until there is input, or ctx ends. A terminal's read cannot be
// taken back, so it is begun only when it will not wait.
func (a *app) readable(ctx context.Context) error {
	in, ok := fd(a.stdin)
	if !ok {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for input: %w", err)
	}
	defer r.Close()
	defer w.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = w.Write([]byte{0}) })
	defer stop()
	fds := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case ctx.Err() != nil:
			return ended(ctx)
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for input: %w", err)
		}
		return nil
	}
}
