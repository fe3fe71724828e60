package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// typed is a value as JSON has it: numbers, true and false keep their types.
func typed(s string) any {
	var v any
	if json.Unmarshal([]byte(s), &v) == nil {
		switch v.(type) {
		case bool, float64:
			return v
		}
	}
	return s
}

func (a *app) instanceRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename INSTANCE NAME", Short: "Give an instance another name",
		Long:              "Gives an instance another name, and another hostname with its next start.\n\n" + instanceIDs,
		Example:           lines("nereid instance rename web0 web1"),
		Args:              wants("INSTANCE", "NAME"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Instances().Update(ctx, args[0], api.InstanceUpdate{Name: &args[1]}, "")
			if err != nil {
				return err
			}
			return a.done(i, "instance %s is named %s", i.UUID, i.Name)
		}),
	}
}

func (a *app) instanceProtect(on bool) *cobra.Command {
	verb, short, done := "protect", "Keep an instance from being deleted", "instance %s cannot be deleted"
	if !on {
		verb, short, done = "unprotect", "Let an instance be deleted again", "instance %s can be deleted"
	}
	return &cobra.Command{
		Use: verb + " INSTANCE", Short: short,
		Example:           lines("nereid instance " + verb + " web0"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Instances().Update(ctx, args[0], api.InstanceUpdate{Protected: &on}, "")
			if err != nil {
				return err
			}
			return a.done(i, done, i.Name)
		}),
	}
}

func (a *app) instanceRestart() *cobra.Command {
	policies := []cobra.Completion{api.RestartNo, api.RestartOnFailure, api.RestartAlways}
	return &cobra.Command{
		Use: "restart-policy INSTANCE no|on-failure|always", Short: "Say what is done when an instance ends by itself",
		Long: `Says what is done when an instance that is to run ends by itself: "no" leaves it as it is, "on-failure" starts one that failed again, less and
less often, and "always" also one that ended well, as by a shutdown from inside. An instance that was stopped stays stopped. To stop and start one
now: nereid instance reboot.

` + instanceIDs,
		Example: lines("nereid instance restart-policy web0 always"),
		Args:    wants("INSTANCE", "no|on-failure|always"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, to string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return policies, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeInstances()(cmd, args, to)
		},
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Instances().Update(ctx, args[0], api.InstanceUpdate{Restart: &args[1]}, "")
			if err != nil {
				return err
			}
			return a.done(i, "instance %s: its restart policy is %s", i.Name, i.Restart)
		}),
	}
}

func (a *app) instanceFirewall() *cobra.Command {
	return &cobra.Command{
		Use: "firewall INSTANCE on|off", Short: "Let rules decide what comes in, or everything in",
		Long:              "on: only what rules allow may come in. off: everything may.\n\n" + instanceIDs,
		Example:           lines("nereid instance firewall web0 on"),
		Args:              wants("INSTANCE", "on|off"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			if args[1] != "on" && args[1] != "off" {
				return usagef("firewall %q: want on or off", args[1])
			}
			on := args[1] == "on"
			i, err := c.Instances().Update(ctx, args[0], api.InstanceUpdate{Firewall: &on}, "")
			if err != nil {
				return err
			}
			return a.done(i, "the firewall of instance %s is %s", i.Name, args[1])
		}),
	}
}

