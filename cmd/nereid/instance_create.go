package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

// maxCount is how many instances one command makes.
const maxCount = 1000

// createFlags are the flags of instance create.
type createFlags struct {
	in       api.InstanceCreate
	networks []string
	tags     []string
	metadata []string
	userData string
	script   string
	keys     []string
	count    int
	wait     bool
	vm       api.VMCreate
	disks    []string
	diskSize string
}

func (a *app) instanceCreate() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use: "create [NAME]", Short: "Make an instance and start it",
		Long: `Makes an instance: chooses its server, gives it addresses, and has the server make and start it. --network is a network or pool, by name or
UUID, and may carry the address that is wanted, as NETWORK=ADDRESS; each is a NIC, the first is primary. Several networks of one layer-2 segment on
one NIC are joined by commas, as web,web6. Without NAME the name is the first 8 digits of the UUID. With --count the names end in -1, -2 and so on,
or have {{shortId}} where NAME has it.

--affinity is a rule about the account's other instances, or about racks: instance==web* near those of that name, role!=db away from those with
that tag, rack==r1; with ==~ and !=~ it is a wish. Why a server was chosen shows: nereid instance explain.

An instance of an image of type zvol is a virtual machine (brand kvm). Its first disk is a clone of the image; --disk gives it another, of so
many MiB, or as 20G, or of what remains of the package's quota. A server without KVM takes it only with --emulated: its processor is emulated
then, some twenty times slower. Its guest finds the same machine for ever: one of the level x86-64-v2, which all servers have.`,
		Example: lines("nereid instance create web0 --owner 930896af-bf8c-48d4-885c-6573a94b1853 --image debian --package sample-512M --network external --wait",
			"nereid instance create db --owner 930896af-bf8c-48d4-885c-6573a94b1853 --image debian --package sample-2G --network web --count 3 --affinity 'instance!=db*'",
			"nereid instance create --owner 930896af-bf8c-48d4-885c-6573a94b1853 --image debian --package sample-128M --network external --tag role=web --user-data cloud.yaml --ssh-key id.pub",
			"nereid instance create vm0 --owner 930896af-bf8c-48d4-885c-6573a94b1853 --image debian-vm --package sample-512M --network external --emulated --disk 1G --disk remaining"),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%s: unexpected argument %q; it takes one NAME, or none", cmd.CommandPath(), args[1])
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			in, err := f.request(args)
			if err != nil {
				return err
			}
			return a.createAll(ctx, c, in, f)
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.in.Owner, "owner", "", "account it belongs to, a UUID")
	fl.StringVar(&f.in.Image, "image", "", "image, by UUID, NAME or NAME@VERSION")
	fl.StringVar(&f.in.Package, "package", "", "package, by name or UUID")
	fl.StringArrayVar(&f.networks, "network", nil, "network or pool, or NETWORK=ADDRESS, for a NIC; can be repeated")
	fl.StringVar(&f.in.Server, "on", "", "server it is to be on, by hostname or UUID (default: the best one)")
	fl.StringArrayVar(&f.in.Affinity, "affinity", nil, "rule, as instance!=web*; can be repeated")
	fl.StringVar(&f.in.Brand, "brand", "", "lx or kvm (default: the image's)")
	fl.StringArrayVar(&f.tags, "tag", nil, "tag, as role=web; firewall rules see it; can be repeated")
	fl.StringArrayVar(&f.metadata, "metadata", nil, "metadata, as NAME=VALUE; can be repeated")
	fl.StringVar(&f.userData, "user-data", "", "file whose content is the metadata user-data")
	fl.StringVar(&f.script, "user-script", "", "file whose content is the metadata user-script")
	fl.StringArrayVar(&f.keys, "ssh-key", nil, "file with public keys that root may log in with; can be repeated")
	fl.BoolVar(&f.in.Firewall, "firewall", false, "only what rules allow may come in")
	fl.BoolVar(&f.in.Protected, "protect", false, "it cannot be deleted until that is ended")
	fl.BoolVar(&f.in.Stopped, "stopped", false, "make it and do not start it")
	fl.StringVar(&f.in.Restart, "restart", "", "what is done when it ends by itself: no, on-failure or always (default on-failure)")
	fl.StringVar(&f.vm.Firmware, "firmware", "", "of a virtual machine: bios or uefi, without secure boot (default bios)")
	fl.BoolVar(&f.vm.TPM, "tpm", false, "of a virtual machine: it has a TPM 2.0")
	fl.StringVar(&f.vm.Source, "metadata-source", "", "of a virtual machine: nocloud or smartos, where cloud-init looks (default nocloud)")
	fl.BoolVar(&f.vm.Emulated, "emulated", false, "of a virtual machine: a server without KVM will do")
	fl.StringVar(&f.diskSize, "disk-size", "", "of a virtual machine: size of its first disk, in MiB or as 20G (default that of the image)")
	fl.StringArrayVar(&f.disks, "disk", nil, "of a virtual machine: a further disk, in MiB or as 20G, or remaining; can be repeated")
	fl.IntVar(&f.count, "count", 1, "make so many")
	fl.BoolVar(&f.wait, "wait", false, "wait until it runs")
	for _, name := range []string{"owner", "image", "package"} {
		_ = cmd.MarkFlagRequired(name)
	}
	_ = cmd.RegisterFlagCompletionFunc("restart", cobra.FixedCompletions([]cobra.Completion{api.RestartNo, api.RestartOnFailure, api.RestartAlways}, cobra.ShellCompDirectiveNoFileComp))
	for name, values := range map[string][]cobra.Completion{"brand": {api.BrandLX, api.BrandKVM}, "firmware": {api.FirmwareBIOS, api.FirmwareUEFI},
		"metadata-source": {api.SourceNoCloud, api.SourceSmartOS}, "disk": {diskRemaining}} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	_ = cmd.RegisterFlagCompletionFunc("on", a.completeServers(false))
	_ = cmd.RegisterFlagCompletionFunc("package", completeObjects(a, packageKind()))
	return cmd
}

