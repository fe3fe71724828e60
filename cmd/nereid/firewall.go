package main

import "github.com/spf13/cobra"

func (a *app) firewallCommand() *cobra.Command {
	k := firewallKind()
	return noun("firewall", "Firewall rules of instances",
		lines("nereid firewall check 'FROM any TO tag web ALLOW tcp PORT 443'", "nereid firewall list"),
		a.firewallCheck(),
		list(a, k, filter{"owner", "owner", "only this account's"}, filter{"global", "global", "true: only those of all accounts"}),
		get(a, k), a.firewallCreate(), a.firewallUpdate(k), a.firewallSwitch(k, true), a.firewallSwitch(k, false), remove(a, k))
}
