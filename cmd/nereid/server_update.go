package main

import (
	"context"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) serverUpdate() *cobra.Command {
	var rack string
	var traits map[string]string
	var reserved bool
	cmd := &cobra.Command{
		Use: "update SERVER", Short: "Say what placement is to know of a server",
		Long: `Notes what placement of instances is to know of a server; what is not named stays. --rack is where it is, which affinity rules can name;
traits are what packages may ask for. --reserved keeps new instances away that do not name the server, as before it is emptied.

` + serverIDs,
		Example:           lines("nereid server update cn0 --rack r1 --trait ssd=true", "nereid server update cn0 --reserved", "nereid server update cn0 --reserved=false"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
	}
	cmd.RunE = a.withServer(func(ctx context.Context, c *api.Client, s api.Server, _ []string) error {
		u := api.ServerUpdate{Rack: given(cmd, "rack", rack), Traits: given(cmd, "trait", traits), Reserved: given(cmd, "reserved", reserved)}
		if u.Rack == nil && u.Traits == nil && u.Reserved == nil {
			return usagef("update %s: nothing to change is named; see: nereid server update --help", named(s))
		}
		out, err := c.UpdateServer(ctx, s.UUID, u, "")
		if err != nil {
			return err
		}
		return a.done(out, "server %s is changed", named(out))
	})
	cmd.Flags().StringVar(&rack, "rack", "", "where it is, as r1; empty: nowhere in particular")
	cmd.Flags().StringToStringVar(&traits, "trait", nil, "what it has, as ssd=true, all of them; can be repeated")
	cmd.Flags().BoolVar(&reserved, "reserved", false, "new instances stay away unless they name it")
	return cmd
}
