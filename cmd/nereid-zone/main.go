// Command nereid-zone starts a zone on its server, is its first process, and keeps what
// zones print. The agent and the zones' units call it; people need not. See package zone.
//
//	nereid-zone enter DIR       becomes the zone
//	nereid-zone give DIR        by enter, with its id in MAINPID and a socket as descriptor 3
//	nereid-zone machine DIR     becomes the QEMU of a virtual machine
//	nereid-zone tpm DIR         becomes its TPM
//	nereid-zone answers DIR     waits until that answers
//	nereid-zone button DIR      presses its power button until it is off
//	nereid-zone consoles
//	nereid-zone metadata
//	nereid-zone inside          by package enter, in a zone's namespaces
//
// Called by the name init it is a zone's first process; by mdata-get, mdata-put,
// mdata-delete and mdata-list it asks for the zone's metadata from inside; by user-script
// it runs the scripts that are in it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"nereid/agent/firewall"
	"nereid/agent/machine/enter"
	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/agent/network"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "inside" {
		os.Exit(enter.Inside())
	}
	if name := filepath.Base(os.Args[0]); zone.IsClient(name) {
		os.Exit(zone.Ask(context.Background(), zone.Inner, name, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "nereid-zone:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch name := filepath.Base(args[0]); {
	case name == "init":
		return zone.Init()
	case zone.IsScript(name):
		return zone.RunScripts(context.Background(), "/", zone.Inner)
	}
	verb, dir := "", ""
	if len(args) > 1 {
		verb = args[1]
	}
	if len(args) == 3 {
		dir = args[2]
	}
	switch {
	case (verb == "consoles" || verb == "metadata") && len(args) == 2:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		if verb == "metadata" {
			return (&zone.Answerer{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}).Run(ctx)
		}
		return zone.KeepConsoles(ctx, zone.Consoles)
	case verb == "enter" && dir != "":
		return zone.Enter(dir, rejoin)
	case verb == "give" && dir != "":
		pid, err := strconv.Atoi(os.Getenv("MAINPID"))
		if err != nil {
			return fmt.Errorf("give: MAINPID: %w", err)
		}
		return zone.Give(dir, pid)
	case (verb == "machine" || verb == "tpm" || verb == "answers" || verb == "button") && dir != "":
		return machine(verb, dir)
	}
	return fmt.Errorf("want enter, give, machine, tpm, answers or button with DIR, or consoles or metadata; got %q", args[1:])
}

// machine does what the unit of a virtual machine has done.
func machine(verb, dir string) error {
	ctx, stop := context.WithTimeout(context.Background(), vm.Limit)
	defer stop()
	switch verb {
	case "answers":
		if err := vm.Answers(ctx, dir); err != nil {
			return err
		}
		return zone.RanMachine(dir)
	case "tpm":
		return zone.FailMachine(dir, vm.RunTPM(ctx, dir, vm.SWTPM))
	case "button":
		return vm.Button(ctx, dir)
	}
	return zone.FailMachine(dir, vm.Run(ctx, dir, vm.Program, func(s vm.Start) error {
		return zone.EnterMachine(dir, s.UUID, filepath.Join(s.Dir, vm.Metadata))
	}))
}

// rejoin puts a NIC back into its bridge. One that the agent has not had in a bridge is
// the agent's to make.
func rejoin(mac string) error {
	ctx, cancel := context.WithTimeout(context.Background(), rejoinLimit)
	defer cancel()
	k, err := network.Open("")
	if err != nil {
		return fmt.Errorf("put NIC %s back: %w", mac, err)
	}
	defer k.Close()
	err = network.Rejoin(ctx, k, filepath.Dir(zone.Dir), mac, firewall.Guard)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// rejoinLimit bounds the wait for one NIC.
const rejoinLimit = 20 * time.Second