// instanceValues makes "tag" and "metadata", which differ in little.
func (a *app) instanceValues(noun string) *cobra.Command {
	is := map[string]string{"tag": "Tags of an instance, which firewall rules and affinity see", "metadata": "Metadata of an instance, which it can read"}
	internal := false
	set := func(v map[string]any, remove []string) api.InstanceUpdate {
		switch {
		case noun == "tag":
			return api.InstanceUpdate{SetTags: v, RemoveTags: remove}
		case internal:
			return api.InstanceUpdate{SetInternal: v, RemoveInternal: remove}
		}
		return api.InstanceUpdate{SetMetadata: v, RemoveMetadata: remove}
	}
	of := func(i api.Instance) map[string]any {
		switch {
		case noun == "tag":
			return i.Tags
		case internal:
			return i.Internal
		}
		return i.Metadata
	}
	example := map[string]string{"tag": "role=web", "metadata": "user-script=true"}[noun]
	name := map[string]string{"tag": "role", "metadata": "user-script"}[noun]
	list := &cobra.Command{
		Use: "list INSTANCE", Short: "List them",
		Example:           lines("nereid instance " + noun + " list web0"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Instances().Get(ctx, args[0])
			if err != nil {
				return err
			}
			v := of(i)
			if v == nil {
				v = map[string]any{}
			}
			return a.emit(v, func(w io.Writer) error {
				t := a.table("NAME", "VALUE")
				t.prose = true
				for _, k := range sortedKeys(v) {
					t.add(text(k), text(fmt.Sprint(v[k])))
				}
				return t.write(w)
			})
		}),
	}
	var files []string
	change := &cobra.Command{
		Use: "set INSTANCE NAME=VALUE...", Short: "Set some, and leave the others",
		Long:    "Sets some and leaves the others. Numbers, true and false keep their types.\n\n" + instanceIDs,
		Example: lines("nereid instance " + noun + " set web0 " + example),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(files) > 0 && len(args) > 0 {
				return nil
			}
			return wants("INSTANCE", "NAME=VALUE...")(cmd, args)
		},
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			v, err := values(noun, args[1:])
			if err == nil {
				err = a.fromFiles(&v, files)
			}
			if err != nil {
				return err
			}
			i, err := c.Instances().Update(ctx, args[0], set(v, nil), "")
			if err != nil {
				return err
			}
			return a.done(i, "instance %s is changed", i.Name)
		}),
	}
	remove := &cobra.Command{
		Use: "remove INSTANCE NAME...", Short: "Remove some",
		Example:           lines("nereid instance " + noun + " remove web0 " + name),
		Args:              wants("INSTANCE", "NAME..."),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Instances().Update(ctx, args[0], set(nil, args[1:]), "")
			if err != nil {
				return err
			}
			return a.done(i, "instance %s is changed", i.Name)
		}),
	}
	top := &cobra.Command{Use: noun, Short: is[noun], Example: lines("nereid instance "+noun+" set web0 "+example, "nereid instance "+noun+" list web0"),
		Args: verbOf, RunE: needsVerb, DisableFlagsInUseLine: true}
	if noun == "metadata" {
		change.Flags().StringArrayVar(&files, "file", nil, "`NAME=PATH`: the value is what the file has (- is standard input)")
		for _, cmd := range []*cobra.Command{list, change, remove} {
			cmd.Flags().BoolVar(&internal, "internal", false, "operators' metadata: the instance reads what has a colon\nin its name or ends in _pw, and changes nothing")
		}
	}
	top.AddCommand(list, change, remove)
	return top
}

func (a *app) instanceNIC() *cobra.Command {
	var yes bool
	add := &cobra.Command{
		Use: "add INSTANCE NETWORK[=ADDRESS]", Short: "Give an instance a NIC",
		Long:              "Gives an instance a NIC on a network or pool, named as by instance create. One that runs has it at once.\n\n" + instanceIDs,
		Example:           lines("nereid instance nic add web0 external", "nereid instance nic add web0 web=192.168.128.9"),
		Args:              wants("INSTANCE", "NETWORK[=ADDRESS]"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.AddInstanceNIC(ctx, args[0], networkFlag(args[1]))
			if err != nil {
				return err
			}
			return a.done(i, "instance %s has %s", i.Name, api.Plural(len(i.NICs), "NIC"))
		}),
	}
	remove := &cobra.Command{
		Use: "remove INSTANCE MAC", Short: "Take a NIC from an instance",
		Long:              "Takes a NIC from an instance, and gives its addresses back. One that runs loses it at once: the guest of a virtual machine may still show it until it boots again, and it carries nothing.\n\n" + instanceIDs,
		Example:           lines("nereid instance nic remove web0 02:4e:52:00:00:01"),
		Args:              wants("INSTANCE", "MAC"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			if err := a.confirm(ctx, yes, "take NIC %s from instance %s", args[1], args[0]); err != nil {
				return err
			}
			var i api.Instance
			err := a.agree(ctx, yes, func(ctx context.Context) (err error) {
				i, err = c.RemoveInstanceNIC(ctx, args[0], args[1])
				return err
			})
			if err != nil {
				return err
			}
			return a.done(i, "instance %s has %s", i.Name, api.Plural(len(i.NICs), "NIC"))
		}),
	}
	yesFlag(remove, &yes)
	top := &cobra.Command{Use: "nic", Short: "NICs of an instance", Example: lines("nereid instance nic add web0 external", "nereid instance nic remove web0 02:4e:52:00:00:01"),
		Args: verbOf, RunE: needsVerb, DisableFlagsInUseLine: true}
	top.AddCommand(add, remove)
	return top
}

