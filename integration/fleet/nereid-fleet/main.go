// Command nereid-fleet has any number of simulated servers boot from a head node and
// follow it, for rehearsals and measurements. See package fleet.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"nereid/integration/fleet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // nobody catches the second signal: it kills
	if err := fleet.Command(os.Getenv).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "nereid-fleet:", err)
		os.Exit(1)
	}
}
