package main

import (
	"context"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) instanceAdopt() *cobra.Command {
	var in api.InstanceAdopt
	cmd := &cobra.Command{
		Use: "adopt INSTANCE", Short: "Take back one that a server has and that is not known",
		Long: `Makes an instance known that a server has and was not told of, as after a restore of the head node from a backup: with its NICs, addresses,
owner, tags and metadata. It runs on. It is named by UUID, or by a name that one of them has; see: nereid instance list --unexpected`,
		Example: lines("nereid instance adopt web0", "nereid instance adopt 1b4e28ba-2fa1-41d2-883f-0016d3cca427 --name web1 --firewall"),
		Args:    wants("INSTANCE"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			c, err := a.api()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
			defer cancel()
			all, err := c.UnexpectedInstances(ctx, "")
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var out []cobra.Completion
			for _, u := range all {
				out = append(out, oneLine(u.Instance.UUID))
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.AdoptInstance(ctx, args[0], in)
			if err != nil {
				return err
			}
			return a.done(i, "instance %s (%s) is known again, with %s", i.Name, i.UUID, api.Plural(len(i.NICs), "NIC"))
		}),
	}
	cmd.Flags().StringVar(&in.Name, "name", "", "another name than the one that its server keeps")
	cmd.Flags().BoolVar(&in.Firewall, "firewall", false, "rules decide what comes in; its server does not keep whether they did")
	return cmd
}