// request is what the flags ask for.
func (f *createFlags) request(args []string) (api.InstanceCreate, error) {
	in := f.in
	if len(args) > 0 {
		in.Name = args[0]
	}
	if f.count < 1 || f.count > maxCount {
		return in, usagef("--count %d: want 1 to %d", f.count, maxCount)
	}
	var err error
	if in.Tags, err = values("--tag", f.tags); err != nil {
		return in, err
	}
	if in.Metadata, err = values("--metadata", f.metadata); err != nil {
		return in, err
	}
	if err := f.machine(&in); err != nil {
		return in, err
	}
	for _, n := range f.networks {
		in.Networks = append(in.Networks, networkFlag(n))
	}
	put := func(name, value string) {
		if in.Metadata == nil {
			in.Metadata = map[string]any{}
		}
		in.Metadata[name] = value
	}
	for name, file := range map[string]string{"user-data": f.userData, "user-script": f.script} {
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return in, fmt.Errorf("read %s: %w", name, err)
		}
		put(name, string(b))
	}
	var keys strings.Builder
	for _, file := range f.keys {
		b, err := os.ReadFile(file)
		if err != nil {
			return in, fmt.Errorf("read public key: %w", err)
		}
		if strings.Contains(string(b), "PRIVATE KEY") {
			return in, usagef("--ssh-key %s: this is a private key; give the public one, as %s.pub", file, file)
		}
		keys.WriteString(strings.TrimSpace(string(b)) + "\n")
	}
	if keys.Len() > 0 {
		put("root_authorized_keys", keys.String())
	}
	return in, nil
}

// machine is what the flags ask for of a virtual machine.
func (f *createFlags) machine(in *api.InstanceCreate) (err error) {
	vm := f.vm
	if f.diskSize != "" {
		if vm.DiskMiB, err = mebibytes("--disk-size", f.diskSize); err != nil {
			return err
		}
	}
	for _, d := range f.disks {
		size, err := diskSize("--disk", d)
		if err != nil {
			return err
		}
		vm.Disks = append(vm.Disks, size)
	}
	if !reflect.ValueOf(vm).IsZero() {
		in.VM = &vm
	}
	return nil
}

// networkFlag reads NETWORK[=ADDRESS][,NETWORK[=ADDRESS]...], a NIC.
func networkFlag(s string) api.InstanceNetwork {
	var n api.InstanceNetwork
	for part := range strings.SplitSeq(s, ",") {
		name, ip, _ := strings.Cut(part, "=")
		n.Addresses = append(n.Addresses, api.NICAddress{Network: name, IP: ip})
	}
	return n
}

// values reads NAME=VALUE, given any number of times. Numbers, true and false keep
// their types, as in JSON.
func values(flag string, list []string) (map[string]any, error) {
	var out map[string]any
	for _, s := range list {
		name, v, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, usagef("%s %q: want NAME=VALUE", flag, s)
		}
		if out == nil {
			out = map[string]any{}
		}
		out[name] = typed(v)
	}
	return out, nil
}

// createAll makes as many instances as were asked for, one after the other. Where one is
// refused it says which ones were made.
func (a *app) createAll(ctx context.Context, c *api.Client, in api.InstanceCreate, f createFlags) error {
	if f.count == 1 {
		out, err := c.CreateInstance(ctx, in)
		if err != nil {
			return err
		}
		return a.finishInstance(ctx, c, out, f.wait, runs(out), "instance %s is made on %s")
	}
	var made []api.Instance
	for n := range f.count {
		one := in
		if in.Name != "" && !strings.Contains(in.Name, "{{shortId}}") {
			one.Name = fmt.Sprintf("%s-%d", in.Name, n+1)
		}
		out, err := c.CreateInstance(ctx, one)
		if err != nil {
			return countedError(made, f.count, err)
		}
		made = append(made, out)
	}
	for i := range made {
		if !f.wait {
			break
		}
		var err error
		if made[i], err = a.waitInstance(ctx, c, made[i], runs(made[i])); err != nil {
			return err
		}
	}
	var names []string
	for _, i := range made {
		names = append(names, i.Name)
	}
	return a.done(made, "%s are made: %s", api.Plural(len(made), "instance"), strings.Join(names, " "))
}

// countedError adds to a refusal what was made before it.
func countedError(made []api.Instance, of int, err error) error {
	if len(made) == 0 {
		return err
	}
	var names []string
	for _, i := range made {
		names = append(names, i.Name)
	}
	text := fmt.Sprintf("%d of %d are made, and stay: %s; number %d is not: ", len(made), of, strings.Join(names, " "), len(made)+1)
	var p *api.Problem
	if errors.As(err, &p) {
		told := *p
		told.Detail = text + p.Detail
		return &told
	}
	return fmt.Errorf("%s%w", text, err)
}
