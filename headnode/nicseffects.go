package headnode

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/firewall"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// alsoNICs notes what a change of a NIC changes of others: the rest of its instance,
// and which rules are about that.
func alsoNICs(tx store.Tx, c networks.Change) error {
	for i, n := range c.Others {
		was := c.Were[i]
		if !maps.Equal(n.Tags, was.Tags) {
			also(tx, "NIC %s of the same instance has the firewall tags %s, not %s", n.MAC, tagsText(n.Tags), tagsText(was.Tags))
		}
		if n.Primary != was.Primary {
			also(tx, "NIC %s of the same instance is no longer primary: its gateway is not the default route", n.MAC)
		}
	}
	before, after := sidesOf(c)
	if before == nil || after == nil || before.UUID == after.UUID && before.Owner == after.Owner && maps.Equal(before.Tags, after.Tags) {
		return lostPrimary(tx, c)
	}
	if b, a := c.Before, c.After; b != nil && a != nil && a.BelongsTo != b.BelongsTo && !maps.Equal(a.Tags, b.Tags) {
		also(tx, "NIC %s takes the firewall tags of its new instance: %s, not %s", a.MAC, tagsText(a.Tags), tagsText(b.Tags))
	}
	return alsoRules(tx, *before, *after)
}

// alsoOutside notes that a server loses the address by which accounts reach what is
// outside.
func alsoOutside(tx store.Tx, c networks.Change) error {
	n := c.Before
	if n == nil || c.After != nil || n.BelongsToType != api.BelongsToServer || n.Underlay {
		return nil
	}
	tags, err := natTags(tx)
	if err != nil || !slices.Contains(tags, n.NICTag) {
		return err
	}
	others, err := gatewayFor(tx, n.Server)
	also(tx, "server %s has no address for NAT: connections of its own instances and of %s that it is a gateway of end", nameOf(tx, n.Server), api.Plural(len(others), "account"))
	return err
}

// sidesOf are what rules are about, before and after a change of a NIC: nil for
// servers' NICs, and where there was, or is, no instance.
func sidesOf(c networks.Change) (before, after *firewall.Instance) {
	of := func(n *api.NetworkNIC) *firewall.Instance {
		if n == nil || n.BelongsToType == api.BelongsToServer {
			return nil
		}
		return &firewall.Instance{UUID: n.BelongsTo, Owner: n.Owner, Tags: n.Tags}
	}
	before, after = of(c.Before), of(c.After)
	if before == nil && after != nil && len(c.Were) > 0 { // a new NIC of an instance that has others
		before = of(&c.Were[0])
	}
	return before, after
}

// alsoRules notes the rules that cease or begin to be about an instance.
func alsoRules(tx store.Tx, before, after firewall.Instance) error {
	var rules []api.FirewallRule
	filters := []firewall.Filter{{Global: true}}
	for _, owner := range slices.Compact([]string{before.Owner, after.Owner}) {
		if owner != "" {
			filters = append(filters, firewall.Filter{Owner: owner})
		}
	}
	for _, f := range filters {
		some, _, err := firewall.List(tx, f, "", 0)
		if err != nil {
			return err
		}
		rules = append(rules, some...)
	}
	about := func(i firewall.Instance) ([]string, error) {
		r, err := firewall.NewResolver(rules, []firewall.Instance{i})
		if err != nil {
			return nil, err
		}
		return r.About(i.UUID), nil
	}
	was, err := about(before)
	if err != nil {
		return err
	}
	is, err := about(after)
	if err != nil {
		return err
	}
	for _, r := range rules {
		switch had, has := slices.Contains(was, r.UUID), slices.Contains(is, r.UUID); {
		case had && !has:
			also(tx, "rule %s is no longer about instance %s: %s", r.UUID, before.UUID, r.Rule)
		case has && !had:
			also(tx, "rule %s is about instance %s from now on: %s", r.UUID, after.UUID, r.Rule)
		}
	}
	return nil
}

