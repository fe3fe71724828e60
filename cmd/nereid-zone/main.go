// Command nereid-zone starts a zone on its server, is its first process, and keeps what
// zones print. The agent and the zones' units call it; people need not. See package zone.
//
//	nereid-zone prepare DIR
//	nereid-zone enter DIR
//	nereid-zone started DIR     with the process's id in MAINPID
//	nereid-zone consoles
//	nereid-zone inside          by package enter, in a zone's namespaces
//
// Called by the name init it is a zone's first process.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"nereid/agent/machine/enter"
	"nereid/agent/machine/zone"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "inside" {
		os.Exit(enter.Inside())
	}
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "nereid-zone:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if filepath.Base(args[0]) == "init" {
		return zone.Init()
	}
	verb, dir := "", ""
	if len(args) > 1 {
		verb = args[1]
	}
	if len(args) == 3 {
		dir = args[2]
	}
	switch {
	case verb == "consoles" && len(args) == 2:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		return zone.KeepConsoles(ctx, zone.Consoles)
	case verb == "prepare" && dir != "":
		return zone.Prepare(dir)
	case verb == "enter" && dir != "":
		return zone.Enter(dir)
	case verb == "started" && dir != "":
		pid, err := strconv.Atoi(os.Getenv("MAINPID"))
		if err != nil {
			return fmt.Errorf("started: MAINPID: %w", err)
		}
		return zone.Ran(dir, pid)
	}
	return fmt.Errorf("want prepare DIR, enter DIR, started DIR or consoles; got %q", args[1:])
}
