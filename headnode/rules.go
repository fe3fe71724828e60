package headnode

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/firewall"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// rulesRevision holds a random value for each owner, new with every change of a rule
// of the owner, and of an instance of the owner that a rule may be about. Global
// rules have one of their own. Owners that have no part in any rule have none.
const rulesRevision = "rules-revision/"

// takeOverRules removes the revision that a version before kept for all owners.
func takeOverRules(tx store.Tx) error {
	const all = "firewall-revision"
	has, err := store.Has(tx, all)
	if err == nil && has {
		err = tx.Delete(all)
	}
	return err
}

// rulesChange gives the rules of an owner a new revision; without an owner, the global
// ones.
func rulesChange(tx store.Tx, owner string) error {
	return store.Put(tx, rulesRevision+cmp.Or(owner, "global"), inventory.NewRevision())
}

// resolver is what the rules meant at a revision.
type resolver struct {
	mu       sync.Mutex
	revision string
	resolved *firewall.Resolver
}

func (s *Server) routeFirewall(h huma.API) {
	routeObjects(s, h, objects[api.FirewallRule, api.FirewallRuleUpdate]{
		path: "/v1/firewall/rules", thing: "firewall rule", filters: []string{"owner", "global"}, made: ruleMade(), fixed: ruleFixed(),
		about: func(r api.FirewallRule) []api.Event { return ownedBy(r.UUID, r.Owner) },
		list: func(tx store.Tx, q listing) ([]api.FirewallRule, string, error) {
			return firewall.List(tx, firewall.Filter{Owner: q.filter["owner"], Global: q.filter["global"] == "true"}, q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.FirewallRule, error) { return firewall.Get(tx, a["id"]) },
		create: func(tx store.Tx, _ args, r api.FirewallRule) (api.FirewallRule, error) {
			r, err := firewall.Create(tx, r, s.now())
			return r, ruleChanged(tx, r, err)
		},
		update: func(tx store.Tx, a args, u api.FirewallRuleUpdate) (api.FirewallRule, error) {
			r, err := firewall.Update(tx, a["id"], "", u)
			return r, ruleChanged(tx, r, err)
		},
		delete: func(tx store.Tx, a args) error {
			r, err := firewall.Get(tx, a["id"])
			if err == nil {
				err = firewall.Delete(tx, a["id"], "")
			}
			return ruleChanged(tx, r, err)
		},
	})
}

// ruleChanged touches the servers with NICs that a rule is about.
func ruleChanged(tx store.Tx, r api.FirewallRule, err error) error {
	if err == nil {
		err = rulesChange(tx, r.Owner)
	}
	switch {
	case err != nil:
		return err
	case r.Global:
		return touchAll(tx)
	}
	return touchOwner(tx, r.Owner)
}

// touchPeers touches the servers whose rules a change of a NIC changes: its own where a
// rule names its instance, and those where it is a peer of instances that a rule names.
func touchPeers(tx store.Tx, c networks.Change) error {
	before, after := sidesOf(c)
	for _, in := range []*firewall.Instance{before, after} {
		if in == nil {
			continue
		}
		rules, err := rulesOver(tx, in.Owner)
		if err != nil {
			return err
		}
		if len(rules) == 0 {
			continue
		}
		if err := rulesChange(tx, in.Owner); err != nil {
			return err
		}
		r, err := firewall.NewResolver(rules, []firewall.Instance{*in})
		if err != nil {
			return err
		}
		named, peers := r.Reach(in.UUID)
		if named {
			if err := touch(tx, serversOf(c)...); err != nil {
				return err
			}
		}
		for _, owner := range peers {
			if owner == "" {
				return touchAll(tx)
			}
			if err := touchOwner(tx, owner); err != nil {
				return err
			}
		}
	}
	return nil
}

// rulesOver are the rules that may be about instances of an account.
func rulesOver(tx store.Tx, owner string) ([]api.FirewallRule, error) {
	rules, _, err := firewall.List(tx, firewall.Filter{Global: true}, "", 0)
	if err != nil || owner == "" {
		return rules, err
	}
	own, _, err := firewall.List(tx, firewall.Filter{Owner: owner}, "", 0)
	return append(rules, own...), err
}

// serversOf are the servers of all NICs of a change.
func serversOf(c networks.Change) []string {
	var out []string
	for _, n := range []*api.NetworkNIC{c.Before, c.After} {
		if n != nil {
			out = append(out, n.Server)
		}
	}
	for _, n := range slices.Concat(c.Were, c.Others) {
		out = append(out, n.Server)
	}
	return out
}

func hasRules(tx store.Tx, f firewall.Filter) (bool, error) {
	rules, _, err := firewall.List(tx, f, "", 1)
	return len(rules) > 0, err
}

// serverRules says what the rules mean for the ports of a server. Where there are no
// rules it reads no port.
func (s *Server) serverRules(tx store.Tx, server string) (api.FirewallSpec, error) {
	some, err := hasRules(tx, firewall.Filter{})
	if err != nil || !some {
		return api.FirewallSpec{}, err
	}
	ports, err := networks.PortsOfServer(tx, server)
	if err != nil {
		return api.FirewallSpec{}, err
	}
	return s.firewallSpec(tx, ports)
}

// firewallSpec says what the rules mean for some ports.
func (s *Server) firewallSpec(tx store.Tx, ports []api.PortSpec) (api.FirewallSpec, error) {
	if len(ports) == 0 {
		return api.FirewallSpec{}, nil
	}
	r, err := s.resolver.at(tx)
	if err != nil {
		return api.FirewallSpec{}, err
	}
	return r.Spec(ports), nil
}

// at resolves the rules as a transaction sees them; all servers share the result
// until something changes.
func (r *resolver) at(tx store.Tx) (*firewall.Resolver, error) {
	revision := ""
	for it, err := range tx.Scan(rulesRevision, "") {
		if err != nil {
			return nil, err
		}
		revision += it.Key + string(it.Value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resolved != nil && r.revision == revision {
		return r.resolved, nil
	}
	rules, _, err := firewall.List(tx, firewall.Filter{}, "", 0)
	if err != nil {
		return nil, err
	}
	var instances []firewall.Instance
	if len(rules) > 0 {
		if instances, err = ruleInstances(tx); err != nil {
			return nil, err
		}
	}
	resolved, err := firewall.NewResolver(rules, instances)
	if err != nil {
		return nil, err
	}
	r.revision, r.resolved = revision, resolved
	return resolved, nil
}

// ruleInstances are what rules may be about: the NICs that are not servers'.
func ruleInstances(tx store.Tx) ([]firewall.Instance, error) {
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{}, "", 0)
	if err != nil {
		return nil, err
	}
	var out []firewall.Instance
	at := map[string]int{}
	for _, n := range nics {
		if n.BelongsToType == api.BelongsToServer || n.BelongsTo == "" {
			continue
		}
		i, known := at[n.BelongsTo]
		if !known {
			i = len(out)
			at[n.BelongsTo] = i
			out = append(out, firewall.Instance{UUID: n.BelongsTo, Owner: n.Owner, Tags: n.Tags})
		}
		for _, a := range n.Addresses {
			if ip, err := netip.ParseAddr(a.IP); err == nil {
				out[i].Addresses = append(out[i].Addresses, ip)
			}
		}
	}
	return out, nil
}
