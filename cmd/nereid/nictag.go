package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) nictagCommand() *cobra.Command {
	k := kind[api.NICTag, api.NICTagUpdate]{
		noun: "nictag", thing: "NIC tag", id: "NAME", example: []string{"external"},
		open: func(c *api.Client, _ []string) (api.Objects[api.NICTag, api.NICTagUpdate], error) {
			return c.NICTags(), nil
		},
		header: []string{"NAME", "MTU", "DESCRIPTION"}, prose: true,
		row:    func(t api.NICTag) []cell { return []cell{text(t.Name), number("%d", t.MTU), text(t.Description)} },
		name:   func(t api.NICTag) string { return t.Name },
		delete: "Deletes a NIC tag. One that a network uses or a server provides stays, and what that is is listed.",
	}
	return noun("nictag", "NIC tags: layer-2 segments, and which servers' NICs provide them",
		lines("nereid nictag create external --mtu 9000", "nereid nictag provide cn0 52:54:00:00:00:11 external"),
		list(a, k), get(a, k), a.nictagCreate(), a.nictagUpdate(), remove(a, k), a.nictagProvide())
}

func (a *app) nictagCreate() *cobra.Command {
	var t api.NICTag
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a NIC tag",
		Example:           lines("nereid nictag create external", "nereid nictag create underlay --mtu 9000"),
		Args:              wants("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			t.Name = args[0]
			out, err := c.NICTags().Create(ctx, t)
			if err != nil {
				return err
			}
			return a.done(out, "NIC tag %s is made, MTU %d", out.Name, out.MTU)
		}),
	}
	cmd.Flags().IntVar(&t.MTU, "mtu", 0, "largest packet in bytes, 1500 to 9000 (default 1500)")
	cmd.Flags().StringVar(&t.Description, "description", "", "what it is for")
	return cmd
}

func (a *app) nictagUpdate() *cobra.Command {
	var mtu int
	var description string
	var yes bool
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change a NIC tag's MTU or description",
		Example:           lines("nereid nictag update underlay --mtu 9000"),
		Args:              wants("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			var out api.NICTag
			err = a.agree(cmd.Context(), yes, func(ctx context.Context) (err error) {
				out, err = c.NICTags().Update(ctx, args[0], api.NICTagUpdate{
					MTU: given(cmd, "mtu", mtu), Description: given(cmd, "description", description)}, "")
				return err
			})
			if err != nil {
				return err
			}
			return a.done(out, "NIC tag %s is changed; servers that provide it follow without a reboot", out.Name)
		},
	}
	yesFlag(cmd, &yes)
	cmd.Flags().IntVar(&mtu, "mtu", 0, "largest packet in bytes, 1500 to 9000")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	return cmd
}

func (a *app) nictagProvide() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "provide SERVER MAC [TAG...]", Short: "Say which NIC tags a server's physical NIC provides",
		Long: `Says which NIC tags a physical NIC of a server provides; without any, it provides none any more. The server follows at once, and
takes the change back after 30 s when it loses the head node by it. When a tag moves here from another NIC or a bond, the command shows what moves
with it and asks.` + "\n\n" + serverIDs,
		Example: lines("nereid nictag provide cn0 52:54:00:00:00:11 external underlay", "nereid nictag provide cn0 52:54:00:00:00:11"),
		Args: func(cmd *cobra.Command, args []string) error {
			return wants("SERVER", "MAC")(cmd, args[:min(len(args), 2)])
		},
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, args []string) error {
			mac, err := net.ParseMAC(args[1])
			if err != nil {
				return usagef("%q is no MAC address; see: nereid server nics %s", args[1], named(s))
			}
			use := api.NICTagUse{MAC: mac.String(), NICTags: append([]string{}, args[2:]...)}
			err = a.agree(ctx, yes, func(ctx context.Context) error { return c.ProvideNICTags(ctx, s.UUID, use) })
			if err != nil {
				return err
			}
			return a.done(use, "%s of %s provides %s", use.MAC, named(s), firstOf(strings.Join(use.NICTags, ", "), "no NIC tag"))
		}),
	}
	yesFlag(cmd, &yes)
	return cmd
}

// serverNICs shows a server's physical NICs and bonds as the agent sees them,
// beside the NIC tags they are to provide.
func (a *app) serverNICs() *cobra.Command {
	return &cobra.Command{
		Use: "nics SERVER", Short: "Show a server's NICs and bonds: NIC tags, link, LACP, counters",
		Long:              "Shows what each physical NIC and bond of a server provides, and its link, speed, LACP state and counters as its agent last reported them.\n\n" + serverIDs,
		Example:           lines("nereid server nics cn0", "nereid server nics cn0 -o json"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, _ []string) error {
			wanted, err := c.ProvidedNICTags(ctx, s.UUID)
			if err != nil {
				return err
			}
			links := serverLinks(s, wanted)
			return a.emit(links, func(w io.Writer) error {
				t := a.table("NAME", "MAC", "NIC TAGS", "LINK", "SPEED", "MTU", "BOND", "LACP", "RECEIVED", "SENT", "ERRORS", "DROPPED")
				for _, l := range links {
					link, st, speed := "down", red, ""
					if l.Up {
						link, st = "up", plain
					}
					if l.SpeedMbps > 0 {
						speed = fmt.Sprintf("%d Mbit/s", l.SpeedMbps)
					}
					t.add(text(l.Name), text(l.MAC), text(strings.Join(l.NICTags, " ")), styled(link, st), text(speed), number("%d", l.MTU),
						text(l.Bond), text(l.LACP), cell{text: size(int64(l.RxBytes)), right: true}, cell{text: size(int64(l.TxBytes)), right: true},
						number("%d", l.RxErrors+l.TxErrors), number("%d", l.RxDropped+l.TxDropped))
				}
				return t.write(w)
			})
		}),
	}
}

// serverLinks is what the agent reported; of a server that did not yet, what its
// inventory says. The NIC tags are those it is to provide.
func serverLinks(s api.Server, wanted []api.NICTagUse) []api.LinkReport {
	links := []api.LinkReport{}
	if s.Usage != nil && s.Usage.Network != nil {
		links = append(links, s.Usage.Network.Links...)
	} else if s.Sysinfo != nil {
		for _, n := range s.Sysinfo.NICs {
			links = append(links, api.LinkReport{Name: n.Name, MAC: n.MAC, Up: n.LinkUp, SpeedMbps: n.SpeedMbps, MTU: n.MTU})
		}
	}
	for i, l := range links {
		for _, u := range wanted {
			if u.MAC == l.MAC && l.Bond == "" && len(l.NICTags) == 0 {
				links[i].NICTags = u.NICTags
			}
		}
	}
	return links
}
