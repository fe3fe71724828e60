package agent

import (
	"maps"
	"slices"
	"strings"

	"nereid/agent/firewall"
	"nereid/api"
)

// meaning is what rules mean for the ports of one account that have a firewall. It holds
// while the ports, and the sets that it was made of, are those it was made of.
type meaning struct {
	ports uint64            // version of ownersPorts
	of    map[string]uint64 // versions of sets, those that are missing too
	fw    api.FirewallSpec
	sets  []string // that rules name, in order
}

// version is one that no state of a set had. It is called with mu held, as are those that
// follow.
func (c *copies) version() uint64 {
	c.made++
	return c.made
}

// versionOf is that of a set; 0: it is not there.
func (c *copies) versionOf(set string) uint64 {
	if s := c.sets[set]; s != nil {
		return s.version
	}
	return 0
}

// meant is what the rules mean for the ports of an account.
func (c *copies) meant(owner string, o *ownersPorts) *meaning {
	m := c.means[owner]
	if m != nil && m.ports == o.version {
		good := true
		for set, version := range m.of {
			good = good && c.versionOf(set) == version
		}
		if good {
			return m
		}
	}
	m = &meaning{ports: o.version, of: map[string]uint64{}}
	var rules []firewall.AccountRules
	for _, account := range slices.Compact([]string{"", owner}) {
		set := api.RuleSet(account)
		m.of[set] = c.versionOf(set)
		rules = append(rules, firewall.AccountRules{Owner: account, Rules: c.sets[set].ruleSpecs()})
	}
	m.fw, m.sets = firewall.Resolve(o.ports, rules, func(set string) []string { return c.sets[set].addresses() })
	for _, set := range m.sets {
		m.of[set] = c.versionOf(set)
	}
	return m
}

// firewall is what the rules mean for ports, by account, and the sets that this needs;
// known is false while nothing is known of rules. Of rules that are everybody's there is an
// entry for each account. It costs what changed since it was asked last, and the number of
// entries; what is in the result is shared and must not be changed.
func (c *copies) firewall(owners map[string]*ownersPorts) (fw api.FirewallSpec, sets []string, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	means := make(map[string]*meaning, len(owners))
	have := map[string]bool{}
	var named []string
	sets = append(sets, api.RuleSet(""))
	for _, owner := range slices.Sorted(maps.Keys(owners)) {
		if owner != "" {
			sets = append(sets, api.RuleSet(owner))
		}
		m := c.meant(owner, owners[owner])
		means[owner] = m
		fw.Rules = append(fw.Rules, m.fw.Rules...)
		named = append(named, m.sets...)
		for _, s := range m.fw.Sets {
			if !have[s.Name] {
				have[s.Name] = true
				fw.Sets = append(fw.Sets, s)
			}
		}
	}
	c.means = means
	slices.SortFunc(fw.Sets, func(a, b api.AddressSet) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(named)
	global := c.sets[api.RuleSet("")]
	return fw, append(sets, slices.Compact(named)...), global.known()
}
