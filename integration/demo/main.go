// Command nereid-demo shows Nereid from power-on to running zones: a head node in a
// network namespace of its own, and two blank QEMU servers, one with a BIOS and
// one with UEFI, that boot from it, are approved, set up, and one of them
// rebooted; then two zones of an account, one on each, that reach each other over
// its fabric and what is outside by NAT.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"nereid/api"
	"nereid/integration/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nereid-demo:", err)
		os.Exit(1)
	}
}

// demo is one run of the demonstration.
type demo struct {
	rack  *lab.Rack
	bin   string
	start time.Time
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nereid-demo", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "directory with the programs")
	platform := flags.String("platform", "", "directory of a built platform image")
	image := flags.String("image", "", "directory of a built image of zones, whose name is debian")
	dir := flags.String("dir", "", "state directory, kept when given (a new temporary one)")
	keep := flags.Bool("keep", false, "leave everything running until Ctrl-C")
	measure := flags.Bool("measure", false, "only boot the platform once and print the RAM it uses")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		tmp, err := os.MkdirTemp("", "nereid-demo-")
		if err != nil {
			return fmt.Errorf("make a state directory: %w", err)
		}
		defer os.RemoveAll(tmp)
		*dir = tmp
	}
	binDir, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	d := &demo{bin: binDir, start: time.Now()}

	accel := lab.ProbeAccel(ctx, filepath.Join(*platform, "vmlinuz"))
	d.say("servers run under %s", accel)
	d.rack, err = lab.New(ctx, lab.Options{Dir: *dir, Headnode: filepath.Join(binDir, "nereid-headnode"), Accel: accel})
	if err != nil {
		return err
	}
	defer d.rack.Close()
	play := func(ctx context.Context, platform string) error { return d.story(ctx, platform, *image) }
	if *measure {
		play = d.measure
	}
	if err := play(ctx, *platform); err != nil {
		return fmt.Errorf("%w\n  head node's log: %s (with --dir it is kept)", err, d.rack.HeadnodeLog())
	}
	if *keep {
		d.say("left running; Ctrl-C ends it. To look around from another terminal:")
		fmt.Printf("  export NEREID_SERVER=%s\n  %s server list\n  %s instance shell web-1\n  tail -f %s/cn-bios.console\n  ip netns exec %s bash\n",
			d.rack.Socket(), filepath.Join(binDir, "nereid"), filepath.Join(binDir, "nereid"), *dir, d.rack.Namespace)
		<-ctx.Done()
	}
	return nil
}

func (d *demo) story(ctx context.Context, platform, image string) error {
	d.say("head node starts in network namespace %s", d.rack.Namespace)
	if err := d.rack.StartHeadnode(ctx); err != nil {
		return err
	}
	stamp, err := lab.ImportPlatform(ctx, d.rack, filepath.Join(d.bin, "nereid"), platform, os.Stdout)
	if err != nil {
		return err
	}
	d.say("platform %s is the default", stamp)
	if err := d.rack.AddBridge(ctx, "ext0", gateway+"/24", outside+"/32"); err != nil {
		return err
	}

	machines := []*lab.Machine{}
	for i, fw := range []lab.Firmware{lab.BIOS, lab.UEFI} {
		m, err := d.rack.AddMachine(ctx, lab.MachineSpec{
			Name: "cn-" + string(fw), Firmware: fw, Disks: []int64{8 << 30, 8 << 30},
			MAC:  fmt.Sprintf("52:54:00:00:00:%02x", 0x10+i),
			UUID: fmt.Sprintf("4e455245-4944-4000-8000-0000000000%02x", 0x10+i),
			// Behind the one it boots from: the underlay's, and the one to the outside.
			DataMACs: []string{fmt.Sprintf("52:54:00:00:00:%02x", 0x20+i), fmt.Sprintf("52:54:00:00:00:%02x", 0x30+i)},
			Bridges:  []string{"data0", "ext0"},
		})
		if err != nil {
			return err
		}
		if err := m.PowerOn(ctx); err != nil {
			return err
		}
		machines = append(machines, m)
	}
	d.say("two blank servers are powered on: cn-bios (SeaBIOS), cn-uefi (OVMF)")
	for _, m := range machines {
		if err := d.waitState(ctx, m.Spec.UUID, api.StatePending, 5*time.Minute); err != nil {
			return err
		}
	}
	if err := d.nereid(ctx, "server", "list"); err != nil {
		return err
	}
	for _, m := range machines {
		if err := d.nereid(ctx, "server", "approve", m.Spec.UUID, "--hostname", m.Spec.Name); err != nil {
			return err
		}
		if err := d.waitState(ctx, m.Spec.UUID, api.StateApproved, 2*time.Minute); err != nil {
			return err
		}
		if err := d.nereid(ctx, "server", "setup", m.Spec.Name, "--plan"); err != nil {
			return err
		}
		if err := d.nereid(ctx, "server", "setup", m.Spec.Name, "--yes", "--wait"); err != nil {
			return err
		}
	}
	firstBoot := machines[0].On
	before, err := d.rack.Client().Server(ctx, machines[0].Spec.UUID)
	if err != nil {
		return err
	}
	for _, m := range machines {
		if err := d.nereid(ctx, "server", "boot-log", m.Spec.Name, "--power-on", m.On.UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
	}

	d.say("cn-bios is rebooted: its pool and its identity must come back")
	if err := d.nereid(ctx, "server", "reboot", "cn-bios", "--yes", "--wait"); err != nil {
		return err
	}
	after, err := d.rack.Client().Server(ctx, machines[0].Spec.UUID)
	if err != nil {
		return err
	}
	if err := samePool(before, after); err != nil {
		return err
	}
	d.say("same pool (GUID %s), same key, %s after its first power-on", after.Report.Pools[0].GUID, time.Since(firstBoot).Round(time.Second))
	if err := d.nereid(ctx, "server", "boot-log", "cn-bios"); err != nil {
		return err
	}
	if err := d.nereid(ctx, "server", "list"); err != nil {
		return err
	}
	if err := d.zones(ctx, image, machines); err != nil {
		return err
	}
	d.say("done")
	return nil
}

// samePool says what a reboot changed that it must not change.
func samePool(before, after api.Server) error {
	switch {
	case after.State != api.StateRunning:
		return fmt.Errorf("after its reboot %s is %q: %s", after.Hostname, after.State, after.StateReason)
	case before.BootID == after.BootID:
		return errors.New("the server did not reboot: its boot id is the same")
	case len(after.Report.Pools) != 1 || len(before.Report.Pools) != 1 || after.Report.Pools[0].GUID != before.Report.Pools[0].GUID:
		return fmt.Errorf("pools before the reboot: %v, after it: %v", before.Report.Pools, after.Report.Pools)
	}
	return nil
}

// waitState waits until a server is in a state.
func (d *demo) waitState(ctx context.Context, uuid string, want api.ServerState, limit time.Duration) error {
	d.say("waiting for %s to be %s", uuid, want)
	return lab.WaitState(ctx, d.rack.Client(), uuid, want, limit)
}

// nereid runs the operator's program and shows the command as typed.
func (d *demo) nereid(ctx context.Context, args ...string) error {
	fmt.Printf("\n$ nereid %s\n", typed(args))
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "nereid"), args...)
	cmd.Env = append(os.Environ(), "NEREID_SERVER="+d.rack.Socket())
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nereid %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (d *demo) say(format string, args ...any) {
	fmt.Printf("\n[%6.1f s] %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}
