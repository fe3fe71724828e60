package agent

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"nereid/agent/router"
	"nereid/api"
)

// fabricOwners are the accounts that this server has a router of, by what it knows: those
// with ports on their fabrics, each with the VNIs of these, and those that it is a gateway
// of. It is called with mu held.
func (c *copies) fabricOwners(ports []api.PortSpec) map[string][]uint32 {
	hosts := map[string][]uint32{}
	for i := range ports {
		if p := &ports[i]; p.VNI != 0 && !slices.Contains(hosts[p.Owner], p.VNI) {
			hosts[p.Owner] = append(hosts[p.Owner], p.VNI)
		}
	}
	for key := range c.own().items() {
		if _, there := hosts[key]; !there && key != api.SelfKey {
			hosts[key] = nil
		}
	}
	return hosts
}

// own is what is known of what this server has to do with NAT; nil: nothing.
func (c *copies) own() *copied { return c.sets[c.nat] }

// items are the values that a set has, by key.
func (c *copied) items() map[string]json.RawMessage {
	if c == nil {
		return nil
	}
	return c.Items
}

// known says whether all of a set has come once.
func (c *copied) known() bool { return c != nil && c.Follow.Epoch != "" }

// valuesOf are the values of a set, by key. What cannot be read was told of when it came.
func valuesOf[V any](c *copied) (out []V) {
	for _, key := range slices.Sorted(maps.Keys(c.items())) {
		var v V
		if json.Unmarshal(c.Items[key], &v) == nil {
			out = append(out, v)
		}
	}
	return out
}

// fabricSets are the sets that VNIs and routers are computed from.
func (c *copies) fabricSets(ports []api.PortSpec) (sets []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nat != "" {
		sets = append(sets, c.nat)
	}
	for _, owner := range slices.Sorted(maps.Keys(c.fabricOwners(ports))) {
		sets = append(sets, api.NetworkSet(owner), api.NATSet(owner))
	}
	return sets
}

// route fills in the VNIs and routers of a network for the ports that are to be there. A
// set that has not come is not an empty one: where one of an account is missing, what was
// before stays of the account, and all of it where the server's own is.
func (c *copies) route(s *api.NetworkSpec, ports []api.PortSpec, before *api.NetworkSpec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before == nil {
		before = &api.NetworkSpec{}
	}
	s.VNIs, s.Routers = nil, nil
	switch {
	case s.Underlay == nil:
		return
	case !c.own().known():
		s.VNIs, s.Routers = before.VNIs, before.Routers
		return
	}
	var self api.ServerNAT
	_ = json.Unmarshal(c.own().Items[api.SelfKey], &self) // none, or what was told of when it came
	var accounts []router.Account
	missing := map[string]bool{}
	for owner, hosts := range c.fabricOwners(ports) {
		nets, nat := c.sets[api.NetworkSet(owner)], c.sets[api.NATSet(owner)]
		if !nets.known() || !nat.known() {
			missing[owner] = true
			continue
		}
		accounts = append(accounts, router.Account{Owner: owner, Networks: valuesOf[api.AccountNetwork](nets), NAT: valuesOf[api.AccountNAT](nat), Hosts: hosts})
	}
	s.VNIs, s.Routers = router.Build(self, accounts)
	if len(missing) == 0 {
		return
	}
	for _, v := range before.VNIs {
		if missing[v.Owner] {
			s.VNIs = append(s.VNIs, v)
		}
	}
	for _, r := range before.Routers {
		if missing[r.Owner] {
			s.Routers = append(s.Routers, r)
		}
	}
	slices.SortFunc(s.VNIs, func(a, b api.VNISpec) int { return cmp.Compare(a.VNI, b.VNI) })
	slices.SortFunc(s.Routers, func(a, b api.RouterSpec) int { return cmp.Compare(a.Owner, b.Owner) })
}

// serve says which server this is, whose own set is followed. It reports whether that is
// new.
func (c *copies) serve(uuid string) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := api.ServerNATSet(uuid)
	if uuid == "" || c.nat == set {
		return false
	}
	c.nat = set
	return true
}

// again asks also for the sets that were refused.
func (c *copies) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sets {
		s.refused = false
	}
}

// isCopy says whether a set is one that copies follow.
func isCopy(set string) bool {
	_, _, isAccounts := api.AccountOfSet(set)
	return isAccounts || isServerNAT(set)
}

func isServerNAT(set string) bool {
	return strings.HasPrefix(set, "server/") && strings.HasSuffix(set, "/nat")
}
