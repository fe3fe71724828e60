package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) datacenterCommand() *cobra.Command {
	show := &cobra.Command{
		Use:   "show",
		Short: "Show the datacenter's settings, totals and alerts",
		Long: `Shows the datacenter's name, its admin network and how much of its address range is taken, the default platform, alerts, and the
digest of the CA that --ca-sha256 wants elsewhere.`,
		Example:           lines("nereid datacenter show", "nereid datacenter show -o json | jq -r .ca_sha256"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			d, err := c.Datacenter(ctx)
			if err != nil {
				return err
			}
			return a.emit(d, func(w io.Writer) error {
				c := a.card(w)
				c.printf("%s\n", bold.paint(oneLine(d.Name), c.colour))
				c.line("DNS domain", d.DNSDomain)
				c.line("version", d.Version)
				c.line("CA SHA-256", d.CASHA256)
				c.linef("servers", "%d", d.Servers)
				c.linef("platforms", "%d, default %s", d.Platforms, firstOf(d.Default, "none"))
				c.section("Admin network")
				c.line("interface", d.Admin.Interface)
				c.line("address", d.Admin.Address)
				c.linef("range", "%s, %d of %d addresses taken", strings.Join(d.Admin.Range, " to "), d.AddressUse, d.AddressCap)
				c.line("gateway", d.Admin.Gateway)
				c.line("DNS", strings.Join(d.Admin.DNS, " "))
				c.line("NTP", strings.Join(d.Admin.NTP, " "))
				c.line("lease", d.Admin.Lease)
				c.line("clients", d.Admin.Clients)
				if len(d.Alerts) > 0 {
					c.section("Alerts")
					c.bullets(d.Alerts, yellow)
				}
				return c.err
			})
		}),
	}
	return noun("datacenter", "The datacenter: settings, totals, alerts", lines("nereid datacenter show"), show)
}

func (a *app) versionCommand() *cobra.Command {
	var clientOnly bool
	cmd := &cobra.Command{
		Use:               "version",
		Short:             "Print the versions of this program and of the head node",
		Example:           lines("nereid version", "nereid version --client -o json"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: version}
			if !clientOnly {
				c, err := a.api()
				if err != nil {
					return err
				}
				got, err := c.Capabilities(cmd.Context())
				if err != nil {
					_ = a.versionTable(v)
					return err
				}
				v.Headnode, v.Datacenter, v.Capabilities = got.Version, got.Datacenter, got.Capabilities
			}
			return a.versionTable(v)
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "only this program's; asks nobody")
	return cmd
}

// versions is what "nereid version" prints.
type versions struct {
	Client       string   `json:"client"`
	Headnode     string   `json:"headnode,omitempty"`
	Datacenter   string   `json:"datacenter,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
}

func (a *app) versionTable(v versions) error {
	return a.emit(v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "nereid    %s\n", oneLine(v.Client))
		if v.Headnode != "" && err == nil {
			_, err = fmt.Fprintf(w, "headnode  %s, datacenter %s, can %s\n", oneLine(v.Headnode), oneLine(v.Datacenter), firstOf(oneLine(strings.Join(v.Capabilities, " ")), "nothing named"))
		}
		return err
	})
}