func (a *app) instanceSettings() *cobra.Command {
	var s api.InstanceSettings
	cmd := &cobra.Command{
		Use: "settings", Short: "Show or change what placement gives out of servers",
		Long: `Shows what placement gives out of servers, how long deleted instances can be read, and how many snapshots an instance may have; with flags,
changes that. A ratio of 1 gives out what there is, and no more.`,
		Example:           lines("nereid instance settings", "nereid instance settings --cpu-ratio 8 --keep-deleted-days 90"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			have, err := c.InstanceSettings(cmd.Context())
			if err != nil {
				return err
			}
			some := false
			for name, apply := range map[string]func(){
				"cpu-ratio": func() { have.CPURatio = s.CPURatio }, "memory-ratio": func() { have.MemoryRatio = s.MemoryRatio },
				"disk-ratio": func() { have.DiskRatio = s.DiskRatio }, "reserved-memory-mib": func() { have.ReservedMiB = s.ReservedMiB },
				"reserved-memory-percent": func() { have.ReservedPer100 = s.ReservedPer100 }, "keep-deleted-days": func() { have.KeepDays = s.KeepDays },
				"max-snapshots": func() { have.MaxSnapshots = s.MaxSnapshots },
			} {
				if cmd.Flags().Changed(name) {
					some = true
					apply()
				}
			}
			if some {
				if have, err = c.SetInstanceSettings(cmd.Context(), have); err != nil {
					return err
				}
			}
			return a.show(have)
		},
	}
	fl := cmd.Flags()
	fl.Float64Var(&s.CPURatio, "cpu-ratio", 0, "vcpus given out for each processor, 0.1 to 64")
	fl.Float64Var(&s.MemoryRatio, "memory-ratio", 0, "part of the memory that is given out, 0.1 to 4")
	fl.Float64Var(&s.DiskRatio, "disk-ratio", 0, "part of the pool that quotas may sum up to, 0.1 to 64")
	fl.IntVar(&s.ReservedMiB, "reserved-memory-mib", 0, "memory of each server that is left to the platform and to ZFS, in MiB")
	fl.IntVar(&s.ReservedPer100, "reserved-memory-percent", 0, "and this part of it, 0 to 90")
	fl.IntVar(&s.MaxSnapshots, "max-snapshots", 0, "snapshots of one instance beside those of its schedule, 1 to 256")
	fl.IntVar(&s.KeepDays, "keep-deleted-days", 0, "how long a deleted instance can be read, 1 to 3650")
	return cmd
}

// fromFiles adds values that are in files: NAME=PATH, where PATH - is standard input.
func (a *app) fromFiles(v *map[string]any, files []string) error {
	for _, s := range files {
		name, path, ok := strings.Cut(s, "=")
		if !ok || name == "" || path == "" {
			return usagef("--file %q: want NAME=PATH", s)
		}
		from := a.stdin
		if path != "-" {
			f, err := os.Open(path)
			if err != nil {
				return usagef("--file %s: %v", name, err)
			}
			defer f.Close()
			from = f
		}
		text, err := io.ReadAll(io.LimitReader(from, maxValue+1))
		if err != nil {
			return fmt.Errorf("--file %s: %w", name, err)
		}
		if len(text) > maxValue {
			return usagef("--file %s: it has more than %d bytes, which is what all metadata of an instance may have", name, maxValue)
		}
		if *v == nil {
			*v = map[string]any{}
		}
		(*v)[name] = strings.TrimSuffix(string(text), "\n")
	}
	return nil
}

// maxValue is how long a value of metadata may be, in bytes.
const maxValue = 128 << 10
