package main

import (
	"context"

	"github.com/spf13/cobra"

	"nereid/api"
)

func packageKind() kind[api.Package, api.PackageUpdate] {
	return kind[api.Package, api.PackageUpdate]{
		noun: "package", thing: "package", id: "PACKAGE", example: []string{"sample-512M"},
		open: func(c *api.Client, _ []string) (api.Objects[api.Package, api.PackageUpdate], error) {
			return c.Packages(), nil
		},
		header: []string{"NAME", "MEMORY", "SWAP", "VCPUS", "CAP %", "QUOTA", "STATE", "UUID"},
		row: func(p api.Package) []cell {
			state := "active"
			if !p.Active {
				state = "disabled"
			}
			capped := p.CPUCapPercent
			if capped == 0 {
				capped = 100 * p.VCPUs
			}
			return []cell{text(p.Name), mib(p.MemoryMiB), mib(p.SwapMiB), number("%d", p.VCPUs), number("%d", capped), mib(p.QuotaMiB), text(state), text(p.UUID)}
		},
		name: func(p api.Package) string {
			if !p.Active {
				return p.UUID // its name may be another's
			}
			return p.Name
		},
	}
}

// mib prints a size that is given in MiB.
func mib(n int) cell {
	if n == 0 {
		return cell{text: "0", right: true}
	}
	return cell{text: size(int64(n) << 20), right: true}
}

func (a *app) packageCommand() *cobra.Command {
	k := packageKind()
	return noun("package", "Packages: the sizes that instances are made in",
		lines("nereid package create web-1G --memory-mib 1024 --vcpus 2 --quota-mib 20480", "nereid package list", "nereid package disable sample-8G"),
		list(a, k, filter{"owner", "owner", "only those that this account may use"}, filter{"active", "active", "true: only active ones; false: only disabled ones"}),
		get(a, k), a.packageCreate(), a.packageDisable(k))
}

func (a *app) packageCreate() *cobra.Command {
	var p api.Package
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a package",
		Long: `Makes a package. Its limits do not change once it is made, since instances have them: to offer other limits, make another package and disable
this one. Memory, swap and quota are in MiB (1024 KiB).`,
		Example: lines("nereid package create web-1G --memory-mib 1024 --vcpus 2 --quota-mib 20480",
			"nereid package create batch --memory-mib 4096 --vcpus 4 --quota-mib 51200 --cpu-cap-percent 250 --cpu-weight 50 --trait ssd=true"),
		Args:              wants("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			in := p
			in.Name = args[0]
			out, err := c.Packages().Create(ctx, in)
			if err != nil {
				return err
			}
			return a.done(out, "package %s (%s) is made: %s memory, %s, %s disk", out.Name, out.UUID, mib(out.MemoryMiB).text, api.Plural(out.VCPUs, "vcpu"), mib(out.QuotaMiB).text)
		}),
	}
	fl := cmd.Flags()
	fl.IntVar(&p.MemoryMiB, "memory-mib", 0, "memory in MiB, 16 to 16777216")
	fl.IntVar(&p.SwapMiB, "swap-mib", 0, "swap in MiB, beside the memory (default 0: none)")
	fl.IntVar(&p.VCPUs, "vcpus", 0, "processors, 1 to 512")
	fl.IntVar(&p.CPUCapPercent, "cpu-cap-percent", 0, "most CPU time, in percent of one processor (default 100 for each of vcpus)")
	fl.IntVar(&p.CPUWeight, "cpu-weight", 0, "share of busy processors, 1 to 10000 (default 100)")
	fl.IntVar(&p.QuotaMiB, "quota-mib", 0, "disk space in MiB, snapshots included; 64 and more")
	fl.IntVar(&p.Processes, "processes", 0, "processes and threads, 32 to 4194304 (default 4000)")
	fl.IntVar(&p.IOWeight, "io-weight", 0, "share of busy disks, 1 to 10000 (default 100); it hardly acts on zones over ZFS")
	fl.StringVar(&p.Brand, "brand", "", "lx or kvm (default any)")
	fl.StringSliceVar(&p.Owners, "owner", nil, "account that may use it; can be repeated (default all)")
	fl.StringToStringVar(&p.Traits, "trait", nil, "what a server must have, as ssd=true; can be repeated")
	fl.StringVar(&p.Group, "group", "", "by which lists are sorted for people")
	fl.StringVar(&p.Description, "description", "", "what it is for")
	for _, name := range []string{"memory-mib", "vcpus", "quota-mib"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

func (a *app) packageDisable(k kind[api.Package, api.PackageUpdate]) *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use: "disable PACKAGE", Short: "Let no new instance use a package",
		Long:              "Lets no new instance use a package. Those that there are keep it. A disabled package is named by its UUID, and its name is free.",
		Example:           lines("nereid package disable sample-8G", "nereid package disable 930896af-bf8c-48d4-885c-6573a94b1853 --undo"),
		Args:              wants("PACKAGE"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			out, err := c.Packages().Update(ctx, args[0], api.PackageUpdate{Active: &again}, "")
			if err != nil {
				return err
			}
			what := "disabled: no new instance may use it"
			if again {
				what = "active again"
			}
			return a.done(out, "package %s (%s) is %s", out.Name, out.UUID, what)
		}),
	}
	cmd.Flags().BoolVar(&again, "undo", false, "let new instances use it again")
	return cmd
}