// lostPrimary notes that an instance is left without a primary NIC.
func lostPrimary(tx store.Tx, c networks.Change) error {
	b := c.Before
	if b == nil || !b.Primary || c.After != nil && c.After.BelongsTo == b.BelongsTo {
		return nil
	}
	others, _, err := networks.ListNICs(tx, networks.NICFilter{BelongsTo: b.BelongsTo}, "", 0)
	if err == nil && len(others) > 0 {
		also(tx, "instance %s keeps %s and no primary one: it has no default route", b.BelongsTo, api.Plural(len(others), "NIC"))
	}
	return err
}

// alsoOnNetwork notes what a change of a network changes of the NICs that are on it.
func alsoOnNetwork(tx store.Tx, before, after api.Network) error {
	var changes []string
	if after.MTU != before.MTU {
		changes = append(changes, fmt.Sprintf("MTU %d, not %d", after.MTU, before.MTU))
	}
	if after.Gateway != before.Gateway {
		changes = append(changes, fmt.Sprintf("the gateway %s, not %s", cmp.Or(after.Gateway, "none"), cmp.Or(before.Gateway, "none")))
	}
	if !maps.Equal(after.Routes, before.Routes) {
		changes = append(changes, "other routes")
	}
	if before.InternetNAT && !after.InternetNAT {
		changes = append(changes, "no way outside by NAT")
	}
	if len(changes) == 0 {
		return nil
	}
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{Network: after.UUID}, "", 0)
	nics = slices.DeleteFunc(nics, func(n api.NetworkNIC) bool { return n.Server == "" })
	if err == nil && len(nics) > 0 {
		also(tx, "%s on network %s: %s", api.Plural(len(nics), "NIC"), after.Name, strings.Join(changes, "; "))
	}
	return err
}

// tagsText writes firewall tags for people.
func tagsText(tags map[string]string) string {
	if len(tags) == 0 {
		return "none"
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, name+"="+tags[name])
	}
	return strings.Join(out, ", ")
}

// nicNames names physical NICs as networks.Providers does.
func nicNames(macs ...string) []string {
	var out []string
	for _, m := range macs {
		if hw, err := net.ParseMAC(m); err == nil {
			m = hw.String()
		}
		out = append(out, "NIC "+m)
	}
	return out
}

// tagsMoved notes NIC tags of a server that something else provides than before,
// unless the request named that.
func tagsMoved(tx store.Tx, r inventory.Record, before map[string]string, named []string) error {
	after, err := networks.Providers(tx, r.UUID)
	if err != nil {
		return err
	}
	settings, err := networks.GetSettings(tx)
	if err != nil {
		return err
	}
	for _, tag := range slices.Sorted(maps.Keys(before)) {
		from, to := before[tag], after[tag]
		if to == "" || to == from || slices.Contains(named, from) {
			continue
		}
		carried, err := carries(tx, r.UUID, tag, tag == settings.UnderlayTag)
		if err != nil {
			return err
		}
		also(tx, "NIC tag %s of server %s moves from %s to %s%s", tag, r.Hostname, from, to, carried)
	}
	return nil
}

// carries says what of a server is on a NIC tag.
func carries(tx store.Tx, server, tag string, underlay bool) (string, error) {
	nics, err := networks.NICsOfServer(tx, server)
	if err != nil {
		return "", err
	}
	var own []string
	others := 0
	for _, n := range nics {
		switch on := n.NICTag == tag || underlay && n.VNI != 0; {
		case on && n.Underlay:
			own = append(own, "the underlay address "+n.Addresses[0].IP)
		case on && n.BelongsToType == api.BelongsToServer:
			own = append(own, "the server's address "+n.Addresses[0].IP)
		case on:
			others++
		}
	}
	if others > 0 {
		own = append(own, api.Plural(others, "NIC")+" of instances")
	}
	if len(own) == 0 {
		return "", nil
	}
	return ", and with it " + strings.Join(own, ", "), nil
}
