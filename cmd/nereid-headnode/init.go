package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"nereid/headnode"
	"nereid/headnode/answers"
)

func initCommand(dir *string, stdin io.Reader) *cobra.Command {
	var file string
	var sample, elsewhere bool
	c := &cobra.Command{
		Use:   "init",
		Short: "Set up a head node, from an answers file or by asking",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			out := c.OutOrStdout()
			if sample {
				_, err := io.WriteString(out, answers.Sample)
				return err
			}
			ctx := c.Context()
			if file == "" { // nobody is to answer ten questions in vain
				if err := headnode.CheckInit(ctx, *dir); err != nil {
					return err
				}
			}
			a, err := read(ctx, file, elsewhere, stdin, out)
			if err != nil {
				return err
			}
			warn := func(msg string, _ ...any) { fmt.Fprintln(c.ErrOrStderr(), "nereid-headnode:", msg) }
			if err := here(a.Admin, warn); err != nil && !elsewhere {
				return fmt.Errorf("%w\nNothing was written. --elsewhere sets the head node up all the same", err)
			}
			if err := headnode.Init(ctx, *dir, a); err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "Datacenter %s is set up in %s. Start the head node with: nereid-headnode run --data-dir %s\n", a.Datacenter, *dir, *dir)
			return err
		},
	}
	c.Flags().StringVar(&file, "answers", "", "answers file; without it the questions are asked on the terminal")
	c.Flags().BoolVar(&elsewhere, "elsewhere", false, "this machine need not have the interface and the address yet")
	c.Flags().BoolVar(&sample, "sample", false, "print a commented answers file and do nothing else")
	return c
}

// read takes the answers from a file, or from a person.
func read(ctx context.Context, file string, elsewhere bool, stdin io.Reader, out io.Writer) (answers.Answers, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return answers.Answers{}, fmt.Errorf("open answers: %w", err)
		}
		defer f.Close()
		return answers.Parse(f, file)
	}
	if f, ok := stdin.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return answers.Answers{}, errors.New("standard input is not a terminal, so nobody can be asked; give --answers FILE (nereid-headnode init --sample prints one)")
	}
	var ifs []answers.Interface
	if !elsewhere {
		var err error
		if ifs, err = interfaces(); err != nil {
			return answers.Answers{}, err
		}
	}
	return answers.Ask(ctx, stdin, out, ifs)
}
