package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"nereid/api"
)

// diskRemaining is the size of a disk that has what the quota leaves.
const diskRemaining = "remaining"

// diskSize reads the size of a disk for the head node: MiB, or what remains.
func diskSize(flag, text string) (string, error) {
	if text == diskRemaining {
		return text, nil
	}
	mib, err := mebibytes(flag, text)
	return strconv.Itoa(mib), err
}

// machineSections are what a virtual machine has beside what every instance has.
func machineSections(c *card, i api.Instance) {
	if i.VM == nil {
		return
	}
	vm := i.VM
	c.section("Machine")
	c.line("machine", vm.Machine)
	c.line("cpu", vm.CPU)
	c.line("firmware", vm.Firmware)
	if vm.TPM {
		c.line("tpm", "2.0")
	}
	c.line("metadata", "by cloud-init's "+map[string]string{api.SourceNoCloud: "NoCloud: a small disk", api.SourceSmartOS: "SmartOS: the second serial port"}[vm.Source])
	if vm.Emulated {
		c.line("emulated", "where its server has no KVM: some twenty times slower")
	}
	c.section("Disks")
	c.table(diskTable(vm.Disks))
}

func diskTable(disks []api.VMDisk) *table {
	t := &table{header: []string{"NAME", "SIZE", "FROM"}}
	for _, d := range disks {
		from := "blank"
		if d.Image != "" {
			from = "image " + d.Image
		}
		t.add(text(d.Name), mib(d.SizeMiB), text(from))
	}
	return t
}

// hypervisorText is what a server has to run virtual machines with, in a few words.
func hypervisorText(h api.Hypervisor) string {
	switch {
	case h.QEMU == "":
		return "none: its platform has no QEMU"
	case h.KVM:
		return "QEMU " + h.QEMU + ", KVM"
	}
	return "QEMU " + h.QEMU + ", no KVM: " + firstOf(h.NoKVM, "its kernel does not say why")
}

const diskIDs = "A virtual machine has disk0, from which it boots, and at most 16 disks and NICs together. One that runs is changed at once.\n\n" + instanceIDs

// guestLetsGo says when what is taken from an instance is gone, where that is not at once.
func guestLetsGo(i api.Instance) string {
	if i.Brand == api.BrandKVM && i.State == api.InstanceRunning {
		return " when its guest lets go of it, or boots again"
	}
	return ""
}

func (a *app) instanceDisk() *cobra.Command {
	list := &cobra.Command{
		Use: "list INSTANCE", Short: "List the disks of a virtual machine",
		Long: "Lists the disks of a virtual machine.\n\n" + instanceIDs, Example: lines("nereid instance disk list vm0"),
		Args: wants("INSTANCE"), ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Instances().Get(ctx, args[0])
			if err != nil {
				return err
			}
			if i.VM == nil {
				return fmt.Errorf("instance %s is a zone, which has no disks of its own: it has %s of its server's pool", i.Name, mib(i.QuotaMiB).text)
			}
			return a.emit(i.VM.Disks, func(w io.Writer) error { return diskTable(i.VM.Disks).write(w) })
		}),
	}
	add := &cobra.Command{
		Use: "add INSTANCE SIZE", Short: "Give a virtual machine a disk",
		Long:    "Gives a virtual machine a disk with nothing on it. SIZE is in MiB, or as 20G, or remaining: what the instance's quota leaves.\n\n" + diskIDs,
		Example: lines("nereid instance disk add vm0 20G", "nereid instance disk add vm0 remaining"), Args: wants("INSTANCE", "SIZE"), ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			size, err := diskSize("SIZE", args[1])
			if err != nil {
				return err
			}
			i, err := c.AddInstanceDisk(ctx, args[0], size)
			if err != nil {
				return err
			}
			d := i.VM.Disks[len(i.VM.Disks)-1]
			return a.done(i, "instance %s gets %s of %s", i.Name, d.Name, mib(d.SizeMiB).text)
		}),
	}
	grow := &cobra.Command{
		Use: "grow INSTANCE DISK SIZE", Short: "Make a disk of a virtual machine larger",
		Long:    "Makes a disk larger: SIZE, in MiB or as 20G, is what it has then. None shrinks. What is on it is for the guest to grow.\n\n" + diskIDs,
		Example: lines("nereid instance disk grow vm0 disk1 30G"), Args: wants("INSTANCE", "DISK", "SIZE"), ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			size, err := mebibytes("SIZE", args[2])
			if err != nil {
				return err
			}
			i, err := c.GrowInstanceDisk(ctx, args[0], args[1], size)
			if err != nil {
				return err
			}
			return a.done(i, "%s of instance %s gets %s", args[1], i.Name, mib(size).text)
		}),
	}
	var yes bool
	remove := &cobra.Command{
		Use: "remove INSTANCE DISK", Short: "Take a disk from a virtual machine, with what is on it",
		Long:    "Takes a disk from a virtual machine, and destroys it: what is on it is lost, with its snapshots. disk0 stays, for the machine boots from it. The guest of one that runs is asked to let go of the disk: it is there until that does, or boots again, and nereid instance get says so.\n\n" + diskIDs,
		Example: lines("nereid instance disk remove vm0 disk1 --yes"), Args: wants("INSTANCE", "DISK"), ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			if err := a.confirm(ctx, yes, "destroy %s of instance %s with what is on it", args[1], args[0]); err != nil {
				return err
			}
			i, err := c.RemoveInstanceDisk(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.done(i, "%s of instance %s goes%s", args[1], i.Name, guestLetsGo(i))
		}),
	}
	yesFlag(remove, &yes)
	top := &cobra.Command{Use: "disk", Short: "Disks of a virtual machine", Example: lines("nereid instance disk list vm0", "nereid instance disk add vm0 20G"),
		Args: verbOf, RunE: needsVerb, DisableFlagsInUseLine: true}
	top.AddCommand(list, add, grow, remove)
	return top
}
