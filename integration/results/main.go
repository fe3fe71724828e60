// Command results runs "go test" and shows its results as they come. At the end it
// says what was slow and what failed:
//
//	results run TIER [-v] go test ARGUMENTS   runs a tier, and keeps its times in bin/results/TIER.json
//	results slowest TIER...                   the slowest tests of these tiers, as they were kept
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// many is how many slow tests are named.
const many = 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], filepath.Join("bin", "results"), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "results:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: results run TIER [-v] go test ARGUMENTS, or results slowest TIER...")

func run(ctx context.Context, args []string, dir string, out io.Writer) error {
	switch {
	case len(args) > 1 && args[0] == "slowest":
		return slowest(dir, args[1:], out)
	case len(args) < 3 || args[0] != "run":
		return errUsage
	}
	tier, args := args[1], args[2:]
	r := &report{tier: tier, out: out}
	if args[0] == "-v" {
		r.verbose, args = true, args[1:]
	}
	if len(args) < 2 || args[1] != "test" {
		return errUsage
	}
	start := time.Now()
	failed := tests(ctx, slices.Insert(slices.Clone(args), 2, "-json"), r)
	if err := keep(dir, tier, r.times()); err != nil {
		return errors.Join(failed, err)
	}
	r.summary(time.Since(start))
	return failed
}

// tests runs a "go test -json" and gives its events to the report.
func tests(ctx context.Context, args []string, r *report) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its children
	cmd.WaitDelay = time.Minute
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run the tests: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run the tests: %w", err)
	}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		r.line(line)
		if err != nil {
			break // the end; Wait says how it ended
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("tier %s: %w", r.tier, err)
	}
	return nil
}

// timed is how long a test took.
type timed struct {
	Package, Test string
	Seconds       float64
}

// keep writes the times of a tier.
func keep(dir, tier string, times []timed) error {
	b, err := json.MarshalIndent(times, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, tier+".json"), b, 0o666)
	}
	if err != nil {
		return fmt.Errorf("keep the times of the tests: %w", err)
	}
	return nil
}

// slowest names the slowest tests of some tiers.
func slowest(dir string, tiers []string, out io.Writer) error {
	var all []timed
	for _, name := range tiers {
		var tier []timed
		b, err := os.ReadFile(filepath.Join(dir, name+".json"))
		if err == nil {
			err = json.Unmarshal(b, &tier)
		}
		if err != nil {
			return fmt.Errorf("read the times of tier %s: %w; run the tier first", name, err)
		}
		all = append(all, tier...)
	}
	fmt.Fprintf(out, "== the slowest tests of %s:\n", strings.Join(tiers, ", "))
	printSlowest(out, all)
	return nil
}

// printSlowest prints the slowest tests, the slowest first.
func printSlowest(out io.Writer, times []timed) {
	slices.SortStableFunc(times, func(a, b timed) int { return int(b.Seconds*1000) - int(a.Seconds*1000) })
	for _, t := range times[:min(many, len(times))] {
		fmt.Fprintf(out, "%8.1f s  %s %s\n", t.Seconds, t.Package, t.Test)
	}
}
