package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) instanceCommand() *cobra.Command {
	k := instanceKind(nil)
	return noun("instance", "Instances: zones and virtual machines, from an image on",
		lines("nereid instance create web0 --owner 930896af-bf8c-48d4-885c-6573a94b1853 --image debian --package sample-512M --network external --wait",
			"nereid instance list --on cn0", "nereid instance stop web0", "nereid instance explain web0"),
		a.instanceCreate(), a.instanceList(), a.instanceAdopt(), get(a, k),
		a.instanceStart(), a.instanceStop(), a.instanceReboot(), a.instanceKill(), a.instanceDelete(),
		a.instanceRename(), a.instanceProtect(true), a.instanceProtect(false), a.instanceFirewall(), a.instanceRestart(),
		a.instanceValues("tag"), a.instanceValues("metadata"), a.instanceNIC(), a.instanceDisk(), a.instanceSnapshot(),
		a.instanceExec(), a.instanceShell(), a.instanceConsole(), a.instanceLogs(), a.instancePush(), a.instancePull(),
		a.instanceScreenshot(), a.instanceVNC(), a.instanceNMI(),
		a.instanceExplain(), a.instanceTimeline(), a.instanceAudit(), a.instanceSettings())
}

const instanceIDs = "INSTANCE is a UUID, or a name that one account's instance has."

// instanceKind is how instances are listed; hostnames names their servers by UUID.
func instanceKind(hostnames map[string]string) kind[api.Instance, api.InstanceUpdate] {
	return kind[api.Instance, api.InstanceUpdate]{
		noun: "instance", thing: "instance", id: "INSTANCE", example: []string{"web0"},
		open: func(c *api.Client, _ []string) (api.Objects[api.Instance, api.InstanceUpdate], error) {
			return c.Instances(), nil
		},
		header: []string{"NAME", "STATE", "BRAND", "SERVER", "ADDRESSES", "MEMORY", "UUID", "REASON"}, prose: true,
		row: func(i api.Instance) []cell {
			return []cell{text(i.Name), styled(i.State, instanceStyle(i.State)), text(i.Brand), text(firstOf(hostnames[i.Server], i.Server)),
				text(strings.Join(instanceAddresses(i), " ")), mib(i.MemoryMiB), text(i.UUID), text(i.Reason)}
		},
		name: func(i api.Instance) string { return i.Name },
		plain: func(i api.Instance) api.Instance {
			i.VM, i.Restart = nil, firstOf(i.Restart, api.RestartOnFailure)
			return i
		},
		beside: machineSections,
	}
}

func instanceStyle(state string) style {
	switch state {
	case api.InstanceRunning:
		return green
	case api.InstanceFailed, api.InstanceUnknown:
		return red
	case api.InstanceProvisioning, api.InstanceStopping:
		return yellow
	}
	return plain
}

// instanceAddresses are those of an instance, without prefix lengths.
func instanceAddresses(i api.Instance) []string {
	var out []string
	for _, n := range i.NICs {
		for _, ad := range n.Addresses {
			ip, _, _ := strings.Cut(ad.Address, "/")
			out = append(out, ip)
		}
	}
	return out
}

func (a *app) completeInstances() cobra.CompletionFunc { return completeObjects(a, instanceKind(nil)) }

