package main

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp holds every command to what an operator looks for in its help:
// a sentence, and examples that the program would take.
func TestHelp(t *testing.T) {
	newRoot := func() *cobra.Command { return newApp(strings.NewReader(""), io.Discard, io.Discard).rootCommand() }
	eachCommand(newRoot(), func(c *cobra.Command) {
		if c.Name() == "help" {
			return
		}
		t.Run(c.CommandPath(), func(t *testing.T) {
			if c.Short == "" || strings.HasSuffix(c.Short, ".") {
				t.Errorf("short help %q: want a phrase without a full stop", c.Short)
			}
			checkHelpWidth(t, c)
			if c.Example == "" {
				t.Error("no examples")
			}
			for line := range strings.SplitSeq(c.Example, "\n") {
				if !strings.HasPrefix(line, "  ") {
					t.Errorf("example %q: not indented", line)
				}
				checkExample(t, newRoot(), c, line)
			}
			c.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if f.Usage == "" {
					t.Errorf("--%s is not explained", f.Name)
				}
			})
			if c.Runnable() && !c.HasSubCommands() && c.ValidArgsFunction == nil && c.Parent().Name() != "completion" {
				t.Error("nothing completes its arguments")
			}
		})
	})
}

// checkHelpWidth holds help to 80 columns; examples are typed, and not broken.
func checkHelpWidth(t *testing.T, c *cobra.Command) {
	t.Helper()
	c.InitDefaultHelpFlag()
	text := strings.ReplaceAll(c.Long+"\n"+c.UsageString(), c.Example, "")
	for line := range strings.SplitSeq(text, "\n") {
		if runes(line) > helpWidth {
			t.Errorf("help has a line of %d columns: %s", runes(line), line)
		}
	}
}

func TestReflow(t *testing.T) {
	const text = "One two three four five.\nSix, see: nereid server list\n\n  export A=1   # stays as it is, however long\n\nThe end."
	const want = "One two three four\nfive. Six, see:\nnereid server list\n\n  export A=1   # stays as it is, however long\n\nThe end."
	if got := reflow(text, 18); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func eachCommand(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		eachCommand(sub, do)
	}
}

// checkExample reads an example's command line as the program would.
func checkExample(t *testing.T, root, of *cobra.Command, line string) {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " | ")
	line, _, _ = strings.Cut(line, " > ")
	line = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "source <("), ")")
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "nereid" {
		t.Errorf("example %q: does not begin with nereid", line)
		return
	}
	cmd, rest, err := root.Find(words[1:])
	if err != nil {
		t.Errorf("example %q: %v", line, err)
		return
	}
	if cmd.HasSubCommands() || !strings.HasPrefix(cmd.CommandPath(), of.CommandPath()) {
		t.Errorf("example %q is one of %q", line, cmd.CommandPath())
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("example %q: %v", line, err)
		return
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		t.Errorf("example %q: %v", line, err)
	}
	if err := cmd.ValidateRequiredFlags(); err != nil {
		t.Errorf("example %q: %v", line, err)
	}
}
