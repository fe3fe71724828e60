package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func firewallKind() kind[api.FirewallRule, api.FirewallRuleUpdate] {
	return kind[api.FirewallRule, api.FirewallRuleUpdate]{
		noun: "firewall", thing: "firewall rule", id: "RULE", example: []string{"5c3a2ed4-4d5b-4cbe-9e6a-1f5d0b7a9c11"},
		open: func(c *api.Client, _ []string) (api.Objects[api.FirewallRule, api.FirewallRuleUpdate], error) {
			return c.FirewallRules(), nil
		},
		header: []string{"UUID", "ON", "OWNER", "LOG", "RULE"}, prose: true,
		row: func(r api.FirewallRule) []cell {
			owner := r.Owner
			if r.Global {
				owner = "global"
			}
			return []cell{text(r.UUID), text(yesNo(r.Enabled)), text(owner), text(yesNo(r.Log)), text(r.Rule)}
		},
		name:   func(r api.FirewallRule) string { return r.UUID },
		delete: "Deletes a rule. Connections that only it allowed end at once.",
	}
}

func (a *app) firewallCreate() *cobra.Command {
	var r api.FirewallRule
	var off bool
	cmd := &cobra.Command{
		Use: "create RULE", Short: "Make a rule of an account, or with --global of all",
		Long: `Makes a rule. It is in force at once on every server with a NIC that it is about, also for connections that are open already.
The language: nereid firewall check --help.`,
		Example: lines("nereid firewall create 'FROM any TO tag role = web ALLOW tcp (PORT 80 AND PORT 443)' --owner 930896af-bf8c-48d4-885c-6573a94b1853",
			"nereid firewall create 'FROM any TO all vms ALLOW icmp TYPE 8' --global"),
		Args:              wants("RULE..."),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			r.Rule, r.Enabled = strings.Join(args, " "), !off
			out, err := c.FirewallRules().Create(ctx, r)
			if err != nil {
				return err
			}
			return a.done(out, "rule %s is made: %s", out.UUID, out.Rule)
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&r.Owner, "owner", "", "account whose instances it is about, a UUID")
	fl.BoolVar(&r.Global, "global", false, "it is about the instances of all accounts")
	fl.BoolVar(&r.Log, "log", false, "log what it decides about")
	fl.BoolVar(&off, "disabled", false, "only keep it; it is not in force")
	fl.StringVar(&r.Description, "description", "", "what it is for")
	cmd.MarkFlagsOneRequired("owner", "global")
	cmd.MarkFlagsMutuallyExclusive("owner", "global")
	return cmd
}

func (a *app) firewallUpdate(k kind[api.FirewallRule, api.FirewallRuleUpdate]) *cobra.Command {
	var r api.FirewallRule
	cmd := &cobra.Command{
		Use: "update RULE", Short: "Change a rule; what is not named stays",
		Example:           lines("nereid firewall update 5c3a2ed4-4d5b-4cbe-9e6a-1f5d0b7a9c11 --log", "nereid firewall update 5c3a2ed4-4d5b-4cbe-9e6a-1f5d0b7a9c11 --description web"),
		Args:              wants("RULE"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeRule(cmd, args[0], api.FirewallRuleUpdate{Rule: given(cmd, "rule", r.Rule), Log: given(cmd, "log", r.Log),
				Description: given(cmd, "description", r.Description)}, "changed")
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&r.Rule, "rule", "", "another text")
	fl.BoolVar(&r.Log, "log", false, "log what it decides about")
	fl.StringVar(&r.Description, "description", "", "what it is for")
	return cmd
}

// firewallSwitch makes "enable" and "disable".
func (a *app) firewallSwitch(k kind[api.FirewallRule, api.FirewallRuleUpdate], on bool) *cobra.Command {
	verb, short, said := "enable", "Put a rule into force", "in force"
	if !on {
		verb, short, said = "disable", "Keep a rule without force", "not in force any more"
	}
	return &cobra.Command{
		Use: verb + " RULE", Short: short,
		Example:           lines("nereid firewall " + verb + " 5c3a2ed4-4d5b-4cbe-9e6a-1f5d0b7a9c11"),
		Args:              wants("RULE"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeRule(cmd, args[0], api.FirewallRuleUpdate{Enabled: &on}, said)
		},
	}
}

func (a *app) changeRule(cmd *cobra.Command, uuid string, u api.FirewallRuleUpdate, said string) error {
	c, err := a.api()
	if err != nil {
		return err
	}
	out, err := c.FirewallRules().Update(cmd.Context(), uuid, u, "")
	if err != nil {
		return err
	}
	return a.done(out, "rule %s is %s: %s", out.UUID, said, out.Rule)
}