func (a *app) instanceList() *cobra.Command {
	var unexpected bool
	query := map[string]*string{}
	cmd := &cobra.Command{
		Use: "list", Short: "List instances",
		Long: `Lists the instances that are there; with --state deleted those that were deleted and can still be read. --unexpected lists what servers have
and the head node does not know, as after it was restored from a backup; that runs on.`,
		Example: lines("nereid instance list", "nereid instance list --on cn0 --state running", "nereid instance list --tag role=web -o json",
			"nereid instance list --unexpected"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			if unexpected {
				return a.listUnexpected(ctx, c, *query["server"])
			}
			q := url.Values{}
			for name, v := range query {
				if *v != "" {
					q.Set(name, *v)
				}
			}
			all := []api.Instance{}
			for i, err := range c.Instances().All(ctx, q) {
				if err != nil {
					return err
				}
				all = append(all, i)
			}
			hostnames := map[string]string{}
			if a.output == "table" && len(all) > 0 {
				servers, err := listServers(ctx, c, func(s api.Server) bool { return s.UUID != "" })
				if err != nil {
					return err
				}
				for _, s := range servers {
					hostnames[s.UUID] = s.Hostname
				}
			}
			return a.emit(all, func(w io.Writer) error {
				if len(all) == 0 {
					_, err := fmt.Fprintln(w, "No instances.")
					return err
				}
				return instanceKind(hostnames).table(a, all).write(w)
			})
		}),
	}
	for _, f := range []filter{
		{"owner", "owner", "only this account's, a UUID"}, {"on", "server", "only those on this server"}, {"image", "image", "only those of this image, a UUID"},
		{"package", "package", "only those of this package"}, {"name", "name", "only those of this name"}, {"tag", "tag", "only those with this tag, as role=web"},
		{"state", "state", "provisioning, running, stopping, stopped, failed, unknown or deleted"},
	} {
		query[f.query] = cmd.Flags().String(f.flag, "", f.what)
	}
	cmd.Flags().BoolVar(&unexpected, "unexpected", false, "what servers have and were not told of")
	_ = cmd.RegisterFlagCompletionFunc("on", a.completeServers(true))
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"provisioning", "running", "stopping", "stopped", "failed", "unknown", "deleted"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) listUnexpected(ctx context.Context, c *api.Client, server string) error {
	all, err := c.UnexpectedInstances(ctx, server)
	if err != nil {
		return err
	}
	return a.emit(all, func(w io.Writer) error {
		if len(all) == 0 {
			_, err := fmt.Fprintln(w, "No unexpected instances.")
			return err
		}
		t := a.table("NAME", "STATE", "SERVER", "UUID", "WHY")
		t.prose = true
		for _, u := range all {
			name := ""
			if u.Instance.Spec != nil {
				name = u.Instance.Spec.Name
			}
			t.add(text(name), text(u.Instance.State), text(u.Server), text(u.Instance.UUID), text(u.Why))
		}
		return t.write(w)
	})
}

func (a *app) instanceExplain() *cobra.Command {
	return &cobra.Command{
		Use: "explain INSTANCE", Short: "Show why an instance is on its server",
		Long:              "Shows how its server was chosen: the servers that would have done, with what they scored, and why the others would not. It is as it was then.\n\n" + instanceIDs,
		Example:           lines("nereid instance explain web0", "nereid instance explain web0 -o json"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := c.InstancePlacement(ctx, args[0])
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) error {
				t := a.table("SERVER", "SCORE", "WHY")
				t.prose = true
				for _, s := range p.Servers {
					t.add(text(s.Hostname), scoreCell(s), text(whyServer(p, s)))
				}
				if err := t.write(w); err != nil || p.More == 0 {
					return err
				}
				_, err := fmt.Fprintf(w, "and %s\n", api.Plural(p.More, "more server"))
				return err
			})
		}),
	}
}

func scoreCell(s api.PlacementServer) cell {
	if len(s.Why) > 0 {
		return cell{text: "-", right: true}
	}
	return number("%.2f", s.Score)
}

// whyServer says in a sentence what was found of a server.
func whyServer(p api.Placement, s api.PlacementServer) string {
	if len(s.Why) > 0 {
		return strings.Join(s.Why, "; ")
	}
	var parts []string
	for _, name := range sortedKeys(s.Scores) {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, s.Scores[name]))
	}
	out := strings.Join(parts, ", ")
	switch {
	case s.UUID == p.Chosen && p.Asked:
		return "chosen, as it was asked for: " + out
	case s.UUID == p.Chosen:
		return "chosen: " + out
	}
	return out
}

func (a *app) instanceAudit() *cobra.Command {
	return &cobra.Command{
		Use: "audit INSTANCE", Short: "List what was asked of an instance, the newest first",
		Long:              instanceIDs + " The last 100 requests are kept.",
		Example:           lines("nereid instance audit web0"),
		Args:              wants("INSTANCE"),
		ValidArgsFunction: a.completeInstances(),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			all, err := c.InstanceAudit(ctx, args[0])
			if err != nil {
				return err
			}
			return a.emit(all, func(w io.Writer) error {
				t := a.table("ASKED", "ACTION", "BY", "SUCCESS", "ERROR")
				t.prose = true
				for _, e := range all {
					success := "yes"
					switch {
					case e.Finished.IsZero():
						success = "not yet"
					case !e.Success:
						success = "no"
					}
					t.add(text(stamp(e.Asked)), text(e.Action), text(e.By), text(success), text(e.Error))
				}
				return t.write(w)
			})
		}),
	}
}
