package headnode

import (
	"context"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/firewall"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// takeOverRules removes what versions before kept for all owners to know when rules
// change.
func takeOverRules(tx store.Tx) error {
	var old []string
	for _, prefix := range []string{"firewall-revision", "rules-revision/"} {
		for it, err := range tx.Scan(prefix, "") {
			if err != nil {
				return err
			}
			old = append(old, it.Key)
		}
	}
	for _, key := range old {
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// publishRules puts the rules that an older head node left in the store into the sets
// that servers follow.
func (s *Server) publishRules(ctx context.Context) error {
	for after, more := "", true; more; {
		var next string
		err := s.store.Update(ctx, func(tx store.Tx) (err error) {
			next, err = firewall.TakeOver(tx, after, members(tx))
			return err
		})
		if err != nil {
			return err
		}
		after, more = next, next != ""
	}
	return nil
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
			if err == nil {
				err = firewall.Publish(tx, nil, &r, members(tx))
			}
			return r, err
		},
		update: func(tx store.Tx, a args, u api.FirewallRuleUpdate) (api.FirewallRule, error) {
			before, err := firewall.Get(tx, a["id"])
			if err != nil {
				return before, err
			}
			r, err := firewall.Update(tx, a["id"], "", u)
			if err == nil {
				err = firewall.Publish(tx, &before, &r, members(tx))
			}
			return r, err
		},
		delete: func(tx store.Tx, a args) error {
			r, err := firewall.Get(tx, a["id"])
			if err == nil {
				err = firewall.Delete(tx, a["id"], "")
			}
			if err == nil {
				err = firewall.Publish(tx, &r, nil, members(tx))
			}
			return err
		},
	})
}

// moveMembers brings the sets of addresses that rules name up to date with a change of a
// NIC.
func moveMembers(tx store.Tx, c networks.Change) error {
	moved := []firewall.Moved{{Before: memberOf(c.Before), After: memberOf(c.After)}}
	for i := range c.Others {
		moved = append(moved, firewall.Moved{Before: memberOf(&c.Were[i]), After: memberOf(&c.Others[i])})
	}
	return firewall.Move(tx, moved...)
}

// memberOf is a NIC as rules know it; nil for none, and for one that rules are not about:
// servers' NICs, and those of nothing.
func memberOf(n *api.NetworkNIC) *firewall.Member {
	if n == nil || n.BelongsToType == api.BelongsToServer || n.BelongsTo == "" {
		return nil
	}
	m := firewall.Member{MAC: n.MAC, Instance: firewall.Instance{UUID: n.BelongsTo, Owner: n.Owner, Tags: n.Tags}}
	for _, a := range n.Addresses {
		if ip, err := netip.ParseAddr(a.IP); err == nil {
			m.Addresses = append(m.Addresses, ip)
		}
	}
	return &m
}

// members lists what rules are about.
func members(tx store.Tx) firewall.Members {
	return func(owner string) ([]firewall.Member, error) {
		nics, _, err := networks.ListNICs(tx, networks.NICFilter{Owner: owner}, "", 0)
		var out []firewall.Member
		for i := range nics {
			if m := memberOf(&nics[i]); m != nil {
				out = append(out, *m)
			}
		}
		return out, err
	}
}

// rulesOn says what the rules mean for a NIC.
func rulesOn(tx store.Tx, n api.NetworkNIC) (api.FirewallSpec, error) {
	var rules []api.FirewallRule
	filters := []firewall.Filter{{Global: true}}
	if n.Owner != "" {
		filters = append(filters, firewall.Filter{Owner: n.Owner})
	}
	for _, f := range filters {
		some, _, err := firewall.List(tx, f, "", 0)
		if err != nil {
			return api.FirewallSpec{}, err
		}
		rules = append(rules, some...)
	}
	r, err := firewall.NewResolver(rules, []firewall.Instance{{UUID: n.BelongsTo, Owner: n.Owner, Tags: n.Tags}})
	if err == nil {
		err = r.Load(tx)
	}
	if err != nil {
		return api.FirewallSpec{}, err
	}
	return r.Spec([]api.PortSpec{{MAC: n.MAC, Instance: n.BelongsTo, Owner: n.Owner, Firewall: true}}), nil
}
