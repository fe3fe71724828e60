package headnode

import (
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

func (s *Server) routeNICs(h huma.API) {
	routeObjects(s, h, objects[api.NetworkNIC, api.NICUpdate]{
		path: "/v1/nics", thing: "NIC", filters: []string{"owner", "belongs_to", "server", "network"}, made: nicMade(), fixed: nicFixed(), about: nicEvents,
		list: func(tx store.Tx, q listing) ([]api.NetworkNIC, string, error) {
			f := networks.NICFilter{Owner: q.filter["owner"], BelongsTo: q.filter["belongs_to"]}
			if id := q.filter["server"]; id != "" {
				r, err := inventory.Find(tx, id)
				if err != nil {
					return nil, "", err
				}
				f.Server = r.UUID
			}
			if id := q.filter["network"]; id != "" {
				n, err := networks.FindNetwork(tx, f.Owner, id)
				if err != nil {
					return nil, "", err
				}
				f.Network = n.UUID
			}
			return networks.ListNICs(tx, f, q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.NetworkNIC, error) { return networks.GetNIC(tx, a["id"]) },
		create: func(tx store.Tx, _ args, n api.NetworkNIC) (api.NetworkNIC, error) {
			provided, err := provides(tx, n.Server)
			if err != nil {
				return n, err
			}
			r, found, err := instanceOf(tx, n.BelongsTo)
			if err != nil {
				return n, err
			}
			if found && n.BelongsToType != api.BelongsToServer { // it is the instance's, whatever it was called
				n, _, err = s.addNIC(tx, s.byNobody(), r, n)
				return n, err
			}
			c, err := s.createNIC(tx, n, provided)
			if err == nil && n.BelongsToType == api.BelongsToZone { // said last: what else is wrong is said first
				return n, noInstance(n.BelongsTo)
			}
			return s.nicChanged(tx, c, err)
		},
		update: func(tx store.Tx, a args, u api.NICUpdate) (api.NetworkNIC, error) {
			var provided []string
			if u.Server != nil {
				var err error
				if provided, err = provides(tx, *u.Server); err != nil {
					return api.NetworkNIC{}, err
				}
			}
			n, r, owned, err := ownNIC(tx, a["id"])
			if err != nil {
				return n, err
			}
			if owned {
				return s.changeOwnNIC(tx, s.byNobody(), r, n.MAC, u)
			}
			if r, found, err := joins(tx, n, u); err != nil || found {
				if err == nil && r.UUID == "" {
					err = noInstance(*u.BelongsTo)
				} else if err == nil {
					err = refuse(http.StatusConflict, api.CodeConflict, "delete this one, and give the instance another one with: nereid instance nic add "+r.UUID+" NETWORK", "NIC %s cannot become one of instance %s", n.MAC, r.Name)
				}
				return n, err
			}
			c, err := networks.UpdateNIC(tx, a["id"], u, provided)
			return s.nicChanged(tx, c, err)
		},
		delete: func(tx store.Tx, a args) error {
			n, r, owned, err := ownNIC(tx, a["id"])
			if err != nil {
				return err
			}
			if owned {
				_, err = s.removeNIC(tx, s.byNobody(), r, n.MAC)
				return err
			}
			c, err := networks.DeleteNIC(tx, s.now(), a["id"])
			_, err = s.nicChanged(tx, c, err)
			return err
		},
	})
}

// provides are the NIC tags of a server that must exist; of none, any.
func provides(tx store.Tx, server string) ([]string, error) {
	if server == "" {
		return nil, nil
	}
	if _, err := inventory.Get(tx, server); err != nil {
		return nil, err
	}
	tags, err := networks.ProvidedTags(tx, server)
	if tags == nil {
		tags = []string{}
	}
	return tags, err
}

// nicChanged does what follows from a change of a NIC: its VNI's map, the addresses that
// rules name, and ways outside. No server's record is written but for the server's own
// underlay address.
func (s *Server) nicChanged(tx store.Tx, c networks.Change, err error) (api.NetworkNIC, error) {
	var out api.NetworkNIC
	if err != nil {
		return out, err
	}
	if c.After != nil {
		out = *c.After
	}
	tellNIC(tx, c)
	if err := alsoNICs(tx, c); err != nil {
		return out, err
	}
	if err := alsoOutside(tx, c); err != nil {
		return out, err
	}
	if err := keepsForwards(tx, c); err != nil {
		return out, err
	}
	accounts, err := accountsMoved(tx, c)
	if err != nil {
		return out, err
	}
	if err := remap(tx, c); err != nil {
		return out, err
	}
	if err := moveMembers(tx, c); err != nil {
		return out, err
	}
	for _, n := range []*api.NetworkNIC{c.Before, c.After} {
		switch {
		case n == nil:
		case n.Underlay: // it is in the server's spec
			if err = touch(tx, n.Server); err == nil {
				err = s.reroute(tx, n.Server, accounts...)
			}
		case n.VNI != 0 && n.Server != "":
			var spreads bool
			if spreads, err = spreadsNAT(tx, c, *n); err == nil && spreads {
				err = s.leadOutAt(tx, n.Owner, n.Server)
			}
		case n.BelongsToType == api.BelongsToServer:
			err = tellNAT(tx, n.Server)
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// accountsMoved are the accounts of a server that gets, or loses, its underlay address:
// those that are there before anything follows from that.
func accountsMoved(tx store.Tx, c networks.Change) ([]string, error) {
	for _, n := range []*api.NetworkNIC{c.Before, c.After} {
		if n != nil && n.Underlay {
			return accountsAt(tx, n.Server)
		}
	}
	return nil, nil
}

// spreadsNAT says whether a NIC of a change made its account's fabric come to a server,
// or leave it. Other NICs change nothing of the ways outside.
func spreadsNAT(tx store.Tx, c networks.Change, n api.NetworkNIC) (bool, error) {
	if b, a := c.Before, c.After; b != nil && a != nil && b.VNI != 0 && a.VNI != 0 && b.Server == a.Server && b.Owner == a.Owner {
		return false, nil
	}
	return networks.Newcomer(tx, n)
}

// remap brings the map of a NIC's VNI up to date, or for an underlay address the
// maps of all VNIs behind it.
func remap(tx store.Tx, c networks.Change) error {
	if n := c.Before; n != nil && n.VNI != 0 {
		if err := unmap(tx, *n, c.After); err != nil {
			return err
		}
	}
	if n := c.After; n != nil && n.VNI != 0 && n.Server != "" {
		under, err := underlay(tx, n.Server)
		if err != nil || !under.IsValid() {
			return err
		}
		if err := mapNIC(tx, *n, under); err != nil {
			return err
		}
	}
	for _, n := range []*api.NetworkNIC{c.Before, c.After} {
		if n != nil && n.Underlay {
			return rehome(tx, n.Server)
		}
	}
	return nil
}

func mapNIC(tx store.Tx, n api.NetworkNIC, under netip.Addr) error {
	var entries []api.MapEntry
	for _, a := range n.Addresses {
		entries = append(entries, api.MapEntry{IP: a.IP, MAC: n.MAC, Underlay: under.String()})
	}
	_, err := fabric.Put(tx, n.VNI, entries...)
	return err
}

// unmap takes out the addresses that a NIC had and has no more, or that are on no
// server any more.
func unmap(tx store.Tx, before api.NetworkNIC, after *api.NetworkNIC) error {
	keep := map[string]bool{}
	if after != nil && after.Server != "" && after.VNI == before.VNI {
		for _, a := range after.Addresses {
			keep[a.IP] = true
		}
	}
	var gone []netip.Addr
	for _, a := range before.Addresses {
		if ip, err := netip.ParseAddr(a.IP); err == nil && !keep[a.IP] {
			gone = append(gone, ip)
		}
	}
	_, err := fabric.Delete(tx, before.VNI, gone...)
	return err
}

// underlay is the address behind which a server's NICs are: IPv4 where it has one.
func underlay(tx store.Tx, server string) (netip.Addr, error) {
	us, err := networks.UnderlayOf(tx, server)
	if err != nil || len(us) == 0 {
		return netip.Addr{}, err
	}
	return us[0].Address.Addr(), nil
}

// rehome maps all NICs of a server to the underlay address it has now. Without
// one their entries are taken out.
func rehome(tx store.Tx, server string) error {
	under, err := underlay(tx, server)
	if err != nil {
		return err
	}
	if err := rehomeKept(tx, server, under); err != nil {
		return err
	}
	nics, err := networks.NICsOfServer(tx, server)
	if err != nil {
		return err
	}
	for _, n := range nics {
		if n.VNI == 0 {
			continue
		}
		if !under.IsValid() {
			err = unmap(tx, n, nil)
		} else {
			err = mapNIC(tx, n, under)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
