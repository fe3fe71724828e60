// Command nereid-rack makes the lab's standard rack, two running servers, and runs a
// command beside it, whose environment has the rack's directory in NEREID_RACK. The
// command runs from the start; who wants the rack waits for a turn (lab.Turn), the first
// until the rack is up. The rack ends with the command:
//
//	nereid-rack [--dir DIR] COMMAND ARGUMENTS
//
// NEREID_BIN and NEREID_PLATFORM say where the programs and the platform are.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"nereid/integration/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(1, exit.ExitCode())) // the command said why
	case err != nil:
		fmt.Fprintln(os.Stderr, "nereid-rack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("nereid-rack", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory of the rack, kept when given (a new temporary one)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	bin, platform := os.Getenv("NEREID_BIN"), os.Getenv("NEREID_PLATFORM")
	if flags.NArg() == 0 || bin == "" || platform == "" {
		return errors.New("want a command to run, and the directories NEREID_BIN and NEREID_PLATFORM: \"make vm\" gives all three")
	}
	if *dir == "" {
		tmp, err := os.MkdirTemp("", "nereid-rack-")
		if err != nil {
			return fmt.Errorf("make the rack's directory: %w", err)
		}
		defer os.RemoveAll(tmp)
		*dir = tmp
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return fmt.Errorf("make the rack's directory: %w", err)
	}
	log, err := os.Create(lab.RackLog(*dir))
	if err != nil {
		return fmt.Errorf("make the rack's log: %w", err)
	}
	defer log.Close()
	turn, err := lab.Turn(*dir) // nobody's, until the rack is up
	if err != nil {
		return err
	}
	making, unmake := context.WithCancel(ctx)
	defer unmake()
	running, end := context.WithCancelCause(ctx)
	defer end(nil)
	start := time.Now()
	var rack *lab.Rack
	made := make(chan struct{})
	go func() {
		defer close(made)
		defer turn()
		var err error
		rack, err = share(making, *dir, bin, platform, slog.New(slog.NewTextHandler(io.MultiWriter(os.Stderr, log), nil)))
		if err != nil {
			end(err)
			return
		}
		fmt.Printf("== a rack of two running servers in %s, after %v\n", *dir, time.Since(start).Round(time.Second))
	}()
	defer func() {
		select {
		case <-made:
		default:
			unmake() // the command needed no rack
		}
		<-made
		if rack != nil {
			err = errors.Join(err, rack.Close())
		}
	}()
	cmd := exec.CommandContext(running, flags.Arg(0), flags.Args()[1:]...)
	cmd.Env = append(os.Environ(), "NEREID_RACK="+*dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its own children
	cmd.WaitDelay = time.Minute
	err = cmd.Run()
	if running.Err() != nil {
		return context.Cause(running)
	}
	return err
}

// share makes the standard rack and lets other processes join it.
func share(ctx context.Context, dir, bin, platform string, log *slog.Logger) (*lab.Rack, error) {
	rack, err := lab.NewStandard(ctx, lab.Options{
		Dir:   dir,
		Accel: lab.ProbeAccel(ctx, filepath.Join(platform, "vmlinuz")),
		Log:   log,
	}, bin, platform, os.Stderr)
	if err != nil {
		return nil, err
	}
	if err := rack.Share(ctx); err != nil {
		return nil, errors.Join(err, rack.Close())
	}
	return rack, nil
}
